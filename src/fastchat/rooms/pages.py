"""Pages of the history, as the process that has the rooms reads them."""

from __future__ import annotations

from fastchat.rooms import Messages
from fastchat.rooms.messages import page_of, truncated
from fastchat.rooms.storage import Storage

__all__ = ["StoragePages"]


class StoragePages:
    """Implements `fastchat.rooms.contract.Pages`. Only `search` suspends."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def before(self, room: str, offset: int | None, limit: int) -> Messages:
        with self._storage.use("before") as history:
            return page_of(history.before(room, offset, limit), newest_first=True)

    async def after(self, room: str, offset: int, limit: int) -> Messages:
        with self._storage.use("after") as history:
            return page_of(history.after(room, offset, limit), newest_first=False)

    async def search(self, room: str, query: str, limit: int) -> Messages:
        with self._storage.use("search") as history:
            found = await history.search(room, query, limit)
        return truncated(found, newest_first=False)
