"""The tickets of announced files."""

from __future__ import annotations

import hashlib
import secrets

__all__ = ["digest_of", "new_ticket"]

#: A ticket has 192 random bits, so it cannot be guessed.
_TICKET_BYTES = 24


def new_ticket() -> str:
    return secrets.token_urlsafe(_TICKET_BYTES)


def digest_of(ticket: str) -> bytes:
    """Return the digest of a ticket. An index stores digests only, so it shows no ticket."""
    return hashlib.blake2b(ticket.encode("utf-8", "replace"), digest_size=32).digest()
