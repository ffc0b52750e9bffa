"""A history in memory: the newest publications of each room, lost when the process ends."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from fastchat.errors import CommandError
from fastchat.history import Cursor, Duplicate, Erasure, Outcome, Page, StoredStream
from fastchat.history.changes import amend, put, without_said
from fastchat.history.epochs import epoch_of
from fastchat.history.search import matcher
from fastchat.history.users import new_user_key
from fastchat.protocol import Draft, Message, MessageDraft, Position, Publication
from fastchat.protocol.names import name_key
from fastchat.protocol.options import RoomOptions

__all__ = ["MemoryHistory"]

#: Estimated memory of a publication without its text: the tuple, the headers of its strings,
#: and its entry in the index of ids. `max_bytes` is only as exact as this estimate.
_OVERHEAD_BYTES = 600
#: Characters that a search examines before other callbacks of the loop run: about a millisecond. A
#: message counts as `_MESSAGE_CHARS` characters more than its text has.
_SEARCH_STEP_CHARS = 10_000
_MESSAGE_CHARS = 50


class _Log:
    """The publications of one room, with offsets `first`, `first` + 1 … without a gap.

    `by_id` has the offset of each message with an `id` in `publications`, by user and id.
    """

    __slots__ = ("by_id", "epoch", "first", "publications")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.first = 1  # the offset of publications[0]
        self.publications: list[Publication] = []
        self.by_id: dict[tuple[str, str], int] = {}

    @property
    def next(self) -> int:
        return self.first + len(self.publications)

    def find(self, offset: int) -> Publication | None:
        index = offset - self.first
        return self.publications[index] if 0 <= index < len(self.publications) else None

    def position(self) -> Position:
        newest = self.publications[-1].timestamp if self.publications else None
        return Position(self.epoch, self.next - 1, newest)

    def change(self, message: Message) -> int:
        """Replace a message by its new state; return how many bytes the room grows, estimated."""
        replaced = put(self.publications, message.offset - self.first, message)
        return sum(_cost(new) - _cost(old) for old, new in replaced)

    def drop(self, count: int) -> int:
        """Drop the oldest `count` publications; return how many bytes that frees, estimated."""
        freed = 0
        for publication in self.publications[:count]:
            freed += _cost(publication)
            if isinstance(publication, Message) and publication.id is not None:
                del self.by_id[publication.user, publication.id]
        del self.publications[:count]
        self.first += count
        return freed


class MemoryHistory:
    """Implements `fastchat.history.History`.

    * Each room stores its newest `max_messages` publications, and at most an eighth more.
    * All rooms together store about `max_bytes`. If they have more, the room with the longest
      silence loses its oldest publications. A room without any left is forgotten.
    * An `id` is remembered as long as its message is stored.

    `new_generation` returns a generation that no history has had (`fastchat.history.epochs`). It
    is called at the start, and each time that a room is forgotten: the room would begin again at
    offset 1, so it must not get the same epoch. `user_key` is the secret that makes public ids of
    users; None for a new one.
    """

    def __init__(
        self,
        *,
        max_messages: int,
        new_generation: Callable[[], bytes],
        user_key: bytes | None = None,
        max_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        self.user_key = new_user_key() if user_key is None else user_key
        self._max_messages = max_messages
        # Rooms are trimmed in steps, because deleting from the head of a list takes O(n).
        self._slack = max_messages // 8
        self._max_bytes = max_bytes
        self._new_generation = new_generation
        self._generation = new_generation()
        self._bytes = 0
        self._logs: OrderedDict[str, _Log] = OrderedDict()  # longest silence first
        # The rooms in `_logs`, by what their names look like.
        self._looks: dict[str, dict[str, None]] = {}
        self._options: dict[str, RoomOptions] = {}

    @property
    def is_busy(self) -> bool:
        return False

    def append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        return [self._append(draft) for draft in drafts]

    def _append(self, draft: Draft) -> Outcome:
        room = draft.room
        log = self._log(room)
        offset = log.next
        if isinstance(draft, MessageDraft):
            if (id := draft.id) is not None:
                known = log.by_id.setdefault((draft.user, id), offset)
                if known != offset:
                    return Duplicate(room, id, known)
        else:
            amended = amend(log.find(draft.target), draft)
            if isinstance(amended, CommandError):
                return amended
            self._bytes += log.change(amended)
        publication = draft.numbered(offset)
        log.publications.append(publication)
        self._bytes += _cost(publication)
        if room not in self._logs:
            self._looks.setdefault(name_key(room), {})[room] = None
        self._logs[room] = log
        self._logs.move_to_end(room)
        self._shorten(room, log)
        if self._bytes > self._max_bytes:
            self._trim()
        return publication

    def _shorten(self, room: str, log: _Log) -> None:
        """Drop the oldest publications of a room if it has more than its limit and slack."""
        limit, slack = self._max_messages, self._slack
        if (options := self._options.get(room)) is not None and options.max_messages:
            limit, slack = options.max_messages, options.max_messages // 8
        if len(log.publications) > limit + slack:
            self._bytes -= log.drop(len(log.publications) - limit)

    # Rooms and users

    @property
    def options(self) -> Mapping[str, RoomOptions]:
        return self._options

    def set_options(self, room: str, options: RoomOptions) -> None:
        if options.changed():
            self._options[room] = options
        else:
            self._options.pop(room, None)
        if (log := self._logs.get(room)) is not None:
            self._shorten(room, log)

    def streams(self, prefix: str, after: str, limit: int) -> list[StoredStream]:
        names = sorted(
            name
            for name in self._logs.keys() | self._options.keys()
            if name.startswith(prefix) and name > after
        )
        return [self._stream(name) for name in names[:limit]]

    def _stream(self, room: str) -> StoredStream:
        log = self._log(room)
        epoch, head, last_at = log.position()
        return StoredStream(room, epoch, head, last_at, sum(map(_cost, log.publications)))

    def delete_room(self, room: str) -> bool:
        had_options = self._options.pop(room, None) is not None
        log = self._logs.get(room)
        if log is not None:
            self._bytes -= log.drop(len(log.publications))
            self._forget(room)
            self._generation = self._new_generation()
        return had_options or log is not None

    def published_by(
        self, user: str, after: Cursor | None, limit: int
    ) -> tuple[list[Publication], Cursor | None]:
        found: list[Publication] = []
        for room, log in self._logs_after(after):
            for publication in log.publications:
                if (after is None or [room, publication.offset] > list(after)) and (
                    publication.user == user
                ):
                    found.append(publication)
                    if len(found) == limit:
                        return found, [room, publication.offset]
        return found, None

    def erase_user(self, user: str, after: Cursor | None) -> tuple[Erasure, Cursor | None]:
        """Erase what a user has said in one room after the cursor."""
        for room, log in self._logs_after(after):
            if after is not None and room == after[0]:
                continue
            messages = reactions = 0
            for publication in tuple(log.publications):
                erased = without_said(publication, user)
                if erased is publication:
                    continue
                if isinstance(erased, Message):
                    if publication.user != user:
                        reactions += 1
                    elif isinstance(publication, Message):
                        messages += not publication.deleted
                    self._bytes += log.change(erased)
                else:
                    log.publications[publication.offset - log.first] = erased
            log.by_id = {key: offset for key, offset in log.by_id.items() if key[0] != user}
            touched = frozenset({room}) if messages or reactions else frozenset()
            return Erasure(messages, reactions, touched), [room]
        return Erasure(0, 0, frozenset()), None

    def _logs_after(self, cursor: Cursor | None) -> Iterator[tuple[str, _Log]]:
        """The rooms in the order of their names, from that of a cursor on."""
        for room in sorted(self._logs):
            if cursor is None or room >= str(cursor[0]):
                yield room, self._logs[room]

    # Reading

    def position(self, room: str) -> Position:
        return self._log(room).position()

    def since(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        log = self._log(room)
        missing = log.next - 1 - position.offset
        if position.epoch != log.epoch or not 0 <= missing <= limit:
            return None
        if missing > len(log.publications):
            return None
        if position.is_contradicted_by(log.find(position.offset)):
            return None
        return log.publications[len(log.publications) - missing :]

    def following(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        publications = self.since(room, position, self._max_bytes)
        return None if publications is None else publications[:limit]

    def before(self, room: str, offset: int | None, limit: int) -> Page:
        log = self._log(room)
        end = len(log.publications)
        if offset is not None:
            end = min(max(offset - log.first, 0), end)
        return _page(reversed(log.publications[:end]), limit, newest_first=True)

    def after(self, room: str, offset: int, limit: int) -> Page:
        log = self._log(room)
        start = max(offset + 1 - log.first, 0)
        return _page(log.publications[start:], limit, newest_first=False)

    async def search(self, room: str, query: str, limit: int) -> list[Message]:
        matches = matcher(query)
        found: list[Message] = []
        examined = 0
        for each in self._log(room).publications[::-1]:
            if len(found) == limit:
                break
            if isinstance(each, Message) and matches(each.text):
                found.append(each)
            examined += _MESSAGE_CHARS + len(each.text)
            if examined > _SEARCH_STEP_CHARS:
                examined = 0
                await asyncio.sleep(0)
        return found

    def find_alike(self, room: str) -> str | None:
        alike = self._looks.get(name_key(room), {})
        return room if room in alike else next(iter(alike), None)

    def check(self) -> None:
        """Do nothing: this history has no disk that could fail."""

    def prune(self) -> None:
        """Do nothing: this history has no limit of age, and `append` obeys its other limits."""

    def close(self) -> None:
        """Do nothing: this history has no files."""

    def _log(self, room: str) -> _Log:
        """The log of a room; if nothing was published in the room, an empty one."""
        return self._logs.get(room) or _Log(epoch_of(self._generation, room))

    def _forget(self, room: str) -> None:
        del self._logs[room]
        look = name_key(room)
        del self._looks[look][room]
        if not self._looks[look]:
            del self._looks[look]

    def _trim(self) -> None:
        while self._bytes > self._max_bytes and self._logs:
            room, log = next(iter(self._logs.items()))
            self._bytes -= log.drop(max(len(log.publications) // 8, 1))
            if not log.publications:
                self._forget(room)  # `_bytes` does not count empty logs, so they must go
                self._generation = self._new_generation()


def _page(publications: Iterable[Publication], limit: int, *, newest_first: bool) -> Page:
    messages = [each for each in publications if isinstance(each, Message)]
    found = messages[:limit]
    if newest_first:
        found.reverse()
    return Page(found, more=len(messages) > limit)


def _cost(publication: Publication) -> int:
    """The estimated memory of a publication: up to 4 bytes a character, 100 a reaction."""
    reactions = publication.reactions if isinstance(publication, Message) else None
    names = sum(map(len, reactions.values())) if reactions else 0
    return _OVERHEAD_BYTES + 4 * len(publication.text) + 100 * names
