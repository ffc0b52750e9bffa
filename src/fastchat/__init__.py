"""A WebSocket chat server with a compiled fan-out hub."""

from fastchat._version import __version__
from fastchat.hub import Hub

__all__ = ["Hub", "__version__"]
