"""A history in memory: the newest publications of each room, gone with the process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from fastchat.history import Duplicate, Page
from fastchat.protocol import Position, Publication

__all__ = ["MemoryHistory"]

#: What a publication costs beyond its text: the tuple, strings' headers, the index.
_OVERHEAD_BYTES = 600


class _Log:
    __slots__ = ("by_id", "epoch", "first", "publications")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.first = 1  # the offset of publications[0]
        self.publications: list[Publication] = []
        self.by_id: dict[tuple[str, str], int] = {}

    @property
    def next(self) -> int:
        return self.first + len(self.publications)

    def drop(self, count: int) -> int:
        """Drop the oldest `count`; returns about how many bytes that freed."""
        freed = 0
        for publication in self.publications[:count]:
            freed += _cost(publication)
            if publication.id is not None:
                del self.by_id[publication.username, publication.id]
        del self.publications[:count]
        self.first += count
        return freed


class MemoryHistory:
    """Implements `fastchat.history.History`.

    Keeps between `max_messages` and an eighth more of each room, and in all rooms
    together about `max_bytes`: beyond that, the rooms that were silent longest
    lose their oldest, and one that has lost all is forgotten. An `id` is remembered
    as long as its publication is kept.
    """

    def __init__(
        self,
        *,
        max_messages: int,
        new_epoch: Callable[[], str],
        max_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        self._max_messages = max_messages
        self._slack = max_messages // 8  # trimmed in steps: a list drops its head in O(n)
        self._max_bytes = max_bytes
        self._new_epoch = new_epoch
        self._bytes = 0
        self._logs: OrderedDict[str, _Log] = OrderedDict()  # the silent longest first

    def append(self, drafts: Sequence[Publication]) -> list[Publication | Duplicate]:
        return [self._append(draft) for draft in drafts]

    def _append(self, draft: Publication) -> Publication | Duplicate:
        room, _, username, text, timestamp, id = draft
        log = self._log(room)
        offset = log.first + len(log.publications)
        if id is not None:
            known = log.by_id.setdefault((username, id), offset)
            if known != offset:
                return Duplicate(room, id, known)
        publication = Publication(room, offset, username, text, timestamp, id)
        log.publications.append(publication)
        self._bytes += _cost(publication)
        self._logs.move_to_end(room)
        if len(log.publications) > self._max_messages + self._slack:
            self._bytes -= log.drop(len(log.publications) - self._max_messages)
        if self._bytes > self._max_bytes:
            self._trim()
        return publication

    def position(self, room: str) -> Position:
        log = self._log(room)
        return Position(log.epoch, log.next - 1)

    def since(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        log = self._log(room)
        missing = log.next - 1 - position.offset
        if position.epoch != log.epoch or not 0 <= missing <= limit:
            return None
        if missing > len(log.publications):
            return None
        return log.publications[len(log.publications) - missing :]

    def before(self, room: str, offset: int | None, limit: int) -> Page:
        log = self._log(room)
        end = len(log.publications)
        if offset is not None:
            end = min(max(offset - log.first, 0), end)
        start = max(end - limit, 0)
        return Page(log.publications[start:end], more=start > 0)

    def after(self, room: str, offset: int, limit: int) -> Page:
        log = self._log(room)
        start = max(offset + 1 - log.first, 0)
        publications = log.publications[start : start + limit]
        return Page(publications, more=start + limit < len(log.publications))

    def forget(self, room: str) -> None:
        log = self._logs.pop(room, None)
        if log is not None:
            self._bytes -= log.drop(len(log.publications))

    def _log(self, room: str) -> _Log:
        log = self._logs.get(room)
        if log is None:
            log = self._logs[room] = _Log(self._new_epoch())
        return log

    def _trim(self) -> None:
        while self._bytes > self._max_bytes:
            room, log = next(iter(self._logs.items()))
            self._bytes -= log.drop(max(len(log.publications) // 8, 1))
            if not log.publications:
                del self._logs[room]  # or empty logs would add up


def _cost(publication: Publication) -> int:
    return _OVERHEAD_BYTES + 4 * len(publication.text)
