"""The fixtures of the tests of several machines."""

from support.ledger import own_server, server

__all__ = ["own_server", "server"]
