"""The listening sockets, and what their connections inherit from them."""

from __future__ import annotations

import errno
import os
import socket

from fastchat.errors import SettingError

__all__ = ["listen", "listen_all"]

#: A stalled client then holds some 150 kB of kernel memory, not 4 MB, and is seen
#: to be stalled after as little.
NOTSENT_LOWAT_BYTES = 16 * 1024
#: Connections that wait to be accepted; the kernel caps it at net.core.somaxconn.
BACKLOG = 4096


def listen_all(host: str, port: int, count: int) -> list[socket.socket]:
    """Listening sockets among which the kernel shares out who connects to one address.

    The first is had by nobody else, as any other, before the rest joins it; so two
    servers do not come to share a port. Raises SettingError.
    """
    listeners = [listen(host, port)]
    try:
        if count > 1:
            listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = listeners[0].getsockname()[1]
        while len(listeners) < count:
            listeners.append(listen(host, port, shared=True))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; what it is set to, its connections inherit.

    A `shared` one joins those of its address (SO_REUSEPORT). Raises SettingError when
    the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # gaierror; or a family that this machine has not
        raise SettingError(f"--host {host!r} is not an address of this machine.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingError(_why_not(error, host, port)) from None
    listener.setblocking(False)
    return listener


# Linux's <netinet/tcp.h>; Python names it on some platforms only.
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port} is taken on {host}; stop what uses it or choose another port."
    if error.errno == errno.EACCES:
        return f"--port {port} needs privileges; choose one from 1024 on."
    return f"--host {host} --port {port} cannot be listened on: {os.strerror(error.errno or 0)}."
