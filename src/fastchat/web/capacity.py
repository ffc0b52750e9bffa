"""How many connections a process can have: each takes one of its file descriptors.

A process without free descriptors cannot open files of the history or a socket to the relay, and
cannot even accept a connection to refuse it. So connections are limited before that happens.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import NamedTuple

from fastchat.errors import SettingError

__all__ = ["TRANSFER_KINDS", "Capacity", "count_transfers", "measure_capacity"]

#: For descriptors that are opened later: the relay's socket, the search index, the retention's
#: files, /proc, connections that ask for the status. Descriptors that are open at the start are
#: counted apart.
RESERVE = 32
#: A server that can serve fewer clients than this does not start.
MIN_CONNECTIONS = 8
#: For this many served connections, one more is accepted, only to be refused.
SERVED_FOR_EACH_REFUSED = 16
MIN_REFUSED = 4
#: The kinds of transfer of a file: uploads by binary messages, uploads by HTTP, and downloads. Each
#: kind has a limit of its own, so that it cannot use up the others.
TRANSFER_KINDS = 3
#: Each kind can have one transfer for this many descriptors, so that all kinds together can take a
#: sixteenth of them.
DESCRIPTORS_FOR_EACH_TRANSFER = 48
MIN_TRANSFERS, MAX_TRANSFERS = 1, 128
#: Linux's fs.nr_open: the number of descriptors that no process can exceed.
_NR_OPEN = Path("/proc/sys/fs/nr_open")
_OPEN_FILES = Path("/proc/self/fd")


class Capacity(NamedTuple):
    """How many client connections are served, and how many are accepted, some to be refused."""

    served: int
    accepted: int


def count_transfers() -> int:
    """How many transfers of each kind a process can have at the same time."""
    wanted = _raised_limit() // DESCRIPTORS_FOR_EACH_TRANSFER
    return max(MIN_TRANSFERS, min(MAX_TRANSFERS, wanted))


def measure_capacity(more: int = 0) -> Capacity:
    """Raise the limit of open files as far as possible; returns the connections that fit.

    `more` descriptors are kept free besides RESERVE. Raises SettingError if fewer than
    MIN_CONNECTIONS fit.
    """
    limit = _raised_limit()
    used = _open_files() + RESERVE + more
    accepted = limit - used
    refused = max(MIN_REFUSED, accepted // (SERVED_FOR_EACH_REFUSED + 1))
    if accepted - refused < MIN_CONNECTIONS:
        needed = used + MIN_REFUSED + MIN_CONNECTIONS
        raise SettingError(
            f"The limit of open files (ulimit -n) is {limit:,}; the server needs {needed:,}, and "
            "one more for each client. Raise the limit."
        )
    return Capacity(accepted - refused, accepted)


def _raised_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else _most_possible(soft)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):  # a sandbox may forbid it
        return most if soft == resource.RLIM_INFINITY else soft
    return most


def _most_possible(soft: int) -> int:
    try:
        return int(_NR_OPEN.read_text("ascii"))
    except (OSError, ValueError):
        return soft if soft != resource.RLIM_INFINITY else 1024


def _open_files() -> int:
    try:
        return len(os.listdir(_OPEN_FILES))
    except OSError:  # no /proc
        return 32
