"""What all sessions of a process work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastchat.chat import Chat
from fastchat.connections.registry import Sessions
from fastchat.hub import Hub
from fastchat.limits.commands import Throttle
from fastchat.limits.connections import Admission
from fastchat.metrics import Metrics

__all__ = ["Context"]


@dataclass(frozen=True, slots=True)
class Context:
    """The objects that every session of a process uses; built once, and the same for all.

    A dataclass and not a NamedTuple, because its fields are read for each message: a slot is
    read faster than an item of a tuple by its name.

    * ``max_message_bytes`` bounds a whole message, however many fragments it has.
    * ``clock`` returns monotonic seconds.
    """

    chat: Chat
    hub: Hub
    sessions: Sessions
    throttle: Throttle
    admission: Admission
    metrics: Metrics
    clock: Callable[[], float]
    max_message_bytes: int
