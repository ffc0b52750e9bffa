"""The Unix socket in the data directory, on which a relay or a single process accepts connections.

Somebody can remove the socket's file, for example by cleaning up the directory. The connections
that exist go on, but nobody can connect any more: a new worker would have no relay. So the owner
looks once a second whether the file is still the socket's own, and binds the socket again if not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from fastchat.brokers.relay.wire import SOCKET_NAME, bind_socket, remove_socket, socket_path

__all__ = ["UnixListener"]

logger = logging.getLogger("fastchat.relay")


class UnixListener:
    """Accepts connections on the socket in `directory`, from `open` to `close`.

    `make` returns the protocol of a connection. The caller must hold the directory's lock, because
    the socket of an earlier process is replaced. A socket on which another process accepts
    connections is never replaced: then the lock's file was removed, and two servers would share
    the directory.
    """

    def __init__(
        self, directory: Path, make: Callable[[], asyncio.Protocol], *, backlog: int = 100
    ) -> None:
        self._directory = directory
        self._path = directory / SOCKET_NAME
        self._make = make
        self._backlog = backlog
        self._server: asyncio.AbstractServer | None = None
        self._identity: tuple[int, int] | None = None
        self._binding: asyncio.Task[None] | None = None
        self._is_gone = False  # the file, as far as the log says

    async def open(self) -> None:
        """Bind the socket and accept connections.

        Raises OSError if the directory cannot hold a socket, with EADDRINUSE if another process
        accepts connections on it.
        """
        if _has_owner(self._directory):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        bound = bind_socket(self._directory)
        try:
            identity = _identity_of(self._path)
            server = await asyncio.get_running_loop().create_unix_server(
                self._make, sock=bound, backlog=self._backlog
            )
        except BaseException:
            bound.close()
            raise
        self._server, self._identity = server, identity

    def check(self) -> None:
        """Bind the socket again if its file is gone; call it once a second.

        The log says so. If the socket cannot be bound, the log says why, once, and the next call
        tries again. Raises nothing.
        """
        if self._server is None or self._binding is not None:
            return
        found = _identity_of(self._path)
        if found is None or found != self._identity:
            self._binding = asyncio.get_running_loop().create_task(self._bind_again(self._server))
        elif self._is_gone:
            self._is_gone = False
            logger.warning("%s is back", self._path)

    def close(self) -> None:
        """Accept no more connections, and remove the socket's file.

        Connections go on. If the file cannot be removed, the log says so.
        """
        if self._binding is not None:
            self._binding.cancel()
        if self._server is not None:
            self._server.close()
            self._server = None
            if _identity_of(self._path) == self._identity:
                remove_socket(self._directory)

    async def _bind_again(self, old: asyncio.AbstractServer) -> None:
        try:
            await self.open()
        except OSError as error:
            if not self._is_gone:
                self._is_gone = True
                logger.error(
                    "%s is gone and cannot be created again, so no process can connect to it: %s",
                    self._path,
                    error.strerror,
                )
        else:
            old.close()
            self._is_gone = False
            logger.warning("%s was gone, and was created again", self._path)
        finally:
            self._binding = None


def _identity_of(path: Path) -> tuple[int, int] | None:
    """The device and the inode of a file; None if there is none.

    A socket keeps its inode until it is closed, so the inode of a removed socket is not reused.
    """
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _has_owner(directory: Path) -> bool:
    """Whether a process accepts connections on the socket in the directory."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        with socket_path(directory) as path:
            with contextlib.suppress(BlockingIOError):  # there is one, and it is busy
                probe.connect(path)
            return True
    return False
