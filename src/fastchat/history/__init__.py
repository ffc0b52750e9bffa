"""Histories: the numbered publications of each room, as far back as they are stored.

`sqlite` and `memory` implement the contract `History`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from fastchat.errors import CommandError
from fastchat.protocol import Draft, Message, Position, Publication
from fastchat.protocol.options import RoomOptions

__all__ = ["Cursor", "Duplicate", "Erasure", "History", "Outcome", "Page", "StoredStream"]


class Duplicate(NamedTuple):
    """The outcome of a draft that repeats a message: the same user, room and `id`.

    `offset` is that of the message that was published first.
    """

    room: str
    id: str
    offset: int


#: Where a search through all publications goes on: texts and numbers, whose meaning is private.
Cursor = Sequence[str | int]
#: The outcome of a draft: it is published, or is a repetition, or is refused.
Outcome = Publication | Duplicate | CommandError


class Page(NamedTuple):
    """Some messages of a room, oldest first.

    `more` says whether the history has further messages in the direction of the request.
    """

    publications: list[Message]
    more: bool


class StoredStream(NamedTuple):
    """A room in a history.

    `last_at` is the timestamp of its newest publication; None if nothing is stored. `size` is
    about how many bytes its publications take.
    """

    room: str
    epoch: str
    head: int
    last_at: str | None
    size: int


class Erasure(NamedTuple):
    """How many messages were erased, how many others have lost a reaction, and in which rooms."""

    messages: int
    reactions: int
    rooms: frozenset[str]


class History(Protocol):
    """The contract of every history. `tests/contracts/history.py` tests it.

    * A room starts at offset 0, with an epoch that does not change while nothing is published.
      Its publications are numbered 1, 2, 3 … without a gap. An offset is never used twice in
      one epoch. If a room's history is lost, the room gets another epoch.
    * `append` numbers and stores all of its drafts or none of them, before it returns. Every
      later read sees them.
    * Reads return messages in their present state (`fastchat.history.changes`). After a
      deletion, no read returns the deleted text.
    * A history stores the newest publications of each room, and drops the oldest first.

    If the disk fails, every method except `prune` raises HistoryError and changes nothing.
    """

    @property
    def user_key(self) -> bytes:
        """The secret that makes public ids of users (`fastchat.history.users`)."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether `append` and `prune` would wait for the disk now. Other threads change it.

        It is true for at most 0.3 s at once, so a caller can wait until it is false.
        """
        ...

    def append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Number and store `drafts` in order; return one outcome for each draft.

        The outcome is a Duplicate if the history remembers that the user has published a
        message with the same `id` in the room. It is a CommandError if the change that the
        draft asks for is not allowed. Neither outcome changes the room.
        """
        ...

    def check(self) -> None:
        """Raise HistoryError if `append` would fail because of the disk or its directory.

        The error is a HistoryAwayError if the file is not in its directory any more. The owner
        calls this method about once a second. A call takes about 10 µs; after an append that has
        failed, it takes as long as an append.
        """
        ...

    def position(self, room: str) -> Position:
        """The end of a room's stream: its epoch, and its newest publication.

        The timestamp is None if there is none, or if the history does not store it any more.
        """
        ...

    def since(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        """All publications after `position`, oldest first.

        The result is complete or None. It is None if the epoch is not the room's, if
        `position` is ahead of the room, if the history has dropped some of the publications,
        or if there are more than `limit`. It is also None if `position` has a timestamp, and the
        publication at its offset has another one: then the client has seen publications that
        this history never had. If that publication was dropped, nothing can be compared.
        """
        ...

    def following(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        """The oldest publications after `position`, at most `limit`.

        The result is None in the same cases as that of `since`, but not because there are more.
        """
        ...

    def before(self, room: str, offset: int | None, limit: int) -> Page:
        """The newest messages below `offset`, at most `limit`; None means the end of the room."""
        ...

    def after(self, room: str, offset: int, limit: int) -> Page:
        """The oldest stored messages above `offset`, at most `limit`."""
        ...

    async def search(self, room: str, query: str, limit: int) -> list[Message]:
        """The newest `limit` messages that match `query`, newest first.

        `fastchat.history.search` defines which messages match.
        """
        ...

    def find_alike(self, room: str) -> str | None:
        """A room with publications whose name looks like that of `room`; None if there is none.

        It is `room` itself if that room has publications. `fastchat.protocol.names.name_key`
        says which names look alike.
        """
        ...

    # Rooms and users

    @property
    def options(self) -> Mapping[str, RoomOptions]:
        """The options of all rooms that have any. They stay when publications are dropped."""
        ...

    def set_options(self, room: str, options: RoomOptions) -> None:
        """Store the options of a room, in the place of all earlier ones."""
        ...

    def streams(self, prefix: str, after: str, limit: int) -> list[StoredStream]:
        """The first rooms by name that were published in, or have options.

        Their names begin with `prefix` and come after `after`, by code points.
        """
        ...

    def delete_room(self, room: str) -> bool:
        """Delete a room's publications and options; returns False if it has neither.

        Every later read finds an empty room, with another epoch.
        """
        ...

    def published_by(
        self, user: str, after: Cursor | None, limit: int
    ) -> tuple[list[Publication], Cursor | None]:
        """At most `limit` publications of a user, ordered by room and offset, and a cursor.

        A call looks at a limited number of publications of all users, so the list can be empty
        although others follow. The next call goes on after the cursor, which is None at the end.
        """
        ...

    def erase_user(self, user: str, after: Cursor | None) -> tuple[Erasure, Cursor | None]:
        """Erase what a user has said, in steps like those of `published_by`.

        The user's messages become deleted, and have no id any more. All their publications get
        `ERASED_USER` and `ERASED_NAME`. Their reactions are taken from messages. The offsets stay.
        """
        ...

    def prune(self) -> None:
        """Drop a limited number of publications that are too old.

        The owner calls it about once a second. It never raises: if the disk fails, a later
        call drops the publications.
        """
        ...

    def close(self) -> None:
        """Release the files. No method may be called afterwards."""
        ...
