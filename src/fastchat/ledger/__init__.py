"""The ledger: the rooms of several machines, in a PostgreSQL that they share.

One transaction numbers, stores and deduplicates what a machine's loop turn has published
(`schema.sql`). A notification only wakes the other machines: each of them finds what it has not
heard of by the numbers of the commits, and reads it. `session` keeps the connections.
"""

from __future__ import annotations

from fastchat.errors import HistoryError

__all__ = ["LedgerError", "MachineTakenError", "NotCommittedError", "WrongLedgerError"]


class LedgerError(HistoryError):
    """The ledger cannot be used at the moment, for a reason that an operator understands."""


class MachineTakenError(LedgerError):
    """Another process is this machine too, and was earlier; the session has ended for good."""


class WrongLedgerError(LedgerError):
    """The ledger shares the rooms of a chat with others than those that were named."""


class NotCommittedError(LedgerError):
    """A commit has certainly not happened; `code` is PostgreSQL's SQLSTATE, or ''."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code
