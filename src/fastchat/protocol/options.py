"""The options of a room. docs/protocol.md is the reference ("Options of a room")."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["RoomOptions"]


class RoomOptions(NamedTuple):
    """The options of a room; these are the values of a room for which nothing was set.

    * `title` and `topic`: for people; either can be empty.
    * `closed`: nobody can join or write. Those who are in the room stay and read.
    * `read_only`: nobody can write.
    * `slow_s`: the seconds for which a user has to wait between two messages; 0 for none.
    * `max_messages`: the publications that the room keeps; 0 for as many as the server's other
      rooms.

    Moderators, keys and webhooks are not bound by `closed`, `read_only` and `slow_s`.
    """

    title: str = ""
    topic: str = ""
    closed: bool = False
    read_only: bool = False
    slow_s: int = 0
    max_messages: int = 0

    def changed(self) -> dict[str, Any]:
        """The options that differ from those of a room for which nothing was set, by name."""
        return {
            name: value
            for name, value in self._asdict().items()
            if value != RoomOptions._field_defaults[name]
        }
