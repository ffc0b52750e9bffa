"""A checker of the chat's promises, in the spirit of Jepsen.

Recording clients write down all that they send and receive while a nemesis breaks things (`client`,
`nemesis`, `run`). Afterwards `check` compares the records with each other and with what the server
has stored. The check is pure: records go in and anomalies come out. Its own tests plant each
anomaly, which the check must find.
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
