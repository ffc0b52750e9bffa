"""The options of rooms, in the file of a history. All of them are in memory, too."""

from __future__ import annotations

from typing import Any

import apsw
import orjson

from fastchat.database import select
from fastchat.protocol.options import RoomOptions

__all__ = ["OPTIONS_TABLE", "StoredOptions", "options_of"]

OPTIONS_TABLE = """
CREATE TABLE options (
    room TEXT PRIMARY KEY,          -- the name; the room can be without publications
    value TEXT NOT NULL             -- JSON: the options that were set, by name
) STRICT, WITHOUT ROWID;
"""


def options_of(values: dict[str, Any]) -> RoomOptions:
    """Options from JSON. Those that only a newer version knows are left out."""
    known = {name: value for name, value in values.items() if name in RoomOptions._fields}
    return RoomOptions(**known)


class StoredOptions(dict[str, RoomOptions]):
    """The options of each room that has any, by its name."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        rows = select(db, "SELECT room, value FROM options")
        super().__init__((room, options_of(orjson.loads(value))) for room, value in rows)

    def write(self, room: str, options: RoomOptions) -> None:
        """Write the options of a room to the file, within a transaction; `note` follows it."""
        if changed := options.changed():
            self._db.execute(
                "INSERT OR REPLACE INTO options (room, value) VALUES (?, ?)",
                (room, orjson.dumps(changed).decode()),
            )
        else:
            self._db.execute("DELETE FROM options WHERE room = ?", (room,))

    def note(self, room: str, options: RoomOptions) -> None:
        """Take over what was committed."""
        if options.changed():
            self[room] = options
        else:
            self.pop(room, None)
