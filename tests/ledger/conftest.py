"""The fixtures of the ledger's tests."""

from support.ledger import own_server, server, shared, url

__all__ = ["own_server", "server", "shared", "url"]
