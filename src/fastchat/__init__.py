"""A WebSocket chat server with a compiled fan-out hub."""

from fastchat._version import __version__
from fastchat.hub import Connection, Hub

__all__ = ["Connection", "Hub", "__version__"]
