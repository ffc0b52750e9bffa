"""The fixtures of the ledger's tests."""

from support.ledger import own_server, server, shared, sharing, url, urls

__all__ = ["own_server", "server", "shared", "sharing", "url", "urls"]
