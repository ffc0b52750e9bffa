"""A part of a server of several processes: the frame of a worker, or of the relay.

    python -m fastchat.process worker NUMBER --channel FD --listener FD
    python -m fastchat.process relay --channel FD

Only `supervisor` calls it so; `channel` is how they speak.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import signal
import socket
import sys
from collections.abc import Sequence

from fastchat.errors import SettingError
from fastchat.logs import set_up_logging
from fastchat.process.channel import Channel
from fastchat.settings import Settings

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: Sequence[str] | None = None) -> int:
    """Be a part until the supervisor has enough; returns the exit status."""
    chosen = _parser().parse_args(arguments)
    _wake_when_orphaned()
    # Ctrl+C is the supervisor's; `kill -INT` to everybody at once is not to take the relay
    # away from workers that still say goodbye.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A terminal may stop who writes from another process group (`stty tostop`).
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    channel = Channel(chosen.channel)
    try:
        first = channel.start()
    except (EOFError, OSError):
        return 1
    settings = Settings(**first["settings"])
    set_up_logging(settings.log_level, settings.log_format)
    try:
        return _run(chosen, settings, channel, first["workers"])
    except SettingError as error:
        channel.say(failed=str(error))
        return 2


def _run(chosen: argparse.Namespace, settings: Settings, channel: Channel, workers: int) -> int:
    # Imported here: the relay has no use for all that a worker needs, nor has it the other way.
    if chosen.part == "relay":
        from fastchat.process import relay

        return relay.run(settings, channel, workers=workers)
    from fastchat.process import clustered

    listener = socket.socket(fileno=chosen.listener)
    return clustered.run(settings, channel, number=chosen.number, listener=listener)


def _wake_when_orphaned() -> None:
    """Be continued when the supervisor dies: a stopped process would see the end never.

    prctl(2); where there is none, the part may stay stopped.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fastchat.process", allow_abbrev=False)
    parts = parser.add_subparsers(dest="part", required=True)
    worker = parts.add_parser("worker")
    worker.add_argument("number", type=int)
    worker.add_argument("--listener", type=int, required=True)
    relay = parts.add_parser("relay")
    for part in (worker, relay):
        part.add_argument("--channel", type=int, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
