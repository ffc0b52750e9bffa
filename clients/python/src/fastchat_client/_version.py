"""The version of the distribution `fastchat-client`. It is not that of the server."""

__version__ = "0.1.0"
