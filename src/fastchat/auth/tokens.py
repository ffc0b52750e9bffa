"""Verifies the JSON Web Tokens (RFC 7519) of clients.

The key determines the algorithm, never the token. RFC 8725 §3.1: "Each key MUST be used with
exactly one algorithm". A secret is for HS256 only, a public key for the one algorithm of its
type. Only `alg` and `kid` of a token's header are used, to choose among the keys in the files.
No address in a header is opened.

No text of a token gets into an error, a log line or a traceback.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt

from fastchat.auth import ANY_ROOM, Identity, Right, unauthorized
from fastchat.auth.keys import Key, read_keys
from fastchat.errors import CloseCode, SettingError
from fastchat.protocol.characters import has_hidden
from fastchat.protocol.names import clean_username, room_key
from fastchat.protocol.users import MAX_SUBJECT_CHARS, holder_of

__all__ = ["RIGHTS", "TokenAuthenticator", "is_subject"]

logger = logging.getLogger("fastchat.auth")

#: How far an issuer's clock can be ahead of this machine's (`nbf`, `iat`). `exp` has no leeway.
LEEWAY_S = 10
#: A token must fit into the head of a request. Those of identity providers have 1 to 3 KiB.
MAX_TOKEN_CHARS = 8192

#: The name of a user whose token has no claim that a name can be made of.
_NAMELESS = "User"
#: The rights of a token without the claim `rooms`.
_USUAL_RIGHTS: Mapping[str, frozenset[Right]] = {ANY_ROOM: frozenset({Right.READ, Right.WRITE})}
#: The rights by their names in the claim `rooms`.
RIGHTS = {str(right): right for right in Right}


class _Refused(Exception):
    """A token is not valid. The message is for the log and has no text of the token."""


class TokenAuthenticator:
    """Implements `fastchat.auth.Authenticator` with the keys in `files`.

    `audience` and `issuer` are those that a token must have; an empty one is not checked.
    `user_claim` is the claim that identifies the user.
    `clock` returns seconds since 1970. Raises SettingError if a key cannot be used.
    """

    def __init__(
        self,
        files: Sequence[str],
        *,
        audience: str = "",
        issuer: str = "",
        user_claim: str = "sub",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = [Path(file).absolute() for file in files]
        self._audience = audience
        self._issuer = issuer
        self._user_claim = user_claim
        self._clock = clock
        self._keys = read_keys(self._files)
        if not audience and any(key.algorithm != "HS256" for key in self._keys):
            logger.warning(
                "--jwt-audience is not set: tokens that are for another service are accepted too"
            )

    def reload(self) -> None:
        try:
            self._keys = read_keys(self._files)
        except SettingError as error:
            logger.error("the keys could not be read again; the old ones stay in use: %s", error)
        else:
            logger.info("the keys for tokens were read again")

    def verify(self, token: str) -> Identity:
        try:
            return self._identity(self._claims(token))
        except _Refused as reason:
            logger.info("a token is refused: %s", reason)
        raise unauthorized("The token is not valid. Get a new one.")

    def _claims(self, token: str) -> dict[str, Any]:
        if not token.isascii() or len(token) > MAX_TOKEN_CHARS:
            raise _Refused("it is too long, or not ASCII")
        for key in self._candidates(token):
            try:
                return jwt.decode(
                    token,
                    key.key,
                    algorithms=[key.algorithm],
                    leeway=LEEWAY_S,
                    audience=self._audience or None,
                    issuer=self._issuer or None,
                    options={
                        "require": ["exp", self._user_claim],
                        "verify_exp": False,  # `_expiry` checks it
                        # Some services number their users or tokens in claims without a use here.
                        "verify_sub": self._user_claim == "sub",
                        "verify_jti": False,
                        "verify_aud": bool(self._audience),
                        "verify_iss": bool(self._issuer),
                        "verify_signature": True,
                    },
                )
            except jwt.InvalidSignatureError:
                continue
            except Exception as error:  # the library raises many types for malformed tokens
                reason = _REASONS.get(type(error), "it is malformed")
            # This is raised outside of `except`. Otherwise the library's error, which has parts
            # of the token, would become its context and be logged with it.
            raise _Refused(reason)
        raise _Refused("it is not signed with any of the server's keys")

    def _candidates(self, token: str) -> list[Key]:
        """The keys that can have signed a token.

        If some keys of its algorithm have its `kid`, only these are tried. Otherwise a token
        without a `kid` is tried with all keys of its algorithm, and a token with one only with
        those that have no `kid`.
        """
        try:
            header = jwt.get_unverified_header(token)
        except Exception:  # the library raises many types for malformed tokens
            header = {}
        algorithm, kid = header.get("alg"), header.get("kid")
        keys = [key for key in self._keys if key.algorithm == algorithm]
        named = [key for key in keys if kid is not None and key.kid == kid]
        return named or [key for key in keys if kid is None or key.kid is None]

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        """The user whom the claims of a verified token describe."""
        subject = claims[self._user_claim]
        if type(subject) is int:  # some services number their users
            subject = str(subject)
        if type(subject) is not str or not is_subject(subject):
            raise _Refused(
                f"its `{self._user_claim}` does not have 1 to {MAX_SUBJECT_CHARS} printable "
                "characters"
            )
        name = _name(claims.get("name")) or _name(subject.partition("@")[0]) or _NAMELESS
        rights = _rights(claims["rooms"]) if "rooms" in claims else _USUAL_RIGHTS
        return Identity(holder_of(subject), name, self._expiry(claims["exp"]), rights)

    def _expiry(self, value: Any) -> float:
        """The time in `exp`, which must be in the future."""
        if type(value) not in (int, float) or not 0 <= value < 1e12:  # also refuses NaN
            raise _Refused("its `exp` is not a time")
        if value <= self._clock():
            raise unauthorized(
                "The token has expired. Get a new one.", CloseCode.TOKEN_EXPIRED, temporary=True
            )
        return float(value)


def _name(claim: Any) -> str | None:
    """The name that a claim gives to a user; None if no valid name can be made of it."""
    return clean_username(claim) if type(claim) is str else None


def is_subject(subject: str) -> bool:
    """Whether a text can be the `sub` of a token."""
    return 1 <= len(subject) <= MAX_SUBJECT_CHARS and not has_hidden(subject)


_REASONS: dict[type[Exception], str] = {
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.MissingRequiredClaimError: "a claim is missing",
}


def _rights(rooms: Any) -> dict[str, frozenset[Right]]:
    """The rights in the claim `rooms`, by key of the room; unknown rights are ignored."""
    if type(rooms) is not dict:
        raise _Refused("its `rooms` is not an object")
    rights = {}
    for room, given in rooms.items():
        names = re.split("[ ,]+", given) if type(given) is str else given
        if type(names) is not list or not all(type(name) is str for name in names):
            raise _Refused("its `rooms` does not have a list of rights for each room")
        # A name of another form would leave the room to the rights of `*`.
        key = room_key(room)
        if key in rights:
            raise _Refused("its `rooms` names a room twice")
        rights[key] = frozenset(RIGHTS[name] for name in names if name in RIGHTS)
    return rights
