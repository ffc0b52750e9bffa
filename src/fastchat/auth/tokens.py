"""JSON Web Tokens (RFC 7519): verifying them, and making them.

The algorithm is that of the key, never the token's choice (RFC 8725 §3.1): a secret is for
HS256 alone, a public key for the one algorithm of its type. Of a token's header `alg` and
`kid` may choose among the keys that we have, and nothing in it is ever fetched or opened.
No text of a token gets into a message, a log or a traceback.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fastchat.auth import ANY_ROOM, Identity, Right, unauthorized
from fastchat.errors import CloseCode, CommandError, SettingError
from fastchat.protocol import SUBJECT
from fastchat.protocol.names import check_room, check_username

__all__ = ["TokenAuthenticator", "create_secret", "duration_of", "make_token", "rooms_of"]

logger = logging.getLogger("fastchat.auth")

#: How far an issuer's clock may be ahead of ours (`nbf`, `iat`). `exp` holds to the second.
LEEWAY_S = 10
#: A token has to fit into a request's head; those of identity providers have 1 to 3 KiB.
MAX_TOKEN_CHARS = 8192
MAX_SUBJECT_CHARS = 255
MIN_SECRET_BYTES = 32  # RFC 7518 §3.2
MIN_RSA_BITS = 2048  # RFC 7518 §3.3
MAX_KEY_FILE_BYTES = 256 * 1024
MAX_KEYS = 32
MAX_DURATION_S = 366 * 86400

#: What a token without `rooms` may do.
_USUAL_RIGHTS: Mapping[str, frozenset[Right]] = {ANY_ROOM: frozenset({Right.READ, Right.WRITE})}
_RIGHTS = {str(right): right for right in Right}
#: The only algorithm of each type of a JWK (RFC 7517): by `kty` and `crv`.
_ALGORITHMS = {
    ("oct", None): "HS256",
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
_PEM_MARK = b"-----BEGIN"
_SECRET = re.compile(rb"[\x21-\x7e]+")


class _Refused(Exception):
    """A token is not valid; for the log, in words of ours."""


class Key(NamedTuple):
    """What tokens of one algorithm are verified (or signed) with. `kid` is that of a JWKS."""

    algorithm: str
    key: Any
    kid: str | None = None


class TokenAuthenticator:
    """Implements `fastchat.auth.Authenticator` with the keys in `files`.

    `audience` and `issuer` are checked where they are not empty. `clock` returns seconds
    since 1970. Raises SettingError when a key cannot be used.
    """

    def __init__(
        self,
        files: Sequence[str],
        *,
        audience: str = "",
        issuer: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = [Path(file).absolute() for file in files]
        self._audience = audience
        self._issuer = issuer
        self._clock = clock
        self._keys = _read_all(self._files)
        if not audience and any(key.algorithm != "HS256" for key in self._keys):
            logger.warning(
                "--jwt-audience is not set: a token for anything else opens the chat too"
            )

    def reload(self) -> None:
        try:
            self._keys = _read_all(self._files)
        except SettingError as error:
            logger.error("tokens are verified with the old keys: %s", error)
        else:
            logger.info("tokens are verified with the keys as they are now")

    def verify(self, token: str) -> Identity:
        try:
            return self._identity(self._claims(token))
        except _Refused as reason:
            logger.info("a token is refused: %s", reason)
        raise unauthorized("The token is not valid.")

    def _claims(self, token: str) -> dict[str, Any]:
        if not token.isascii() or len(token) > MAX_TOKEN_CHARS:
            raise _Refused("it is too long, or none")
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
                        "require": ["exp", "sub"],
                        "verify_exp": False,  # `_expiry` does
                        "verify_aud": bool(self._audience),
                        "verify_iss": bool(self._issuer),
                        "verify_signature": True,
                    },
                )
            except jwt.InvalidSignatureError:
                continue
            except Exception as error:  # whatever it was, it is no valid token
                reason = _REASONS.get(type(error), "it is malformed")
            # Not within `except`: the library's error has parts of the token.
            raise _Refused(reason)
        raise _Refused("it is not signed with a key of ours")

    def _candidates(self, token: str) -> list[Key]:
        """The keys that may have signed it. A `kid` chooses within a JWKS, if it is there."""
        try:
            header = jwt.get_unverified_header(token)
        except Exception:  # see above
            header = {}
        algorithm, kid = header.get("alg"), header.get("kid")
        keys = [key for key in self._keys if key.algorithm == algorithm]
        named = [key for key in keys if kid is not None and key.kid == kid]
        return named or [key for key in keys if kid is None or key.kid is None]

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        subject = claims["sub"]
        if not _is_subject(subject):
            raise _Refused(f"its `sub` is not of 1 to {MAX_SUBJECT_CHARS} printable characters")
        try:
            name = check_username(claims.get("name", subject))
        except CommandError:
            raise _Refused("its `name`, or `sub` without one, is not allowed as a name") from None
        rights = _rights(claims["rooms"]) if "rooms" in claims else _USUAL_RIGHTS
        return Identity(SUBJECT + subject, name, self._expiry(claims["exp"]), rights)

    def _expiry(self, value: Any) -> float:
        if type(value) not in (int, float) or not 0 <= value < 1e12:  # NaN is not in it either
            raise _Refused("its `exp` is not a time")
        if value <= self._clock():
            raise unauthorized(
                "The token has expired; get a new one.", CloseCode.TOKEN_EXPIRED, temporary=True
            )
        return float(value)


def _is_subject(subject: str) -> bool:
    return 1 <= len(subject) <= MAX_SUBJECT_CHARS and subject.isprintable()


_REASONS: dict[type[Exception], str] = {
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.MissingRequiredClaimError: "a claim is missing",
}


def _rights(rooms: Any) -> dict[str, frozenset[Right]]:
    """The claim `rooms`; rights that we do not know are of no use, and no fault."""
    if type(rooms) is not dict:
        raise _Refused("its `rooms` is not an object")
    rights = {}
    for room, given in rooms.items():
        names = re.split("[ ,]+", given) if type(given) is str else given
        if type(names) is not list or not all(type(name) is str for name in names):
            raise _Refused("its `rooms` does not have a list of rights for each room")
        rights[room] = frozenset(_RIGHTS[name] for name in names if name in _RIGHTS)
    return rights


# Keys to verify with


def _read_all(files: Iterable[Path]) -> list[Key]:
    keys = [key for file in files for key in _read_keys(file)]
    if len(keys) > MAX_KEYS:
        raise SettingError(
            f"--jwt-key-file: {MAX_KEYS} keys at most; these files have {len(keys)}."
        )
    return keys


def _read_keys(file: Path) -> list[Key]:
    data = _read(file)
    if data.startswith(b"{"):
        return _jwks(file, data)
    if _PEM_MARK not in data:
        return [_secret(file, data)]
    if b"PRIVATE KEY" in data:
        raise _bad(
            file,
            "is a private key; the server needs only its public half "
            "(openssl pkey -in FILE -pubout)",
        )
    try:
        return [_public(file, serialization.load_pem_public_key(data))]
    except (ValueError, UnsupportedAlgorithm):
        raise _bad(file, "is PEM, but no public key (-----BEGIN PUBLIC KEY-----)") from None


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise _bad(file, f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise _bad(file, f"has more than {MAX_KEY_FILE_BYTES:,} bytes")
    return data.strip()


def _secret(file: Path, data: bytes) -> Key:
    """One word of printable ASCII: so no key of another kind, which is public, is taken for one."""
    if not _SECRET.fullmatch(data):
        raise _bad(
            file,
            "is no public key in PEM, no JWKS, and no secret, which is one word of printable ASCII",
        )
    if _is_public(data):
        raise _bad(
            file,
            "is a public key or an address, which everybody may know, and no secret; a public key "
            "needs its lines -----BEGIN PUBLIC KEY----- and -----END PUBLIC KEY-----",
        )
    if len(data) < MIN_SECRET_BYTES:
        raise _bad(
            file,
            f"has a secret of {len(data)} bytes, {MIN_SECRET_BYTES} are needed "
            "(fastchat token --new-key FILE makes one)",
        )
    return Key("HS256", data)


def _is_public(data: bytes) -> bool:
    """Whether it is a word, and yet no secret: identity providers show keys in base64 alone."""
    if b"://" in data:
        return True
    try:
        der = base64.b64decode(data, validate=True)
    except binascii.Error:
        return False
    for load in (serialization.load_der_public_key, x509.load_der_x509_certificate):
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            load(der)
            return True
    return False


def _public(file: Path, key: Any, kid: str | None = None) -> Key:
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise _bad(file, f"has an RSA key of {key.key_size} bits, {MIN_RSA_BITS} are needed")
        return Key("RS256", key, kid)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return Key("EdDSA", key, kid)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return Key("ES256", key, kid)
    raise _bad(file, "has a key that is neither Ed25519, nor P-256, nor RSA")


def _jwks(file: Path, data: bytes) -> list[Key]:
    """The keys of a JWKS (RFC 7517) that we can use; what is for something else is passed over."""
    try:
        entries = json.loads(data)["keys"]
        keys = [key for entry in entries if (key := _jwk(file, entry)) is not None]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, jwt.PyJWTError):
        raise _bad(file, "is not a valid JWKS") from None
    if not keys:
        raise _bad(file, f"has no key for {', '.join(_ALGORITHMS.values())}")
    return keys


def _jwk(file: Path, entry: Mapping[str, Any]) -> Key | None:
    kind = entry["kty"]
    algorithm = _ALGORITHMS.get((kind, entry.get("crv")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    if entry.get("use", "sig") != "sig":
        return None
    kid = entry.get("kid")
    if kid is not None and type(kid) is not str:
        raise _bad(file, "is not a valid JWKS")
    if "d" in entry:
        raise _bad(file, "has a private key; the server needs only the public ones")
    key = jwt.PyJWK(dict(entry), algorithm=algorithm).key
    if kind == "oct":
        if len(key) < MIN_SECRET_BYTES:
            raise _bad(file, f"has a secret of {len(key)} bytes, {MIN_SECRET_BYTES} are needed")
        return Key(algorithm, key, kid)
    return _public(file, key, kid)


def _bad(file: Path, what: str) -> SettingError:
    return SettingError(f"--jwt-key-file {file} {what}.")


# Making tokens


def make_token(
    file: Path,
    *,
    subject: str,
    duration_s: int,
    name: str | None = None,
    rooms: Mapping[str, Sequence[str]] | None = None,
    audience: str = "",
    issuer: str = "",
) -> str:
    """A token signed with the secret or the private key in `file`.

    Raises SettingError, also for a user whom no server would let in.
    """
    if not _is_subject(subject):
        raise SettingError(f"--sub has 1 to {MAX_SUBJECT_CHARS} printable characters.")
    try:
        check_username(subject if name is None else name)
    except CommandError as refusal:
        raise SettingError(f"{'--sub' if name is None else '--name'}: {refusal.message}") from None
    algorithm, key, _ = _read_signing_key(file)
    now = int(time.time())
    claims: dict[str, Any] = {"sub": subject, "iat": now, "exp": now + duration_s}
    more = {"name": name, "rooms": rooms, "aud": audience or None, "iss": issuer or None}
    claims.update((claim, value) for claim, value in more.items() if value is not None)
    return jwt.encode(claims, key, algorithm=algorithm)


def _read_signing_key(file: Path) -> Key:
    data = _read(file)
    if data.startswith(b"{"):
        raise _bad(file, "is a JWKS; a token is made with a secret or a private key in PEM")
    if _PEM_MARK not in data:
        return _secret(file, data)
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError:
        raise _bad(file, "is protected by a password; give one that is not") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _bad(file, "is PEM, but no private key, with which tokens are made") from None
    return _public(file, key.public_key())._replace(key=key)


def create_secret(file: Path) -> None:
    """Write a new secret that only its owner may read; raises SettingError, also if it is there."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as opened:
            opened.write(secrets.token_urlsafe(MIN_SECRET_BYTES) + "\n")
    except FileExistsError:
        raise SettingError(f"--new-key {file} is there already; choose another name.") from None
    except OSError as error:
        raise SettingError(f"--new-key {file} cannot be written: {error.strerror}.") from None


_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration_of(text: str) -> int:
    """Seconds out of ``90s``, ``15m``, ``1h`` or ``7d``; raises SettingError."""
    found = re.fullmatch("([0-9]{1,9})([smhd]?)", text, re.ASCII)
    seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
    if not 1 <= seconds <= MAX_DURATION_S:
        raise SettingError(f"--for is a time like 90s, 15m, 1h or 7d, at most 366d, not {text!r}.")
    return seconds


def rooms_of(texts: Iterable[str]) -> dict[str, list[str]]:
    """The claim `rooms` out of ``lobby=read,write`` and ``*=read``; raises SettingError."""
    rooms: dict[str, list[str]] = {}
    for text in texts:
        room, equals, given = text.partition("=")
        rights = given.split(",") if given else []
        try:
            if not equals or set(rights) - set(_RIGHTS):
                raise SettingError(
                    f"--rooms is like lobby=read,write, with {', '.join(_RIGHTS)}, not {text!r}."
                )
            rooms[room if room == ANY_ROOM else check_room(room)] = rights
        except CommandError as refusal:
            raise SettingError(f"--rooms {text!r}: {refusal.message}") from None
    return rooms
