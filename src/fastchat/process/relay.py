"""The relay as a process: it has the rooms, the history and the files of all workers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from fastchat.brokers.relay.server import Relay
from fastchat.errors import SettingError
from fastchat.history import History
from fastchat.history.directory import lock
from fastchat.metrics import watch_lag
from fastchat.ops.machines import report_of
from fastchat.process.assembly.relay import build_relay
from fastchat.process.assembly.storage import open_history
from fastchat.process.assembly.webhooks import use_again
from fastchat.process.channel import Channel
from fastchat.process.signals import on_hang_up
from fastchat.process.timings import RelayTimings
from fastchat.process.waiting import wait_first
from fastchat.settings import Settings
from fastchat.webhooks.config import read_again
from fastchat.webhooks.outgoing import Webhooks

if TYPE_CHECKING:
    from fastchat.process.assembly.engine import EngineRooms

__all__ = ["run"]

logger = logging.getLogger("fastchat.relay")


def run(
    settings: Settings,
    channel: Channel,
    *,
    workers: int,
    user_key: bytes | None = None,
    again: bool = False,
) -> int:
    """Relay until SIGTERM, or until the supervisor is gone; returns the exit status.

    `user_key` is for a history in memory (`History.user_key`); None for a new one. `again` is
    whether the relay takes the place of another one.

    Raises SettingError when the data directory cannot be used, or when the engine cannot, and
    LedgerError when the engine cannot be reached at the first start.
    """
    with contextlib.ExitStack() as stack:
        if not settings.has_history_file:  # the relay's socket needs the directory as well
            stack.callback(os.close, lock(Path(settings.data)))
        history: History | None = None
        if not settings.engine:
            with beating(channel, RelayTimings().tick_interval_s):
                history = open_history(settings, user_key=user_key, again=again)
            stack.callback(history.close)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, history, channel, workers, again=again))


@contextlib.contextmanager
def beating(channel: Channel, interval_s: float) -> Iterator[None]:
    """Send beats during the block, from a thread, so that the supervisor waits for its end.

    The file of an older version is migrated when it is opened, which takes some 10 s for a million
    publications.
    """
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(interval_s):
            channel.say(beat=True, relay=False)

    thread = threading.Thread(target=beat, name="beats")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


async def _serve(
    settings: Settings, history: History | None, channel: Channel, workers: int, *, again: bool
) -> int:
    loop = asyncio.get_running_loop()
    timings = RelayTimings()
    components = build_relay(settings, history, workers=workers, again=again)
    relay, retention = components.relay, components.retention
    asked, orphaned = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    on_hang_up(loop, partial(_reload, settings, components.webhooks), asked.set)
    channel.open(loop, orphaned.set)
    shared = components.shared
    if shared is not None:
        from fastchat.process.assembly.engine import open_shared_rooms  # as in `build_relay`

        opening = loop.create_task(open_shared_rooms(settings, shared, again=again))
        with beating(channel, timings.tick_interval_s):
            await wait_first(opening, orphaned.wait(), asked.wait())
        if asked.is_set() or orphaned.is_set():
            await shared.close()
            return 0
        opening.result()
    try:
        await relay.start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingError(
                f"--data {settings.data} is in use by another server; stop it or choose another "
                "directory."
            ) from None
        raise SettingError(
            f"--data {settings.data} cannot hold the relay's socket: {error.strerror}."
        ) from None
    channel.say(ready=True)
    _beat(relay, channel)
    tasks = [
        loop.create_task(_tick_forever(relay, channel, timings.tick_interval_s, shared)),
        loop.create_task(watch_lag(components.metrics.loop_lag_s)),
    ]
    if retention is not None:
        retention.start()
    gc.collect()
    gc.freeze()
    await wait_first(orphaned.wait(), asked.wait())
    # If all processes are signalled at once, the workers stop first: they may still publish.
    await wait_first(orphaned.wait(), relay.deserted(), timeout_s=timings.workers_stop_s)
    async with contextlib.AsyncExitStack() as ends:  # if one fails, the others still run
        ends.push_async_callback(relay.close)
        if components.webhooks is not None:
            ends.push_async_callback(components.webhooks.close)
        if retention is not None:
            ends.callback(retention.stop)
        for task in tasks:
            task.cancel()
    return 0


def _reload(settings: Settings, webhooks: Webhooks | None) -> None:
    """Read the file of the settings again, which can have other webhooks."""
    if settings.config_file:
        use_again(webhooks, read_again(settings.config_file))


async def _tick_forever(
    relay: Relay, channel: Channel, interval_s: float, shared: EngineRooms | None = None
) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            if shared is not None:
                shared.report(report_of(relay.status().parts))
            relay.rooms.tick()
            relay.check_socket()
        except Exception:  # if this goes on, there are no beats, and the supervisor kills the relay
            logger.exception("internal error in a tick")
        else:
            _beat(relay, channel)


def _beat(relay: Relay, channel: Channel) -> None:
    channel.say(beat=True, relay=True, fault=relay.rooms.fault)
