"""Reads the keys that verify and sign tokens from files.

A file contains a secret (one word of ASCII), a key in PEM, or a JSON Web Key Set (JWKS, RFC
7517). A JWKS can verify tokens, but not sign them. Each error is a SettingError that names the
file.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fastchat.errors import SettingError

__all__ = ["MIN_SECRET_BYTES", "Key", "read_keys", "read_signing_key"]

#: RFC 7518 §3.2: "A key of the same size as the hash output (for instance, 256 bits for "HS256")
#: or larger MUST be used with this algorithm."
MIN_SECRET_BYTES = 32
#: RFC 7518 §3.3: "A key of size 2048 bits or larger MUST be used with these algorithms."
MIN_RSA_BITS = 2048
#: A token without a `kid` is tried with each key of its algorithm, and each try takes time.
MAX_KEYS = 32
#: A JWKS of MAX_KEYS entries has 8 KiB for each: a key and its chain of certificates (`x5c`).
MAX_KEY_FILE_BYTES = 256 * 1024

#: The only algorithm of each type of a JWK (RFC 7517): by `kty` and `crv`.
_ALGORITHMS = {
    ("oct", None): "HS256",
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
_PEM_MARK = b"-----BEGIN"
_SECRET = re.compile(rb"[\x21-\x7e]+")


class Key(NamedTuple):
    """A key that verifies or signs tokens of one algorithm.

    `kid` is the key's name in its JWKS; None if it has none.
    """

    algorithm: str
    key: Any
    kid: str | None = None


def read_keys(files: Iterable[Path]) -> list[Key]:
    """The keys in some files, for verifying tokens.

    Raises SettingError if a file has no usable key, or if there are more than MAX_KEYS keys.
    """
    keys = [key for file in files for key in _keys_in(file)]
    if len(keys) > MAX_KEYS:
        raise SettingError(
            f"--jwt-key-file: the files have {len(keys)} keys; at most {MAX_KEYS} are allowed."
        )
    return keys


def read_signing_key(file: Path) -> Key:
    """The secret or the private key in a file, for signing tokens.

    Raises SettingError if the file has neither.
    """
    data = _read(file)
    if data.startswith(b"{"):
        raise _bad(file, "is a JWKS; tokens are signed with a secret or a private key in PEM")
    if _PEM_MARK not in data:
        return _secret(file, data)
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError:
        raise _bad(file, "is protected by a password; use a key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _bad(file, "is PEM, but has no private key, which is needed to sign tokens") from None
    return _public(file, key.public_key())._replace(key=key)


def _keys_in(file: Path) -> list[Key]:
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
        raise _bad(file, "is PEM, but has no public key (-----BEGIN PUBLIC KEY-----)") from None


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
    """The secret in a file; raises if the file seems to contain something else.

    If a public key were accepted as a secret, every person could sign tokens (RFC 8725 §2.1).
    """
    if not _SECRET.fullmatch(data):
        raise _bad(
            file,
            "has neither a public key in PEM, nor a JWKS, nor a secret (one word of printable "
            "ASCII)",
        )
    if _is_public(data):
        raise _bad(
            file,
            "has a public key or an address where a secret is expected; a public key needs the "
            "lines -----BEGIN PUBLIC KEY----- and -----END PUBLIC KEY-----",
        )
    if len(data) < MIN_SECRET_BYTES:
        raise _bad(
            file,
            f"has a secret of {len(data)} bytes, but at least {MIN_SECRET_BYTES} are needed "
            "(fastchat token --new-key FILE creates one)",
        )
    return Key("HS256", data)


def _is_public(data: bytes) -> bool:
    """Whether a word is an address, or a public key or certificate in base64 without PEM lines.

    Identity providers show their public keys in that form.
    """
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
            raise _bad(
                file,
                f"has an RSA key of {key.key_size} bits, but at least {MIN_RSA_BITS} are needed",
            )
        return Key("RS256", key, kid)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return Key("EdDSA", key, kid)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return Key("ES256", key, kid)
    raise _bad(file, "has a key that is neither Ed25519, nor P-256, nor RSA")


def _jwks(file: Path, data: bytes) -> list[Key]:
    """The usable keys of a JWKS; keys for other algorithms or purposes are skipped.

    RFC 7517 §5: "Implementations SHOULD ignore JWKs within a JWK Set that use "kty" (key type)
    values that are not understood by them, […] or for which values are out of the supported
    ranges."
    """
    try:
        entries = json.loads(data)["keys"]
        keys = [key for entry in entries if (key := _jwk(file, entry)) is not None]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, jwt.PyJWTError):
        raise _bad(file, "is not a valid JWKS") from None
    if not keys:
        raise _bad(file, f"has no key for any of {', '.join(_ALGORITHMS.values())}")
    return keys


def _jwk(file: Path, entry: Mapping[str, Any]) -> Key | None:
    """The key in one entry of a JWKS; None if it is for another algorithm or purpose."""
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
            raise _bad(
                file,
                f"has a secret of {len(key)} bytes, but at least {MIN_SECRET_BYTES} are needed",
            )
        return Key(algorithm, key, kid)
    return _public(file, key, kid)


def _bad(file: Path, what: str) -> SettingError:
    return SettingError(f"--jwt-key-file {file} {what}.")
