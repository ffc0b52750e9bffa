"""The lines that a server prints when it is ready.

They are for the person who started it. If they cannot be printed, the server goes on: a thread
prints them, because a write to a pipe that nobody reads does not return.
"""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path

from fastchat.logs import formatted
from fastchat.settings import Settings
from fastchat.streams import write_some

__all__ = ["announce"]

logger = logging.getLogger("fastchat")

STANDARD_OUTPUT = 1


def announce(settings: Settings, listener: socket.socket, workers: int = 1) -> None:
    """Print the server's address and where it keeps messages, in the format of the log.

    It does not wait, and raises nothing.
    """
    address = _address_of(settings, *listener.getsockname()[:2])
    lines = [f"fastchat is at {address} (stop it with Ctrl+C)"]
    if settings.api_port:
        api = _address_of(settings, settings.api_host, settings.api_port)
        lines.append(f"its API is at {api}/api/v1")
        logger.info("serving the API at %s/api/v1", api)
    if settings.engine:
        from fastchat.ledger.url import parse_url  # here, because most servers have no engine

        lines.append(f"messages are kept in {parse_url(settings.engine[0]).shown}")
    elif settings.history == "sqlite":
        lines.append(f"messages are kept in {Path(settings.data).resolve()}")
    if workers > 1:
        lines.append(f"{workers} workers serve the clients")
    if settings.log_format == "json":
        lines = [formatted(line, format="json") for line in lines]
    text = "".join(f"{line}\n" for line in lines)
    threading.Thread(target=_print, args=(text,), name="announcement", daemon=True).start()
    logger.info("serving at %s", address)


def _address_of(settings: Settings, host: str, port: int) -> str:
    """The address of a port, as a person can open it on this machine."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 it is only shown
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    scheme = "https" if settings.ssl_certfile else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _print(text: str) -> None:
    # The path of the data directory can have bytes that are not UTF-8.
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[write_some(STANDARD_OUTPUT, data) :]
    except OSError as error:
        logger.warning(
            "the server's address could not be printed to standard output (%s); the server runs",
            error.strerror,
        )
