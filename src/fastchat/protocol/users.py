"""How users are identified: by credentials inside the server, and by public ids on the wire.

A client proves who its user is by a credential. Without a token, the credential is a digest of the
client's session (`guest_of`); with a token, it is the token's subject (`holder_of`). A credential
never leaves the server. The public id of the user is made from the credential with a secret
(`fastchat.history.users`):

    u_alice                  a token's subject
    u_~mG1p2VQKb0DOiYw4      a digest of a subject that contains an @, or begins with ~
    g_mG1p2VQKb0DOiYw4       a guest
    k_shop                   an API key, by its name
    h_grafana                a webhook, by its name
    o_                       the operator of the server
    e_                       somebody who was erased

Because of the `~`, nobody can choose a subject so that its id equals the digest of another subject.

Source: docs/protocol.md, "Users".
"""

from __future__ import annotations

import hashlib
import re

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol.characters import has_hidden

__all__ = [
    "DIGEST_CHARS",
    "DIGEST_MARK",
    "ERASED_NAME",
    "ERASED_USER",
    "GUEST_PREFIX",
    "HOLDER_PREFIX",
    "HOOK_PREFIX",
    "KEY_PREFIX",
    "MAX_SUBJECT_CHARS",
    "OPERATOR",
    "check_user",
    "guest_of",
    "holder_of",
    "import_of",
    "subject_of",
]

GUEST_PREFIX, HOLDER_PREFIX, DIGEST_MARK = "g_", "u_", "~"
KEY_PREFIX, HOOK_PREFIX = "k_", "h_"
#: The public id of whoever administers the server on its machine.
OPERATOR = "o_"
#: The public id and the name of everybody who was erased from the history.
ERASED_USER, ERASED_NAME = "e_", "(erased)"
#: Characters of a digest: 96 bits in the alphabet of base64url.
DIGEST_CHARS = 16
#: The limit of OpenID Connect Core 1.0 §2 for `sub`.
MAX_SUBJECT_CHARS = 255

_SUBJECT, _IMPORTED = "sub:", "name:"
_DIGEST = f"[A-Za-z0-9_-]{{{DIGEST_CHARS}}}"
#: The names of keys and of webhooks.
_POSTER = "[a-z0-9][a-z0-9_-]{0,31}"
_USER = re.compile(
    f"g_{_DIGEST}|u_~{_DIGEST}|u_[^~@][^@]{{0,{MAX_SUBJECT_CHARS - 1}}}"
    f"|[kh]_{_POSTER}|{ERASED_USER}|{OPERATOR}"
)


def guest_of(session: str) -> str:
    """The credential of a guest: a digest, from which the session cannot be computed."""
    return hashlib.blake2b(session.encode(), digest_size=9).hexdigest()


def holder_of(subject: str) -> str:
    """The credential of a user with a token."""
    return _SUBJECT + subject


def import_of(username: str) -> str:
    """The credential of the sender of an imported message, if only the sender's name is known.

    No client can have this credential.
    """
    return _IMPORTED + username


def subject_of(credential: str) -> str | None:
    """The subject in a credential; None if the user has no token."""
    return credential[len(_SUBJECT) :] if credential.startswith(_SUBJECT) else None


def check_user(user: object) -> str:
    """Return a public id unchanged. Raises CommandError `bad_command` if it cannot be one."""
    if type(user) is str and _USER.fullmatch(user) and not has_hidden(user):
        return user
    raise CommandError(ErrorCode.BAD_COMMAND, "`user` must be the id of a user, as in `joined`.")
