"""The lines that a server prints when it is ready."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from fastchat.settings import Settings

__all__ = ["announce"]

logger = logging.getLogger("fastchat")


def announce(settings: Settings, listener: socket.socket, workers: int = 1) -> None:
    """Print the server's address and where it keeps messages, for the person who started it."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 it is only shown
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    scheme = "https" if settings.ssl_certfile else "http"
    address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    print(f"fastchat is at {address} (stop it with Ctrl+C)", flush=True)
    if settings.history == "sqlite":
        print(f"messages are kept in {Path(settings.data).resolve()}", flush=True)
    if workers > 1:
        print(f"{workers} workers serve the clients", flush=True)
    logger.info("serving at %s", address)
