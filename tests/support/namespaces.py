"""Networks of their own for tests that need certain addresses and ports."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence

__all__ = ["in_own_network", "why_no_networks"]

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SIOCSIFFLAGS, _SIOCSIFADDR = 0x8914, 0x8916  # linux/sockios.h
_IFF_UP = 1


def why_no_networks() -> str:
    """Why this user cannot make a network; "" if they can."""
    try:
        in_own_network((), lambda: None)
    except OSError as error:
        return f"this user cannot make a network: {error.strerror}"
    return ""


def in_own_network(addresses: Sequence[str], test: Callable[[], None]) -> None:
    """Run a test in a network that only it and its child processes can reach.

    The network has one interface, with these IPv4 addresses besides 127.0.0.1. The test runs in a
    thread of its own, because a network belongs to a thread. Raises OSError if this user cannot
    make a network, and what the test raises.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _leave_network()
            _configure("lo", None)
            for number, address in enumerate(addresses):
                _configure(f"lo:{number}", address)
            test()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _leave_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _configure(interface: str, address: str | None) -> None:
    """Give an interface an address, if there is one to give, and switch it on (netdevice(7))."""
    name = interface.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if address is not None:
            place = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, _SIOCSIFADDR, struct.pack("16s16s", name, place))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", name, _IFF_UP))
