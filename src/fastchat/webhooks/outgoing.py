"""The webhooks of a server. They run in the process that has the rooms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from fastchat.rooms.watching import Watcher
from fastchat.webhooks.config import Config
from fastchat.webhooks.cursors import Cursors
from fastchat.webhooks.delivery import Delivery, Log, gauges_of

__all__ = ["Webhooks"]


class Webhooks:
    """Tells webhooks what happens in rooms. Implements `fastchat.rooms.watching.Watcher`.

    `watch` makes the rooms report to a watcher, or to none, which costs them nothing.
    `open_cursors` opens the cursors, once, when there is a webhook for the first time; it raises
    SettingError if that is not possible.
    """

    def __init__(
        self,
        log: Log,
        *,
        watch: Callable[[Watcher | None], None],
        open_cursors: Callable[[], Cursors],
    ) -> None:
        self._log = log
        self._watch = watch
        self._open_cursors = open_cursors
        self._cursors: Cursors | None = None
        self._deliveries: dict[str, Delivery] = {}
        self._changes = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def use(self, config: Config) -> None:
        """Deliver to the webhooks of a configuration from now on; call it in the running loop.

        A webhook that has not changed goes on. One that has changed, or that its receiver has
        ended, starts again at its cursors. Raises SettingError.
        """
        if config.webhooks and self._cursors is None:
            self._cursors = self._open_cursors()
        task = asyncio.get_running_loop().create_task(self._use(config))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _use(self, config: Config) -> None:
        async with self._changes:  # one change after the other, each of them whole
            wanted = {webhook.name: webhook for webhook in config.webhooks}
            old = [
                self._deliveries.pop(name)
                for name, delivery in tuple(self._deliveries.items())
                if delivery.is_ended or wanted.get(name) != delivery.webhook
            ]
            # What is published meanwhile is found when the new ones start.
            await asyncio.gather(*(delivery.close() for delivery in old))
            self._watch(self if wanted else None)
            for name, webhook in wanted.items():
                if name not in self._deliveries:
                    assert self._cursors is not None
                    delivery = self._deliveries[name] = Delivery(webhook, self._log, self._cursors)
                    delivery.start()

    # As a watcher

    def published(self, room: str, head: int) -> None:
        for delivery in self._deliveries.values():
            delivery.published(room, head)

    def announced(self, event: str, room: str, payload: bytes) -> None:
        for delivery in self._deliveries.values():
            delivery.announced(event, room, payload)

    # For operators

    def gauges(self) -> Mapping[str, Any]:
        """The numbers of the webhooks; empty if there are none."""
        return gauges_of(tuple(self._deliveries.values()))

    async def close(self) -> None:
        """Stop within about a second, and store the cursors. The rooms must not be closed yet."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._watch(None)
        await asyncio.gather(*(delivery.close() for delivery in self._deliveries.values()))
        if self._cursors is not None:
            await self._cursors.close()
