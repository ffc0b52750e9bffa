"""The entry point of a child process, which is a worker or the relay.

    python -m fastchat.process worker NUMBER --channel FD --listener FD [--api FD] [--must-connect]
    python -m fastchat.process relay --channel FD

Only the supervisor starts it. `channel` is the connection between the two.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fastchat.errors import FastchatError, SettingError
from fastchat.logs import log_uncaught_exceptions, set_up_logging
from fastchat.process.channel import Channel
from fastchat.settings import Settings
from fastchat.streams import keep_open

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process until the supervisor ends it; returns the exit status."""
    keep_open()
    chosen = _parser().parse_args(arguments)
    _wake_when_orphaned()
    # Ctrl+C is for the supervisor. If SIGINT is sent to all processes at once, the relay must
    # stay until the workers have closed their connections.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # After `stty tostop`, a terminal stops a process of another group that writes to it.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    channel = Channel(chosen.channel)
    try:
        first = channel.start()
    except (EOFError, OSError):
        return 1
    settings = Settings(**first["settings"])
    set_up_logging(settings.log_level, settings.log_format)
    log_uncaught_exceptions()
    try:
        return _run(chosen, settings, channel, first)
    except FastchatError as error:
        channel.say(failed=str(error))
        return 2 if isinstance(error, SettingError) else 1


def _run(
    chosen: argparse.Namespace, settings: Settings, channel: Channel, first: Mapping[str, Any]
) -> int:
    # Imported here: the relay does not need what a worker needs, and vice versa. Importing makes no
    # garbage, but looking for some would take a tenth of its time.
    gc.disable()
    if chosen.role == "relay":
        from fastchat.process import relay

        gc.enable()
        return relay.run(
            settings,
            channel,
            workers=first["workers"],
            user_key=bytes.fromhex(first["user_key"]),
            again=first["again"],
        )
    from fastchat.process import clustered

    gc.enable()
    listener = socket.socket(fileno=chosen.listener)
    return clustered.run(
        settings,
        channel,
        number=chosen.number,
        listener=listener,
        api_listener=None if chosen.api is None else socket.socket(fileno=chosen.api),
        must_connect=chosen.must_connect,
    )


def _wake_when_orphaned() -> None:
    """Ask the kernel (prctl(2)) for a SIGCONT when the supervisor dies.

    A process that a signal has stopped cannot see that the channel has ended. Without prctl it
    stays stopped.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fastchat.process", allow_abbrev=False)
    roles = parser.add_subparsers(dest="role", required=True)
    worker = roles.add_parser("worker")
    worker.add_argument("number", type=int)
    worker.add_argument("--listener", type=int, required=True)
    worker.add_argument("--api", type=int)
    worker.add_argument("--must-connect", action="store_true")
    relay = roles.add_parser("relay")
    for role in (worker, relay):
        role.add_argument("--channel", type=int, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
