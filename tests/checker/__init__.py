"""A checker of the chat's promise, in the spirit of Jepsen.

Recording clients write down all that they send and see while a nemesis breaks things
(`client`, `nemesis`, `run`); afterwards `check` compares what they saw with each other
and with what the server has kept. It is pure: records in, anomalies out; its own tests
plant each anomaly and expect it to be found.
"""

from __future__ import annotations

from checker.check import Anomaly, check
from checker.records import Final, Joined, Kind, Live, Lost, Position, Records, Seen, Sent

__all__ = [
    "Anomaly",
    "Final",
    "Joined",
    "Kind",
    "Live",
    "Lost",
    "Position",
    "Records",
    "Seen",
    "Sent",
    "check",
]
