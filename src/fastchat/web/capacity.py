"""How many connections a process can have: each takes one of its file descriptors.

Where these run out, nothing can be opened any more: no file of the history, no socket
to the relay, and not the connection that is to be told so. So it does not come to that.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import NamedTuple

from fastchat.errors import SettingError

__all__ = ["WAYS", "Capacity", "count_transfers", "measure_capacity"]

#: For what is opened later on: the relay's socket, the search index, /proc, who asks for the
#: status; the files that are open already count on their own.
RESERVE = 24
#: With fewer clients than this there is no use in a server.
MIN_CONNECTIONS = 8
#: Besides those served: connections that are told that there is no place. 1 for so many.
SERVED_FOR_EACH_REFUSED = 16
MIN_REFUSED = 4
#: Files that are on their way: by binary messages, by HTTP, and to those who read them. Nobody who
#: has all places of one way is in another's.
WAYS = 3
#: Of each way: one for so many descriptors, so that all take a sixteenth.
DESCRIPTORS_FOR_EACH_TRANSFER = 48
MIN_TRANSFERS, MAX_TRANSFERS = 1, 128
#: The most that a process may have where it has no limit of its own (Linux's fs.nr_open).
_NR_OPEN = Path("/proc/sys/fs/nr_open")
_OPEN_FILES = Path("/proc/self/fd")


class Capacity(NamedTuple):
    """Of client connections: how many are served, and how many are accepted to be refused."""

    served: int
    accepted: int


def count_transfers() -> int:
    """How many files a process should have open for each of the WAYS."""
    wanted = _raised_limit() // DESCRIPTORS_FOR_EACH_TRANSFER
    return max(MIN_TRANSFERS, min(MAX_TRANSFERS, wanted))


def measure_capacity(more: int = 0) -> Capacity:
    """Raise the limit of open files as far as it goes, and see what it is enough for.

    `more` descriptors are kept free beside the usual reserve. Raises SettingError when
    hardly any connection is left.
    """
    limit = _raised_limit()
    used = _open_files() + RESERVE + more
    accepted = limit - used
    refused = max(MIN_REFUSED, accepted // (SERVED_FOR_EACH_REFUSED + 1))
    if accepted - refused < MIN_CONNECTIONS:
        needed = used + MIN_REFUSED + MIN_CONNECTIONS
        raise SettingError(
            f"The limit of open files (ulimit -n) is {limit:,}; {needed:,} are needed to begin "
            "with, and one more for each client."
        )
    return Capacity(accepted - refused, accepted)


def _raised_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else _most_possible(soft)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):  # forbidden by who watches over us
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
