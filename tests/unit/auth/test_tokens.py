"""Tests of JSON Web Tokens: verifying them, reading keys, and issuing tokens."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fastchat.auth import Right
from fastchat.auth.issuing import create_secret, duration_of, make_token, rooms_of
from fastchat.auth.tokens import TokenAuthenticator
from fastchat.errors import CloseCode, CommandError, ErrorCode, SettingError
from fastchat.protocol.users import holder_of

SECRET = "an-Elephant-never-forgets-32-bytes"
OTHER = "another-Elephant-of-at-least-32-bytes"
_PUBLIC = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
_PRIVATE = (
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


def _pair(key: Any) -> tuple[bytes, bytes]:
    """A private and a public key in PEM."""
    return key.private_bytes(*_PRIVATE), key.public_key().public_bytes(*_PUBLIC)


RSA = _pair(rsa.generate_private_key(public_exponent=65537, key_size=2048))
ED25519 = _pair(ed25519.Ed25519PrivateKey.generate())
P256 = _pair(ec.generate_private_key(ec.SECP256R1()))


def key_file(folder: Path, content: str | bytes, name: str = "key") -> str:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(file)


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "u-1", "name": "Alice", "exp": int(time.time()) + 600, **more}


def signed(key: Any = SECRET, algorithm: str = "HS256", header: Any = None, **more: Any) -> str:
    present = {name: value for name, value in claims(**more).items() if value is not None}
    return jwt.encode(present, key, algorithm=algorithm, headers=header)


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
def authenticator(tmp_path: Path) -> TokenAuthenticator:
    """An authenticator with a secret, an RSA key, an audience and an issuer."""
    files = [key_file(tmp_path, SECRET, "secret"), key_file(tmp_path, RSA[1], "rsa.pem")]
    return TokenAuthenticator(files, audience="chat", issuer="https://id.example")


MINE: dict[str, Any] = {"aud": "chat", "iss": "https://id.example"}

# Identities


def test_token_identifies_its_user(authenticator: TokenAuthenticator) -> None:
    """`sub` gives the user, `name` the user's name, and `exp` the end."""
    token = signed(**MINE, exp=9_999_999_999)
    assert authenticator.verify(token) == (
        "sub:u-1",
        "Alice",
        9_999_999_999.0,
        {"*": {Right.READ, Right.WRITE}},
    )


@pytest.mark.parametrize(
    ("sub", "name"),
    [
        ("bob", "bob"),
        ("bob 🩷", "bob 🩷"),
        ("x" * 33, "x" * 32),
        ("bob@example.org", "bob"),  # the rest of an address is nobody's business
        ("@", "User"),
        ("\u3164", "User"),
    ],
)
def test_without_a_name_the_subject_is_the_name(
    authenticator: TokenAuthenticator, sub: str, name: str
) -> None:
    """A token without `name` gives its user the subject as name, or what can be made of it."""
    for given in ({"name": None}, {"name": 5}, {"name": " \u200d "}):
        assert authenticator.verify(signed(**MINE, **given, sub=sub)).name == name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("x" * 33, "x" * 32),
        ("Zoë " * 500, ("Zoë " * 8).strip()),
        ("a\u202eb", "ab"),
        ("می\u200cخواهم", "میخواهم"),
        ("👩\u200d🚀", "👩🚀"),
        ("  John \t\n Smith\0 ", "John Smith"),
    ],
)
def test_name_is_cut_and_cleaned(authenticator: TokenAuthenticator, given: str, name: str) -> None:
    """An identity provider's names are not refused: their users could do nothing about it."""
    assert authenticator.verify(signed(**MINE, name=given)).name == name


def test_another_claim_can_identify_the_user(tmp_path: Path) -> None:
    """A number counts as its digits; without a valid value the token is refused."""
    authenticator = TokenAuthenticator([key_file(tmp_path, SECRET)], user_claim="uid")
    for uid, sub in (("u-7", "u-7"), (7, "7")):
        assert authenticator.verify(signed(uid=uid)).credential == holder_of(sub)
    for sub in (None, 7, ["u"]):  # means nothing here
        assert authenticator.verify(signed(uid="u-7", sub=sub)).credential == holder_of("u-7")
    for uid in (None, "", True, 1.5, ["u"], "x" * 256, "a\nb"):
        with pytest.raises(CommandError):
            authenticator.verify(signed(uid=uid))


def test_claims_without_a_use_can_have_any_type(authenticator: TokenAuthenticator) -> None:
    """A service that numbers its tokens, for example, is not asked for texts."""
    assert authenticator.verify(signed(**MINE, jti=17)).credential == holder_of("u-1")


def test_made_token_has_the_claim_of_the_user(tmp_path: Path) -> None:
    """A server with --jwt-user-claim accepts it, and so does one without."""
    file = key_file(tmp_path, SECRET)
    token = make_token(Path(file), subject="bob", duration_s=60, user_claim="uid")
    for claim in ("uid", "sub"):
        authenticator = TokenAuthenticator([file], user_claim=claim)
        assert authenticator.verify(token).credential == holder_of("bob")


def test_name_is_normalised_to_nfc(authenticator: TokenAuthenticator) -> None:
    """A name in a token is normalised like any other name."""
    assert authenticator.verify(signed(**MINE, name="Zoe\u0308")).name == "Zoë"


@pytest.mark.parametrize(
    ("rooms", "room", "expected"),
    [
        ({"lobby": ["read", "write"]}, "lobby", "read write"),
        ({"lobby": ["read", "write"]}, "attic", ""),
        ({"lobby": "read,write, moderate"}, "lobby", "moderate read write"),
        ({"lobby": "read write"}, "lobby", "read write"),
        ({"*": ["read"], "lobby": ["write"]}, "lobby", "write"),
        ({"*": ["read"], "lobby": ["write"]}, "attic", "read"),
        ({"*": ["read"], "lobby": []}, "lobby", ""),
        ({"*": ["admin", "READ", "read"]}, "lobby", "read"),
        ({"Кухня": ["read"], "*": []}, "кухня", "read"),
        ({"cafe\u0301": ["read"]}, "café", "read"),
        ({"Straße": ["write"]}, "strasse", "write"),
        ({"Lobby": ["write"], "*": ["read"]}, "lobby", "read"),
        ({}, "lobby", ""),
    ],
)
def test_rights_depend_on_the_room(
    authenticator: TokenAuthenticator, rooms: Any, room: str, expected: str
) -> None:
    """A room has its own rights or those of `*`; unknown rights are ignored."""
    identity = authenticator.verify(signed(**MINE, rooms=rooms))
    may = [str(right) for right in sorted(Right) if identity.may(right, room)]
    assert " ".join(may) == expected


def test_token_without_rooms_does_not_let_its_user_moderate(
    authenticator: TokenAuthenticator,
) -> None:
    """A token without `rooms` gives the rights to read and to write in all rooms."""
    identity = authenticator.verify(signed(**MINE))
    assert identity.may(Right.READ, "lobby")
    assert identity.may(Right.WRITE, "anywhere")
    assert not identity.may(Right.MODERATE, "lobby")


# Invalid tokens


def _wrong_padding() -> str:
    head, body, signature = signed(**MINE).split(".")
    return f"{head}.{body}=.{signature}"


def _unsigned(header: dict[str, Any], signature: str = "") -> str:
    return f"{encoded(header)}.{encoded(claims(**MINE))}.{signature}"


def _with_public_key_as_secret() -> str:
    """A token signed by HS256 with the PEM of a public key, an attack on the algorithm."""
    import hashlib
    import hmac

    signing = f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded(claims(**MINE))}"
    digest = hmac.new(RSA[1], signing.encode(), hashlib.sha256).digest()
    return f"{signing}.{encoded(digest)}"


GARBAGE: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "not a token": lambda: "hello",
    "not base64": lambda: "!!!.???.***",
    "not ASCII": lambda: "é.é.é",
    "padded": _wrong_padding,
    "four parts": lambda: signed(**MINE) + ".x",
    "huge": lambda: signed(**MINE, more="x" * 20_000),
    "alg none": lambda: _unsigned({"alg": "none"}),
    "alg None in another case": lambda: _unsigned({"alg": "nOnE"}),
    "no alg": lambda: _unsigned({"typ": "JWT"}),
    "no signature": lambda: _unsigned({"alg": "HS256"}),
    "header that is nested deeply": lambda: f"{encoded(b'[' * 5000)}.e30.e30",
    "header that is a list": lambda: f"{encoded(['alg'])}.e30.e30",
    "HS256 with the public key": _with_public_key_as_secret,
    "HS512 with the right secret": lambda: signed(SECRET * 2, "HS512", **MINE),
    "another secret": lambda: signed(OTHER, **MINE),
    "another RSA key": lambda: signed(
        _pair(rsa.generate_private_key(public_exponent=65537, key_size=2048))[0], "RS256", **MINE
    ),
    "PS256 with the right key": lambda: signed(RSA[0], "PS256", **MINE),
    "an algorithm for which there is no key": lambda: signed(ED25519[0], "EdDSA", **MINE),
    "no exp": lambda: signed(**MINE, exp=None),
    "exp that is text": lambda: signed(**MINE, exp="9999999999"),
    "exp that is no number": lambda: signed(**MINE, exp=float("nan")),
    "exp beyond all time": lambda: signed(**MINE, exp=float("inf")),
    "exp that is true": lambda: signed(**MINE, exp=True),
    "no sub": lambda: signed(**MINE, sub=None),
    "empty sub": lambda: signed(**MINE, sub=""),
    "sub of 256 characters": lambda: signed(**MINE, sub="x" * 256),
    "sub that breaks lines": lambda: signed(**MINE, sub="a\nb"),
    "not valid yet": lambda: signed(**MINE, nbf=int(time.time()) + 60),
    "another audience": lambda: signed(**{**MINE, "aud": "mail"}),
    "no audience": lambda: signed(iss=MINE["iss"]),
    "another issuer": lambda: signed(**{**MINE, "iss": "https://evil.example"}),
    "no issuer": lambda: signed(aud="chat"),
    "kid that is a path": lambda: signed(OTHER, "HS256", {"kid": "../../../dev/null"}, **MINE),
    "kid that is SQL": lambda: signed(OTHER, "HS256", {"kid": "' OR 1=1"}, **MINE),
    "key in its own header": lambda: signed(
        OTHER, "HS256", {"jwk": {"kty": "oct", "k": encoded(OTHER.encode())}}, **MINE
    ),
    "jku and x5u": lambda: signed(
        OTHER, "HS256", {"jku": "http://127.0.0.1:9/", "x5u": "http://127.0.0.1:9/"}, **MINE
    ),
    "unknown crit": lambda: signed(SECRET, "HS256", {"crit": ["x"], "x": 1}, **MINE),
    "rooms that is a list": lambda: signed(**MINE, rooms=["lobby"]),
    "a room twice": lambda: signed(**MINE, rooms={"Кухня": [], "кухня": ["read"]}),
    "rights that are an object": lambda: signed(**MINE, rooms={"lobby": {"read": True}}),
    "claims that are a list": lambda: jwt.PyJWS().encode(b"[1]", SECRET, algorithm="HS256"),
    "a token within a token": lambda: jwt.PyJWS().encode(
        signed(**MINE).encode(), SECRET, algorithm="HS256"
    ),
}


@pytest.mark.parametrize("make", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_invalid_token_is_refused(
    make: Callable[[], str], authenticator: TokenAuthenticator, caplog: pytest.LogCaptureFixture
) -> None:
    """All refusals have the same sentence and 4501; neither it nor the log has any of the token."""
    caplog.set_level(logging.DEBUG)
    token = make()
    with pytest.raises(CommandError) as caught:
        authenticator.verify(token)
    assert caught.value.code == ErrorCode.UNAUTHORIZED
    assert caught.value.close_code == CloseCode.UNAUTHORIZED
    assert caught.value.message == "The token is not valid. Get a new one."
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    for part in token.split("."):
        assert len(part) < 4 or part not in caplog.text


def test_valid_token_is_accepted(authenticator: TokenAuthenticator) -> None:
    """The tokens that the table above varies are valid, with either key."""
    assert authenticator.verify(signed(**MINE)).name == "Alice"
    assert authenticator.verify(signed(RSA[0], "RS256", **MINE)).name == "Alice"


def test_expired_token_has_its_own_close_code(authenticator: TokenAuthenticator) -> None:
    """An expired token is refused with 4011, but only if it is valid otherwise."""
    now = int(time.time())
    with pytest.raises(CommandError) as caught:
        authenticator.verify(signed(**MINE, exp=now))
    assert caught.value.code == ErrorCode.UNAUTHORIZED
    assert caught.value.close_code == CloseCode.TOKEN_EXPIRED
    with pytest.raises(CommandError) as caught:
        authenticator.verify(signed(OTHER, **MINE, exp=now - 5))
    assert caught.value.close_code == CloseCode.UNAUTHORIZED


def test_issuers_clock_can_be_ten_seconds_ahead(authenticator: TokenAuthenticator) -> None:
    """`nbf` and `iat` can be up to ten seconds in the future."""
    soon = int(time.time()) + 5
    assert authenticator.verify(signed(**MINE, nbf=soon, iat=soon)).name == "Alice"


def test_audience_and_issuer_are_checked_if_they_are_set(tmp_path: Path) -> None:
    """If they are not set, a token can have any."""
    authenticator = TokenAuthenticator([key_file(tmp_path, SECRET)])
    assert authenticator.verify(signed()).name == "Alice"
    assert authenticator.verify(signed(aud="mail", iss="somebody")).name == "Alice"


def test_missing_audience_is_logged_for_public_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an audience, tokens for other services are accepted too."""
    secret, public = key_file(tmp_path, SECRET, "secret"), key_file(tmp_path, RSA[1], "public")
    TokenAuthenticator([secret])
    TokenAuthenticator([secret, public], audience="chat")
    assert caplog.text == ""
    TokenAuthenticator([secret, public])
    assert "--jwt-audience is not set" in caplog.text


# Keys


@pytest.mark.parametrize(
    ("pair", "algorithm"), [(RSA, "RS256"), (ED25519, "EdDSA"), (P256, "ES256")]
)
def test_public_key_is_for_the_algorithm_of_its_type(
    tmp_path: Path, pair: tuple[bytes, bytes], algorithm: str
) -> None:
    """An RSA key verifies RS256, an Ed25519 key EdDSA, and a P-256 key ES256."""
    authenticator = TokenAuthenticator([key_file(tmp_path, pair[1])])
    assert authenticator.verify(signed(pair[0], algorithm)).name == "Alice"
    with pytest.raises(CommandError):
        authenticator.verify(signed())


def _jwk(pair: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    key = serialization.load_pem_public_key(pair[1])
    if isinstance(key, rsa.RSAPublicKey):
        entry = jwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True)
        entry.pop("key_ops", None)
    elif isinstance(key, ed25519.Ed25519PublicKey):
        entry = jwt.algorithms.OKPAlgorithm.to_jwk(key, as_dict=True)
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        entry = jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True)
    return {**entry, **more}


def test_jwks_can_have_several_keys(tmp_path: Path) -> None:
    """`kid` chooses among the keys, and keys for other purposes are skipped."""
    second = _pair(ed25519.Ed25519PrivateKey.generate())
    keys = [
        _jwk(ED25519, kid="a", use="sig"),
        _jwk(second, kid="b"),
        _jwk(P256),
        _jwk(RSA, kid="r", alg="RS512"),
        {"kty": "unheard-of"},
        {"kty": "oct", "k": encoded(SECRET.encode()), "kid": "s"},
    ]
    authenticator = TokenAuthenticator([key_file(tmp_path, json.dumps({"keys": keys}))])
    assert authenticator.verify(signed(ED25519[0], "EdDSA", {"kid": "a"})).name == "Alice"
    assert authenticator.verify(signed(second[0], "EdDSA", {"kid": "b"})).name == "Alice"
    assert authenticator.verify(signed(second[0], "EdDSA")).name == "Alice"
    assert authenticator.verify(signed(P256[0], "ES256", {"kid": "?"})).name == "Alice"
    assert authenticator.verify(signed(SECRET, "HS256", {"kid": "s"})).name == "Alice"
    for token in (
        signed(second[0], "EdDSA", {"kid": "a"}),
        signed(second[0], "EdDSA", {"kid": "c"}),
        signed(RSA[0], "RS256", {"kid": "r"}),
        signed(RSA[0], "RS512", {"kid": "r"}),
    ):
        with pytest.raises(CommandError):
            authenticator.verify(token)


def _small_rsa() -> bytes:
    return _pair(rsa.generate_private_key(public_exponent=65537, key_size=1024))[1]  # noqa: S505


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "nor a secret"),
        ("too-short", "32 are needed"),
        ("x" * 31, "31 bytes"),
        ("two words of more than thirty-two bytes", "one word"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDummy me@here", "one word"),
        (b"\x30\x82" + bytes(100), "nor a secret"),
        # As Keycloak shows a key. As a secret, it would let all readers of it sign tokens.
        (b"".join(RSA[1].splitlines()[1:-1]), "has a public key or an address"),
        (b"".join(ED25519[1].splitlines()[1:-1]), "has a public key or an address"),
        ("https://login.example/.well-known/jwks.json", "has a public key or an address"),
        (RSA[0], "only its public half"),
        (ED25519[0], "only its public half"),
        (b"junk before\n" + RSA[0], "only its public half"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "no public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "no public key"),
        (_small_rsa(), "1024 bits"),
        (_pair(ec.generate_private_key(ec.SECP384R1()))[1], "P-256"),
        ("{", "JWKS"),
        ("{}", "JWKS"),
        ('{"keys": 5}', "JWKS"),
        ('{"keys": [5]}', "JWKS"),
        ('{"keys": []}', "no key for"),
        ('{"keys": [{"kty": "RSA"}]}', "JWKS"),
        (json.dumps({"keys": [_jwk(ED25519, use="enc")]}), "no key for"),
        (json.dumps({"keys": [_jwk(ED25519, d="AAAA")]}), "private"),
        ('{"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}', "5 bytes"),
        (b"x" * 300_000, "262,144"),
    ],
    ids=itertools.count(),  # some of the keys are new each time
)
def test_unusable_key_is_refused_with_one_sentence(
    tmp_path: Path, content: Any, words: str
) -> None:
    """The error names the setting, the file and the fault, and has no secret."""
    file = key_file(tmp_path, content)
    with pytest.raises(SettingError) as caught:
        TokenAuthenticator([file])
    message = str(caught.value)
    assert message.startswith(f"--jwt-key-file {file} ")
    assert message.endswith(".")
    assert words in message


def test_missing_key_file_is_refused_with_one_sentence(tmp_path: Path) -> None:
    """A missing file raises SettingError."""
    with pytest.raises(SettingError, match="cannot be read: No such file"):
        TokenAuthenticator([str(tmp_path / "nothing")])


def test_keys_can_be_rotated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two keys are valid at once; `reload` reads them again, or leaves the old ones in use."""
    first, second = key_file(tmp_path, SECRET, "1"), key_file(tmp_path, OTHER, "2")
    authenticator = TokenAuthenticator([first, second])
    old, new = signed(), signed(OTHER)
    assert authenticator.verify(old) == authenticator.verify(new)
    key_file(tmp_path, "broken", "1")
    authenticator.reload()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "broken" not in caplog.text
    assert authenticator.verify(old).name == "Alice"
    key_file(tmp_path, OTHER, "1")
    authenticator.reload()
    assert authenticator.verify(new).name == "Alice"
    with pytest.raises(CommandError):
        authenticator.verify(old)


# Issuing


@pytest.mark.parametrize("pair", [RSA, ED25519, P256], ids=["RSA", "Ed25519", "P-256"])
def test_token_of_a_private_key_is_verified_by_its_public_key(
    tmp_path: Path, pair: tuple[bytes, bytes]
) -> None:
    """The token has all claims that `fastchat token` can set."""
    private, public = key_file(tmp_path, pair[0], "private"), key_file(tmp_path, pair[1], "public")
    token = make_token(
        Path(private),
        subject="u-1",
        name="Alice",
        rooms={"lobby": ["read"]},
        duration_s=60,
        audience="chat",
        issuer="me",
    )
    identity = TokenAuthenticator([public], audience="chat", issuer="me").verify(token)
    assert identity.credential == holder_of("u-1")
    assert identity.rights == {"lobby": {Right.READ}}
    assert 50 < identity.expires_s - time.time() <= 60


def test_new_secret_is_usable_and_private(tmp_path: Path) -> None:
    """The new file has the mode 0600, and an existing file is not replaced."""
    file = tmp_path / "secret"
    create_secret(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = make_token(file, subject="bob", duration_s=60)
    assert TokenAuthenticator([str(file)]).verify(token).name == "bob"
    before = file.read_bytes()
    with pytest.raises(SettingError, match="exists already"):
        create_secret(file)
    assert file.read_bytes() == before
    with pytest.raises(SettingError, match="cannot be written"):
        create_secret(tmp_path / "no" / "where")


@pytest.mark.parametrize(
    ("content", "words"),
    [(RSA[1], "no private key"), ('{"keys": []}', "JWKS"), ("short", "32 are needed")],
)
def test_token_is_not_made_with_an_unusable_key(tmp_path: Path, content: Any, words: str) -> None:
    """A file without a secret or a private key raises SettingError."""
    with pytest.raises(SettingError, match=words):
        make_token(Path(key_file(tmp_path, content)), subject="bob", duration_s=60)


def test_token_is_not_made_for_an_invalid_user(tmp_path: Path) -> None:
    """A `sub` that servers refuse, or a name that they would change, raises SettingError."""
    file = Path(key_file(tmp_path, SECRET))
    for wrong in ({"subject": ""}, {"subject": "x" * 256}, {"subject": "x", "name": " x"}):
        with pytest.raises(SettingError, match=r"--(sub|name)"):
            make_token(file, duration_s=60, **wrong)


def test_duration_is_parsed() -> None:
    """A duration has a unit or is in seconds, and is at most a year."""
    assert [duration_of(text) for text in ("90", "90s", "15m", "1h", "7d")] == [
        *(90, 90, 900, 3600, 604800)
    ]
    for wrong in ("", "0", "-1h", "1.5h", "1w", "367d", "h", "１h"):
        with pytest.raises(SettingError, match="--for"):
            duration_of(wrong)


def test_rooms_claim_is_parsed_from_the_command_line() -> None:
    """Each `ROOM=RIGHTS` gives the rights in one room."""
    assert rooms_of(["lobby=read,write", "*=read", "attic="]) == {
        "lobby": ["read", "write"],
        "*": ["read"],
        "attic": [],
    }
    assert rooms_of(["Кухня=read"]) == {"кухня": ["read"]}
    for wrong in ("lobby", "lobby=reed", "Lobby=read", "=read", "lobby=read,,write"):
        with pytest.raises(SettingError, match="--rooms"):
            rooms_of([wrong])
