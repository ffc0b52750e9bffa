"""The options of rooms: how they are stored, and a machine's copies of those of its rooms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from fastchat.history.options import options_of
from fastchat.ledger.session import Session
from fastchat.protocol.options import RoomOptions

__all__ = ["OptionCopies", "read_options", "store_options"]

_READ = "SELECT value FROM options WHERE room = $1"
_SET = "SELECT value, line FROM set_options_1($1, $2, $3, $4)"
_USUAL = orjson.dumps(RoomOptions()._asdict()).decode()


async def read_options(session: Session, room: str) -> RoomOptions:
    """The options of a room in the ledger. Raises LedgerError."""
    rows = await session.fetch(_READ, room)
    return options_of(orjson.loads(rows[0][0])) if rows else RoomOptions()


async def store_options(
    session: Session, room: str, changes: Mapping[str, Any]
) -> tuple[RoomOptions, str]:
    """Change some options of a room; returns all of them, and the notice. Raises LedgerError."""
    changed = orjson.dumps(changes).decode()
    ((value, line),) = await session.store(_SET, room, changed, _USUAL)
    return options_of(orjson.loads(value)), line


class OptionCopies:
    """The options of open rooms, from what was read, and from notices in any order.

    `changed` is called with options of which the members of a room have not heard.
    """

    def __init__(self, changed: Callable[[str, RoomOptions], None]) -> None:
        self._changed = changed
        #: The options of the open rooms that have any.
        self.in_use: dict[str, RoomOptions] = {}
        #: The serial of what each open room has; None until its options were read.
        self._serials: dict[str, int | None] = {}

    def open(self, room: str) -> None:
        """Begin a copy. Notices are taken in from now on."""
        self._serials[room] = None

    def forget(self, room: str) -> None:
        self._serials.pop(room, None)
        self.in_use.pop(room, None)

    def take(self, room: str, values: Mapping[str, Any], serial: int) -> None:
        """Take over options, unless newer ones are known or the room is not open."""
        known = self._serials.get(room, serial)
        if known is not None and known >= serial:
            return
        before, options = self.in_use.get(room, RoomOptions()), options_of(dict(values))
        self._serials[room] = serial
        if options.changed():
            self.in_use[room] = options
        else:
            self.in_use.pop(room, None)
        if known is not None and options != before:
            self._changed(room, options)
