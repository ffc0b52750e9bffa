"""The fixtures of the ledger's tests."""

from support.ledger import server, url

__all__ = ["server", "url"]
