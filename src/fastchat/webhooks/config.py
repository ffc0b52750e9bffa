"""The tables `[[webhook]]`, `[before-publish]` and `[before-join]` of the settings file."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastchat.errors import CommandError, SettingError
from fastchat.protocol.names import check_room
from fastchat.webhooks.addresses import is_address, is_private_name, is_public

__all__ = [
    "BEFORE_JOIN",
    "BEFORE_PUBLISH",
    "EVENTS",
    "LIVE_EVENTS",
    "TABLES",
    "Config",
    "Hook",
    "Target",
    "Webhook",
    "parse_config",
    "read_again",
    "read_config",
]

logger = logging.getLogger("fastchat.webhooks")

#: The names of the tables.
WEBHOOK, BEFORE_PUBLISH, BEFORE_JOIN = TABLES = ("webhook", "before-publish", "before-join")
#: What a webhook can be told of. The last two are not stored.
LIVE_EVENTS = ("join", "leave")
EVENTS = ("message", "edit", "delete", "react", *LIVE_EVENTS)
#: More webhooks would make the cursors, which are stored for each of them, too many.
MAX_WEBHOOKS = 16
#: Standard Webhooks, "Signature scheme": "The secret key should be unique … with a length of 24 to
#: 64 bytes". Old and new secrets are valid together while receivers take over the new one.
MIN_SECRET_BYTES, MAX_SECRET_BYTES, MAX_SECRETS = 24, 64, 4
SECRET_PREFIX = "whsec_"  # noqa: S105 no secret
MAX_SECRET_FILE_BYTES = 4096
MAX_URL_CHARS = 2000
#: The range of `timeout-ms`, and its default. A connection is not read while a hook is asked: its
#: pongs are not read either, and one must arrive within 10 s.
MIN_TIMEOUT_MS, MAX_TIMEOUT_MS, DEFAULT_TIMEOUT_MS = 50, 5000, 1000

#: The names of webhooks, which are labels of metrics.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The address of a service, and the secrets that requests to it are signed with.

    `may_be_private` is whether the operator has written a private address, or a name of a private
    network, or has set `allow-private`. Otherwise no connection is made to a private address,
    whatever the name resolves to.
    """

    url: str
    may_be_private: bool
    secrets: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Webhook:
    """A service that is told of `events` in rooms; `name` identifies it in the log and metrics."""

    name: str
    target: Target
    events: frozenset[str]
    rooms: re.Pattern[str]

    @property
    def digest(self) -> str:
        """A digest of the address, to notice that it has changed."""
        return hashlib.sha256(self.target.url.encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Hook:
    """A service that is asked; `refuses` is whether a command is refused if it does not answer."""

    target: Target
    timeout_s: float
    refuses: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """What the tables say."""

    webhooks: tuple[Webhook, ...] = ()
    before_publish: Hook | None = None
    before_join: Hook | None = None


def read_config(file: str) -> Config:
    """Read the tables of a settings file; an empty name means that there is none.

    Raises SettingError if the file, or that of a secret, cannot be read, or if a table is wrong.
    The names of files in it are relative to the working directory, as for other settings.
    """
    if not file:
        return Config()
    import tomllib  # here, because most servers have no file

    try:
        content = tomllib.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"--config {file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"--config {file} is not valid TOML: {error}.") from None
    return parse_config(content, f"--config {file}")


def read_again(file: str) -> Config | None:
    """Read the tables again while the server runs; None if they are wrong, which is logged."""
    try:
        config = read_config(file)
    except SettingError as error:
        logger.error("webhooks and hooks stay as they were: %s", error)
        return None
    logger.info("the webhooks and hooks of %s were read again", file)
    return config


def parse_config(content: Mapping[str, Any], source: str) -> Config:
    """Check the tables of a file; `source` names the file in errors. Raises SettingError."""
    tables = content.get(WEBHOOK, [])
    if type(tables) is not list:
        raise SettingError(f"{source}: write [[webhook]], because there can be several.")
    if len(tables) > MAX_WEBHOOKS:
        raise SettingError(f"{source}: there can be at most {MAX_WEBHOOKS} webhooks.")
    webhooks: dict[str, Webhook] = {}
    for number, table in enumerate(tables, 1):
        webhook = _webhook(_Table(table, f"{source}: webhook {number}", _WEBHOOK_KEYS))
        if webhook.name in webhooks:
            raise SettingError(
                f"{source}: two webhooks are called {webhook.name!r}; give one another `name`."
            )
        webhooks[webhook.name] = webhook
    hooks = {
        name: _hook(_Table(content[name], f"{source}: {name}", _HOOK_KEYS), refuses=refuses)
        for name, refuses in ((BEFORE_PUBLISH, False), (BEFORE_JOIN, True))
        if name in content
    }
    return Config(tuple(webhooks.values()), hooks.get(BEFORE_PUBLISH), hooks.get(BEFORE_JOIN))


def _rooms(table: _Table) -> re.Pattern[str]:
    """What matches the names of a webhook's rooms."""
    parts = []
    for text in table.texts("rooms", ("*",)):
        beginning = text.removesuffix("*")
        try:
            name = check_room(beginning) if beginning else ""
        except CommandError:
            raise SettingError(
                f"{table.source}: {text[:80]!r} in `rooms` is neither the name of a room nor the "
                "beginning of names followed by *."
            ) from None
        parts.append(re.escape(name) + (".*" if beginning != text else ""))
    return re.compile("|".join(parts), re.DOTALL)


class _Table:
    """A table of the file, whose values are checked as they are read.

    Raises SettingError for a key that is not in `known`.
    """

    def __init__(self, values: Any, source: str, known: Sequence[str]) -> None:
        if type(values) is not dict:
            raise SettingError(f"{source} must be a table.")
        for key in values:
            if key not in known:
                raise SettingError(
                    f"{source}: there is no key {key!r}; the keys are {', '.join(known)}."
                )
        self._values = values
        self.source = source

    def text(self, key: str, default: str | None = None) -> str:
        text: str = self._value(key, str, "a string", default, bool)
        return text

    def flag(self, key: str) -> bool:
        flag: bool = self._value(key, bool, "true or false", False, lambda flag: True)
        return flag

    def number(self, key: str, low: int, high: int, default: int) -> int:
        wanted = f"a whole number from {low:,} to {high:,}"
        number: int = self._value(key, int, wanted, default, lambda it: low <= it <= high)
        return number

    def texts(self, key: str, default: Sequence[str]) -> Sequence[str]:
        texts: Sequence[str] = self._value(
            *(key, list, "an array of strings", default),
            lambda values: bool(values) and all(type(each) is str and each for each in values),
        )
        return texts

    def _value(
        self, key: str, kind: type, wanted: str, default: Any, is_valid: Callable[[Any], bool]
    ) -> Any:
        if key not in self._values:
            if default is None:
                raise SettingError(f"{self.source}: `{key}` is missing.")
            return default
        value = self._values[key]
        if type(value) is not kind or not is_valid(value):
            raise SettingError(f"{self.source}: `{key}` must be {wanted}.")
        return value


_WEBHOOK_KEYS = ("url", "events", "rooms", "secret-file", "name", "allow-private")
_HOOK_KEYS = ("url", "timeout-ms", "on-failure", "secret-file", "allow-private")


def _webhook(table: _Table) -> Webhook:
    target = _target(table, secrets=_secrets(table, table.text("secret-file")))
    name = table.text("name", _name_of(target.url))
    if not _NAME.fullmatch(name):
        raise SettingError(
            f"{table.source}: `name` must be 1 to 63 of the characters a-z, 0-9, -, _ and ."
        )
    events = table.texts("events", EVENTS)
    for event in events:
        if event not in EVENTS:
            raise SettingError(
                f"{table.source}: there is no event {event!r}; the events are {', '.join(EVENTS)}."
            )
    return Webhook(name, target, frozenset(events), _rooms(table))


def _hook(table: _Table, *, refuses: bool) -> Hook:
    file = table.text("secret-file", "")
    on_failure = table.text("on-failure", "refuse" if refuses else "allow")
    if on_failure not in ("allow", "refuse"):
        raise SettingError(f'{table.source}: `on-failure` must be "allow" or "refuse".')
    timeout_ms = table.number("timeout-ms", MIN_TIMEOUT_MS, MAX_TIMEOUT_MS, DEFAULT_TIMEOUT_MS)
    target = _target(table, secrets=_secrets(table, file) if file else ())
    return Hook(target, timeout_ms / 1000, on_failure == "refuse")


def _target(table: _Table, *, secrets: tuple[bytes, ...]) -> Target:
    url = table.text("url")
    wrong = SettingError(
        f"{table.source}: `url` must be an address such as https://shop.example/chat-events, "
        "without a user and a password."
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or parts.username is not None
        or parts.password is not None
        or parts.fragment
        or len(url) > MAX_URL_CHARS
        or not url.isascii()
        or any(character <= " " or character == "\x7f" for character in url)
    ):
        raise wrong
    host, allowed = parts.hostname, table.flag("allow-private")
    is_private = is_private_name(host) or (is_address(host) and not is_public(host))
    if parts.scheme == "http" and not (is_private or allowed):
        raise SettingError(
            f"{table.source}: `url` must begin with https://, because everybody on the way could "
            "read and change what is sent by http."
        )
    return Target(url, is_private or allowed, secrets)


def _name_of(url: str) -> str:
    """A name for a webhook without one: its host, and a digest, as an address can be a secret."""
    host = re.sub(r"[^a-z0-9.-]", "-", urlsplit(url).hostname or "") if "//" in url else ""
    return f"{host.strip('.-')[:50] or 'webhook'}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def _secrets(table: _Table, file: str) -> tuple[bytes, ...]:
    """The secrets in a file, one a line."""
    try:
        with open(file, encoding="ascii") as opened:
            lines = opened.read(MAX_SECRET_FILE_BYTES).split()
    except OSError as error:
        raise SettingError(
            f"{table.source}: `secret-file` {file} cannot be read: {error.strerror}."
        ) from None
    except UnicodeDecodeError:
        lines = []
    secrets = tuple(map(_secret, lines))
    if not 1 <= len(secrets) <= MAX_SECRETS or None in secrets:
        raise SettingError(
            f"{table.source}: `secret-file` {file} must have 1 to {MAX_SECRETS} lines, each "
            f"{SECRET_PREFIX} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64."
        )
    return tuple(secret for secret in secrets if secret is not None)


def _secret(line: str) -> bytes | None:
    """The key in a line; None if there is none."""
    try:
        secret = base64.b64decode(line.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
    is_valid = line.startswith(SECRET_PREFIX) and len(secret) in range(
        MIN_SECRET_BYTES, MAX_SECRET_BYTES + 1
    )
    return secret if is_valid else None
