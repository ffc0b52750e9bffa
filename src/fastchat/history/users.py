"""The public ids of users, made with a secret that is kept with the history.

The same history gives the same user the same id, in all rooms and after a restart. If the
credential must stay secret, because it is a session or an e-mail address, the id is a keyed digest
of it. So nobody can guess a credential and check the guess.
"""

from __future__ import annotations

import base64
import hmac
import logging
import secrets

import apsw

from fastchat.database import select
from fastchat.protocol.users import (
    DIGEST_CHARS,
    DIGEST_MARK,
    GUEST_PREFIX,
    HOLDER_PREFIX,
    subject_of,
)

__all__ = ["USER_KEY_BYTES", "UserIds", "new_user_key", "set_user_key", "user_key_of"]

logger = logging.getLogger("fastchat.auth")

#: The length of the secret: that of a key of HMAC-SHA256 (RFC 2104 §3).
USER_KEY_BYTES = 32


class UserIds:
    """Makes public ids of credentials (`fastchat.protocol.users`) with the secret `key`.

    The log says once that subjects with an @ are shown as digests. It does not contain a subject.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._is_hiding = False

    def user_of(self, credential: str) -> str:
        """The public id of a credential. It takes 2 µs, so ids of guests are not cached."""
        subject = subject_of(credential)
        if subject is None:
            return GUEST_PREFIX + self._digest(credential)
        if "@" in subject and not self._is_hiding:
            self._is_hiding = True
            logger.info(
                "users whose `sub` contains an @ are shown as a digest of it, so that no e-mail "
                "address becomes public"
            )
        if "@" in subject or subject.startswith(DIGEST_MARK):
            return HOLDER_PREFIX + DIGEST_MARK + self._digest(credential)
        return HOLDER_PREFIX + subject

    def _digest(self, credential: str) -> str:
        digest = hmac.digest(self._key, credential.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode()[:DIGEST_CHARS]


def new_user_key() -> bytes:
    """A new secret, for a history that begins."""
    return secrets.token_bytes(USER_KEY_BYTES)


def user_key_of(db: apsw.Connection) -> bytes:
    """The secret in the file of a history."""
    ((key,),) = select(db, "SELECT value FROM facts WHERE name = 'user_key'")
    return bytes(key)


def set_user_key(db: apsw.Connection, key: bytes) -> None:
    """Replace the secret in the file of a history; call it within a transaction.

    The publications keep the ids of their users. But a guest gets another id than before, and so
    does a user whose id is a digest.
    """
    db.execute("UPDATE facts SET value = ? WHERE name = 'user_key'", (key,))
