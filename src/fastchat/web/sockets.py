"""The listening sockets, and the options that their connections inherit from them."""

from __future__ import annotations

import errno
import os
import socket

from fastchat.errors import SettingError

__all__ = ["listen", "listen_admin", "listen_all"]

#: The most unsent bytes that the kernel takes for a connection. Without this limit, a client that
#: reads nothing holds 4 MB of kernel memory instead of about 150 kB, and the server notices later
#: that the client is slow.
NOTSENT_LOWAT_BYTES = 16 * 1024
#: Connections that wait to be accepted; the kernel caps it at net.core.somaxconn (4096 on Linux).
BACKLOG = 4096
#: The same for the admin port: more than the connections that it serves at once.
ADMIN_BACKLOG = 64


def listen_all(
    host: str, port: int, count: int, flags: tuple[str, str] = ("--host", "--port")
) -> list[socket.socket]:
    """Listening sockets of one address, among which the kernel distributes connections.

    The first one is bound without SO_REUSEPORT, and fails like any other if the address is in use;
    so two servers cannot share a port by accident. Raises SettingError.
    """
    listeners = [listen(host, port, flags=flags)]
    try:
        if count > 1:
            listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = listeners[0].getsockname()[1]
        while len(listeners) < count:
            listeners.append(listen(host, port, flags=flags, shared=True))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def listen_admin(host: str, port: int) -> socket.socket:
    """A listening socket for `fastchat.ops.admin`; raises SettingError as `listen` does."""
    flags = ("--admin-host", "--admin-port")
    return listen(host, port, flags=flags, backlog=ADMIN_BACKLOG)


def listen(
    host: str,
    port: int,
    *,
    flags: tuple[str, str] = ("--host", "--port"),
    backlog: int = BACKLOG,
    shared: bool = False,
) -> socket.socket:
    """A listening socket; connections inherit its options.

    A `shared` socket joins the others of its address (SO_REUSEPORT). Raises SettingError if the
    address cannot be listened on; `flags` are the settings that the error names.
    """
    host_flag, port_flag = flags
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # gaierror, or an address family that this machine lacks
        raise SettingError(f"{host_flag} {host!r} is not an address of this machine.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
        listener.bind(address)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            why = (
                f"{port_flag} {port} is in use on {host}; "
                "stop the program that uses it or choose another port"
            )
        elif error.errno == errno.EACCES:
            why = f"{port_flag} {port} needs privileges; choose 1024 or a higher port"
        else:
            reason = os.strerror(error.errno or 0)
            why = f"{host_flag} {host} {port_flag} {port} cannot be listened on: {reason}"
        raise SettingError(f"{why}.") from None
    listener.setblocking(False)
    return listener


# Linux's <netinet/tcp.h>; Python names it on some platforms only.
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
