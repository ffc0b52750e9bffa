"""The users that moderators have removed from rooms, and until when they must stay out."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from fastchat.clocks import STEP_S
from fastchat.errors import SettingError

__all__ = ["FILE_NAME", "Removals"]

logger = logging.getLogger("fastchat.moderation")

#: In the data directory.
FILE_NAME = "removals.json"
#: Of the file. The first version was a list of rows.
VERSION = 2
#: In the place of a room's name, for all rooms.
ALL_ROOMS = "*"
#: If there are more, the removal that ends soonest is forgotten.
MAX_REMOVALS = 10_000


class Removals:
    """Removals in force, by room and the user's public id. With a `file`, they survive a restart.

    `user_of` makes a public id of a credential, which a file of the first version has instead.
    `steady` returns seconds by a clock that nobody sets (by default `clock`), so a removal lasts as
    long as the moderator has said. The file contains times by `clock`, which returns seconds since
    1970, because other clocks do not survive a restart. If the file is damaged, that is logged, and
    the removals in it are lost. Raises SettingError if this user has no right to read the file.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        file: Path | None = None,
        *,
        user_of: Callable[[str], str],
        steady: Callable[[], float] | None = None,
    ) -> None:
        self._clock = clock
        self._steady = steady or clock
        self._file = file
        self._user_of = user_of
        self._is_saved = True  # whether the file has all removals
        self._ahead_s = 0.0  # by how much `clock` was ahead of `steady` when the file was written
        self._is_failing = False
        self._until_s: dict[tuple[str, str], float] = {}  # by `steady`
        if file is not None:
            self._read(file)

    def __len__(self) -> int:
        return len(self._until_s)

    def add(self, room: str | None, user: str, seconds: int, *, save: bool = True) -> None:
        """Keep a user out for so many seconds from now, even if a longer time was set before.

        If `room` is None, the user must stay out of all rooms. Without `save`, the next `tick`
        writes the file.
        """
        now = self._steady()
        self._until_s = {who: end for who, end in self._until_s.items() if end > now}
        self._until_s[room or ALL_ROOMS, user] = now + seconds
        if len(self._until_s) > MAX_REMOVALS:
            del self._until_s[min(self._until_s, key=self._until_s.__getitem__)]
        self._is_saved = False
        if save:
            self.tick()

    def lift(self, room: str | None, user: str, *, save: bool = True) -> bool:
        """Let a user come in again; return whether they had to stay out. See `add`."""
        until_s = self._until_s.pop((room or ALL_ROOMS, user), None)
        if until_s is None:
            return False
        self._is_saved = False
        if save:
            self.tick()
        return until_s > self._steady()

    def in_force(self) -> list[tuple[str | None, str, float]]:
        """The room, the user and the seconds that are left, of those that end soonest first.

        The room is None for all rooms.
        """
        now = self._steady()
        rows = sorted((until_s, who) for who, until_s in self._until_s.items() if until_s > now)
        return [
            (None if room == ALL_ROOMS else room, user, until_s - now)
            for until_s, (room, user) in rows
        ]

    def tick(self) -> None:
        """Write the file if it lacks a removal or the clock was set; to be called once a second.

        The log says once that this fails, and once that it works again.
        """
        if self._until_s and abs(self._clock() - self._steady() - self._ahead_s) > STEP_S:
            self._is_saved = False
        if self._is_saved or self._file is None:
            return
        try:
            self._write(self._file)
        except OSError as error:
            if not self._is_failing:
                logger.error(
                    "%s cannot be written, and a restart would lose removals; will retry: %s",
                    self._file,
                    error.strerror,
                )
            self._is_failing = True
            return
        if self._is_failing:
            logger.info("%s is written again", self._file)
        self._is_failing = False
        self._is_saved = True

    def remaining_s(self, room: str, user: str) -> float:
        """The seconds for which a user must still stay out; 0 if the user can come in."""
        if not self._until_s:
            return 0.0
        here, everywhere = (self._until_s.get((each, user), 0.0) for each in (room, ALL_ROOMS))
        return max(0.0, max(here, everywhere) - self._steady())

    def _read(self, file: Path) -> None:
        ahead_s = self._ahead_s = self._clock() - self._steady()
        try:
            content = json.loads(file.read_bytes())
            if type(content) is list:  # the first version
                rows = [(room, self._user_of(author), end) for room, author, end in content]
            elif content["version"] == VERSION:
                rows = content["removals"]
            else:
                raise ValueError("it is the file of a newer fastchat")
            for room, user, end in rows:
                self._until_s[str(room), str(user)] = float(end) - ahead_s
        except FileNotFoundError:
            pass
        except PermissionError:
            raise SettingError(
                f"--data: this user has no right to read {file}; give it to the user that runs the "
                "server."
            ) from None
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            logger.exception("%s cannot be read; the removals in it are lost", file)

    def _write(self, file: Path) -> None:
        ahead_s = self._clock() - self._steady()
        rows = [[room, user, end + ahead_s] for (room, user), end in self._until_s.items()]
        written = file.with_suffix(".new")
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as opened:
            json.dump({"version": VERSION, "removals": rows}, opened)
        written.replace(file)
        self._ahead_s = ahead_s
