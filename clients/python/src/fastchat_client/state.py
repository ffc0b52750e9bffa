"""What a bot remembers over restarts: its place in each room, and the secret of its guest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fastchat_client.events import Position

__all__ = ["State", "StateError"]

_VERSION = 1


class StateError(Exception):
    """The file of a state cannot be read or written. The message names it."""


class State:
    """The state of a bot, in a file that is replaced as a whole, or in memory if `file` is None.

    The file is readable for its owner only, because the secret in it makes anybody the same guest.
    """

    def __init__(self, file: Path | None) -> None:
        self.session: str | None = None
        self.positions: dict[str, Position] = {}
        self._file = file
        self._stored = b""

    @classmethod
    def load(cls, file: Path | None) -> State:
        """Read a state; it is empty if there is no file. Raises StateError."""
        state = cls(file)
        if file is None:
            return state
        try:
            state._restore(json.loads(file.read_bytes()))
        except FileNotFoundError:
            return state
        except OSError as error:
            raise StateError(f"{file} cannot be read: {error.strerror}.") from None
        except (AttributeError, KeyError, TypeError, ValueError):
            raise StateError(f"{file} is not the state of a bot.") from None
        return state

    def _restore(self, fields: dict[str, Any]) -> None:
        if fields["version"] != _VERSION:
            raise ValueError(fields["version"])
        self.session = fields["session"]
        self.positions = {
            room: Position(str(each["epoch"]), int(each["offset"]), each["timestamp"])
            for room, each in fields["rooms"].items()
        }

    def save(self) -> None:
        """Write the file, if something has changed. Raises StateError.

        A reader, and a bot that starts after a crash, finds the old state or the new one.
        """
        if self._file is None:
            return
        rooms = {room: position._asdict() for room, position in self.positions.items()}
        fields = {"version": _VERSION, "session": self.session, "rooms": rooms}
        data = json.dumps(fields, indent=1).encode() + b"\n"
        if data == self._stored:
            return
        draft = self._file.with_name(f"{self._file.name}.new")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
            draft.replace(self._file)
        except OSError as error:
            raise StateError(f"{self._file} cannot be written: {error.strerror}.") from None
        self._stored = data
