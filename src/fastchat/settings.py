"""The settings of a server, from flags, the environment, a file, and defaults, in this order.

`Settings` is a frozen dataclass, which is validated once. The metadata of its fields define the
flag (`--max-lag-bytes`), the variable (`FASTCHAT_MAX_LAG_BYTES`) and the key of the TOML file
(`max-lag-bytes`).

An error names a setting as its source does: `--port`, `FASTCHAT_PORT`, or `--config FILE: port`. A
value that a higher source overrides is not read, and a command reads only its own settings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastchat.errors import SettingError
from fastchat.web.headers import page_headers
from fastchat.web.origins import ANY_ORIGIN, parse_origin
from fastchat.web.proxies import parse_network
from fastchat.webhooks.config import TABLES

__all__ = [
    "Settings",
    "did_you_mean",
    "flag_of",
    "ignored_variables",
    "is_list",
    "is_machine_name",
    "is_switch",
    "load_settings",
    "setting_fields",
]

MAX_WORKERS = 256
#: The value that asks the server to choose, where a setting allows it.
AUTO = "auto"
#: The name of a machine.
_MACHINE = re.compile(r"[a-z0-9._-]{1,63}", re.ASCII)
#: A container's CPU quota and period in µs (the kernel's cgroup-v2.rst, "cpu.max").
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
#: Variables that Kubernetes sets for each service in a namespace (the Kubernetes documentation,
#: "Service", "Environment variables"). For a service `fastchat`, FASTCHAT_PORT is the address of
#: the service, and for `fastchat-admin` FASTCHAT_ADMIN_PORT is.
_SERVICE_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://\S+")
_SERVICE_VARIABLE = re.compile(
    r"FASTCHAT(?:_\w+)?_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)?)"
)
#: Variables of this package that are no settings.
_OTHER_VARIABLES = frozenset({"FASTCHAT_TOKEN", "FASTCHAT_DEBUG", "FASTCHAT_TIMEOUT_UNIT"})


def _usable_cpus() -> int:
    """The number of CPUs that this process can use, rounded up; at most MAX_WORKERS."""
    count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # no limit is "max"
        quota, period = _CPU_MAX.read_text("ascii").split()
        count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, min(count, MAX_WORKERS))


def _setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    auto: Callable[[], int] | None = None,
    path: bool = False,
    separator: str | None = ",",
) -> Any:
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "choices": choices,
        "auto": auto,
        "path": path,
        "separator": separator,
    }
    return dataclasses.field(default=default, metadata=metadata)


def _limit(default: float, help: str, high: float) -> Any:
    """A limit: 0 disables it, and `--limits off` sets it to 0."""
    field = _setting(default, f"{help}; 0 for no limit", low=0, high=high)
    field.metadata = types.MappingProxyType({**field.metadata, "limit": True})
    return field


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of `fastchat serve`. Sizes are in bytes, times in seconds.

    Raises SettingError if a value is out of range or has no effect. The message is a sentence that
    names the flag, or the setting's name in `sources`, a map from fields to names.
    """

    sources: dataclasses.InitVar[Mapping[str, str] | None] = None

    host: str = _setting(
        "127.0.0.1",
        "address to listen on for clients; 0.0.0.0 or :: for every address of the machine",
    )
    port: int = _setting(
        8080, "TCP port to listen on for clients; 0 for any free port", low=0, high=65535
    )
    workers: int = _setting(
        1,
        f"worker processes that serve clients, 1 to {MAX_WORKERS}; auto for one per usable CPU",
        low=1,
        high=MAX_WORKERS,
        auto=_usable_cpus,
    )
    admin_host: str = _setting("127.0.0.1", "address to serve /metrics, /livez and /readyz on")
    admin_port: int = _setting(
        0,
        "TCP port to serve /metrics, /livez and /readyz on; 0 to serve none of them",
        low=0,
        high=65535,
    )
    max_message_bytes: int = _setting(
        65536, "largest message that a client can send, in bytes", low=1024, high=1 << 24
    )
    max_lag_bytes: int = _setting(
        1 << 20,
        "unread bytes of one room after which a client that reads too slowly is evicted",
        low=1 << 16,
        high=1 << 30,
    )
    max_connection_lag_bytes: int = _setting(
        4 << 20,
        "unread bytes of all rooms of one connection after which its client is evicted",
        low=1 << 16,
        high=1 << 40,
    )
    max_lag_total_bytes: int = _setting(
        48 << 20,
        "unread bytes that each process keeps for all slow clients together; above it, the clients "
        "that lag most are evicted",
        low=1 << 20,
        high=1 << 40,
    )
    max_lag_seconds: float = _setting(
        10.0, "seconds after which a client that reads nothing is evicted", low=1, high=3600
    )
    history: str = _setting(
        "sqlite",
        "where to keep messages: in a SQLite file in --data (sqlite), or in memory only (memory)",
        choices=("sqlite", "memory"),
    )
    data: str = _setting(
        "fastchat-data", "directory for the SQLite file, shared files and sockets", path=True
    )
    durability: str = _setting(
        "process",
        "failure that a delivered message survives: process for a killed server, power-loss for a "
        "loss of power too, which is slower because each batch is synced to the disk",
        choices=("process", "power-loss"),
    )
    engine: tuple[str, ...] = _setting(
        (),
        "URL of a PostgreSQL in which several machines share the rooms, such as "
        "postgresql://chat@db.example/chat; with several URLs, each PostgreSQL has a part of the "
        "rooms; without a URL, one machine has them in --data",
        separator=None,
    )
    machine: str = _setting(
        "",
        "name of this machine among those that share an --engine, of a-z, 0-9, -, _ and .; empty "
        "for a name that is made once and kept in --data",
    )
    engine_patience: float = _setting(
        30.0,
        "seconds without the --engine after which clients are sent away, to other machines",
        low=5,
        high=3600,
    )
    history_max_messages: int = _setting(
        1000,
        "newest messages to keep in each room; edits, deletions and reactions count too",
        low=1,
        high=1_000_000,
    )
    history_max_age: float = _setting(
        0.0,
        "seconds to keep a message; 0 to keep messages regardless of their age",
        low=0,
        high=1e10,
    )
    files: str = _setting(
        "auto",
        "whether clients can share files: on, off, or auto, which is on unless --history is memory",
        choices=("auto", "on", "off"),
    )
    max_file_bytes: int = _setting(
        25 << 20, "largest file that a client can share, in bytes", low=1, high=1 << 40
    )
    max_user_file_bytes: int = _setting(
        250 << 20,
        "bytes of shared files to keep for one user; announced uploads count",
        low=1,
        high=1 << 50,
    )
    max_files_bytes: int = _setting(
        10 << 30, "bytes of shared files to keep in all", low=1, high=1 << 50
    )
    auth: str = _setting(
        "none",
        "who can join: anybody as a guest (none), clients with a valid JSON Web Token (jwt), or "
        "guests and clients with a token (optional)",
        choices=("none", "jwt", "optional"),
    )
    guest_rights: str = _setting(
        "write",
        "what clients without a token can do: read and write (write), or only read (read)",
        choices=("write", "read"),
    )
    spectators: str = _setting(
        "on",
        "whether clients without a token can read without giving a name",
        choices=("on", "off"),
    )
    jwt_key_file: tuple[str, ...] = _setting(
        (),
        "file with a key that verifies tokens: a secret, a public key (PEM) or a JWKS",
        path=True,
    )
    jwt_audience: str = _setting("", "audience (`aud`) that a token must name; empty to accept any")
    jwt_issuer: str = _setting("", "issuer (`iss`) that a token must name; empty to accept any")
    jwt_user_claim: str = _setting(
        "sub", "claim of a token that identifies its user; a value with an @ is shown as a digest"
    )
    allow_origin: tuple[str, ...] = _setting(
        (),
        "origin of other pages that can connect and use files, such as https://chat.example; * for "
        "every origin",
    )
    allow_frame: tuple[str, ...] = _setting(
        (),
        "origin of pages that can embed the chat page, such as https://www.example; * for every "
        "origin",
    )
    api_key_file: str = _setting(
        "",
        "file with the keys of the HTTP API, which `fastchat key new` makes; empty for no API",
        path=True,
    )
    hook_file: str = _setting(
        "",
        "file with the incoming webhooks, which `fastchat hook new` makes; empty for none",
        path=True,
    )
    api_host: str = _setting("127.0.0.1", "address to serve the HTTP API on, with --api-port")
    api_port: int = _setting(
        0,
        "TCP port to serve the HTTP API on; 0 to serve it on --port, under /api/v1",
        low=0,
        high=65535,
    )
    ssl_certfile: str = _setting(
        "", "certificate (PEM, followed by its chain) to serve https and wss with", path=True
    )
    ssl_keyfile: str = _setting(
        "",
        "private key (PEM, without a password) of --ssl-certfile, if it is in a separate file",
        path=True,
    )
    trusted_proxy: tuple[str, ...] = _setting(
        (), "proxy address, or range in CIDR notation, whose X-Forwarded-For header is trusted"
    )
    limits: str = _setting(
        "on",
        "off disables every rate limit, connection limit and room limit, for load tests",
        choices=("on", "off"),
    )
    max_connections: int = _limit(
        0, "concurrent connections in all; the limit on open files also limits them", 10_000_000
    )
    max_address_connections: int = _limit(
        256, "concurrent connections from one address (IPv6: from one /64)", 10_000_000
    )
    max_user_connections: int = _limit(20, "concurrent connections of one user", 10_000_000)
    handshake_rate: float = _limit(
        2500.0, "new WebSocket connections a second that each process accepts", 1e6
    )
    address_handshake_rate: float = _limit(
        20.0, "new WebSocket connections a second that each process accepts from one address", 1e6
    )
    join_timeout: float = _limit(
        10.0, "seconds after which a connection that has not joined a room is closed", 3600
    )
    message_rate: float = _limit(
        10.0, "messages, edits, deletions and reactions a second from one connection", 1e6
    )
    message_burst: int = _setting(
        40,
        "messages that a connection can send at once before --message-rate applies",
        low=1,
        high=1_000_000,
    )
    address_message_rate: float = _limit(
        50.0,
        "messages, edits, deletions and reactions a second that each process takes from one "
        "address, over all its connections",
        1e6,
    )
    user_rate: float = _limit(
        10.0,
        "messages, edits, deletions and reactions a second from one user, over all their "
        "connections; a message to a large room counts for more than one",
        1e6,
    )
    user_burst: int = _setting(
        100,
        "messages that a user can send at once before --user-rate applies",
        low=1,
        high=1_000_000,
    )
    room_rate: float = _limit(
        100.0, "messages, edits, deletions and reactions a second in one room, from everybody", 1e6
    )
    room_burst: int = _setting(
        200, "messages that a room takes at once before --room-rate applies", low=1, high=1_000_000
    )
    command_rate: float = _limit(
        10.0, "joins, searches, history pages and other commands a second from one connection", 1e6
    )
    address_command_rate: float = _limit(
        100.0,
        "joins, searches, history pages and other commands a second that each process takes from "
        "one address",
        1e6,
    )
    upload_rate: float = _limit(
        float(1 << 24),
        "bytes a second of files in binary messages from one connection",
        1e12,
    )
    address_upload_rate: float = _limit(
        float(1 << 26),
        "bytes a second of files in binary messages that each process takes from one address",
        1e12,
    )
    typing_rate: float = _limit(
        2.0, "typing events a second from one connection; the server drops further ones", 1e6
    )
    max_errors: int = _limit(
        20,
        "errors that a connection can cause at once, and one more each second, before it is closed",
        1_000_000,
    )
    max_connection_rooms: int = _limit(
        128, "rooms that one connection can be in at the same time", 1_000_000
    )
    max_rooms: int = _limit(100_000, "rooms that have members at the same time, in all", 10_000_000)
    new_room_rate: float = _limit(
        5.0, "empty rooms a second that clients of one address can join", 1e6
    )
    log_level: str = _setting(
        "info", "lowest level of log lines to write", choices=("debug", "info", "warning", "error")
    )
    log_format: str = _setting("text", "format of log lines", choices=("text", "json"))
    debug_echo: bool = _setting(
        False, "echo messages at /_echo, for conformance tests; only on a loopback address"
    )
    #: The file of the settings, as an absolute path; empty if there is none. It is no setting:
    #: webhooks and hooks are tables of that file, and are read again at SIGHUP.
    config_file: str = dataclasses.field(default="", compare=False)

    @property
    def has_history_file(self) -> bool:
        """Whether messages are kept in a SQLite file in `data`."""
        return self.history == "sqlite" and not self.engine

    @property
    def has_directory(self) -> bool:
        """Whether the server has a data directory, with its socket."""
        return bool(self.history == "sqlite" or self.engine or self.workers > 1)

    def __post_init__(self, sources: Mapping[str, str] | None) -> None:
        names = {field.name: flag_of(field) for field in setting_fields()}
        names |= sources or {}
        for field in setting_fields():
            value = getattr(self, field.name)
            if is_list(field) and type(value) is list:  # as TOML and JSON have it
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            _check(field, value, names[field.name])
        _check_engine(self, names, sources or {})
        _check_auth(self, names)
        _check_origins(self, names)
        _check_proxies(self, names)
        if self.limits == "off":
            for field in setting_fields():
                if "limit" in field.metadata:
                    object.__setattr__(self, field.name, 0.0 if _wants_float(field) else 0)
        if self.api_port and not self.api_key_file:
            raise SettingError(
                f"{names['api_port']} has no effect without --api-key-file; give both."
            )
        if self.ssl_keyfile and not self.ssl_certfile:
            raise SettingError(
                f"{names['ssl_keyfile']} has no effect without --ssl-certfile; give both."
            )


def setting_fields() -> tuple[dataclasses.Field[Any], ...]:
    """The fields of `Settings` that are settings."""
    return tuple(field for field in dataclasses.fields(Settings) if field.metadata)


_DEFAULTS = {field.name: field.default for field in setting_fields()}


def load_settings(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path | None,
    only: Collection[str] | None = None,
) -> Settings:
    """Return the settings from all sources; those that are not in `only` have their defaults.

    Raises SettingError if a value that is used is wrong, if the file cannot be read, or if it has a
    key that is no setting. The message is a sentence that names the setting as its source does.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    content = {} if file is None else _read_file(file)
    for field in setting_fields():
        if only is not None and field.name not in only:
            continue
        key, variable = _key_of(field), _variable_of(field)
        if field.name in flags:
            name, text = flag_of(field), flags[field.name]
            value = _convert(field, text, name)
        elif variable in environment and not _is_of_a_service(variable, environment[variable]):
            name, text = variable, environment[variable]
            value = _convert(field, text, name)
        elif key in content:
            name = f"--config {file}: {key}"
            value = _from_toml(field, content[key], name)
        else:
            continue
        if field.metadata["path"]:
            _check_path(value, name)
        if field.name == "engine" and not value:
            # Without it, the server would begin a chat of its own.
            raise SettingError(f"{name} is empty; give a URL, or leave the setting out.")
        values[field.name], sources[field.name] = value, name
    if file is not None:
        values["config_file"] = str(file.absolute())
    return Settings(**values, sources=sources)


def ignored_variables(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence about each variable that could be a setting and has no effect.

    These are the addresses of Kubernetes services, and variables whose name is almost that of a
    setting.
    """
    fields = {_variable_of(field): field.name for field in setting_fields()}
    for variable, value in sorted(environment.items()):
        if variable in fields:
            if _is_of_a_service(variable, value) and fields[variable] not in flags:
                yield (
                    f"{variable} is ignored, because it is the address of a Kubernetes service; to "
                    f"choose a port, use --{fields[variable].replace('_', '-')} or the file"
                )
        elif (
            variable.startswith("FASTCHAT_")
            and variable not in _OTHER_VARIABLES
            and not _SERVICE_VARIABLE.fullmatch(variable)
            and (meant := did_you_mean(variable, fields))
        ):
            yield f"{variable} is ignored, because there is no such setting{meant}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names the known word that is almost `word`; else ""."""
    import difflib  # here, because only an error needs it

    def plain(text: str) -> str:
        return text.lower().replace("_", "-").strip("-").removeprefix("fastchat-")

    words = {plain(each): each for each in known}
    close = difflib.get_close_matches(plain(word), words, n=1, cutoff=0.7)
    return f"; did you mean {words[close[0]]}?" if close else ""


def flag_of(field: dataclasses.Field[Any]) -> str:
    return "--" + _key_of(field)


def is_list(field: dataclasses.Field[Any]) -> bool:
    """Whether a setting takes several values: a repeated flag, or a list in the environment.

    Commas separate the values there, or white space if the values can have commas.
    """
    return type(field.default) is tuple


def is_switch(field: dataclasses.Field[Any]) -> bool:
    """Whether a setting is a switch: a flag without a value, but `true` or `false` elsewhere."""
    return type(field.default) is bool


def _key_of(field: dataclasses.Field[Any]) -> str:
    return field.name.replace("_", "-")


def _variable_of(field: dataclasses.Field[Any]) -> str:
    return f"FASTCHAT_{field.name.upper()}"


def _is_of_a_service(variable: str, value: str) -> bool:
    """Whether Kubernetes has set the variable to the address of a service."""
    return variable.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(value) is not None


# The file


def _read_file(file: Path) -> dict[str, Any]:
    import tomllib  # here, because most servers have no file

    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"--config {file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"--config {file} is not valid TOML: {error}.") from None
    known = [_key_of(field) for field in setting_fields()]
    for key, value in content.items():
        if key in known or key in TABLES:  # `fastchat.webhooks.config` checks the tables
            continue
        meant = did_you_mean(key, known)
        if isinstance(value, dict) and not meant:
            meant = "; settings are not in tables, but at the top of the file"
        end = "" if meant.endswith("?") else "."
        raise SettingError(f"--config {file}: there is no setting {_shown(key)}{meant}{end}")
    return content


def _from_toml(field: dataclasses.Field[Any], value: Any, name: str) -> Any:
    """Convert a value of the file. Raises SettingError, in TOML's words, if its type is wrong."""
    kind, auto = type(field.default), field.metadata["auto"]
    if value == AUTO and auto:
        return auto()
    if type(value) is int and kind is float:
        return float(value)
    if is_list(field) and type(value) is list:
        for each in value:
            if type(each) is not str or not each:
                found = "an empty one" if each == "" else _in_toml(each)
                raise SettingError(f"{name} must be an array of strings, and {found} is in it.")
        return tuple(value)
    if type(value) is kind:
        return value
    wanted = {
        int: "an integer",
        float: "a number",
        str: "a string",
        bool: "a boolean, true or false",
        tuple: "an array of strings",
    }[kind]
    if auto:
        low, high = field.metadata["low"], field.metadata["high"]
        wanted = f'an integer from {low:,} to {high:,}, or "{AUTO}"'
    raise SettingError(f"{name} must be {wanted}, not {_in_toml(value)}.")


def _in_toml(value: Any) -> str:
    """A value and its type, as TOML names it."""
    match value:
        case bool():
            return f"the boolean {str(value).lower()}"
        case int():
            return f"the integer {value}"
        case float():
            return f"the float {value}"
        case str():
            return f"the string {_shown(value)}"
        case list():
            return "an array"
        case dict():
            return "a table"
    return f"the date or time {value}"


def _shown(text: str) -> str:
    """A short text of the file, quoted as in TOML, on one line."""
    return json.dumps(text if len(text) <= 80 else f"{text[:79]}…", ensure_ascii=False)


# Text


def _convert(field: dataclasses.Field[Any], text: Any, name: str) -> Any:
    kind: Callable[[str], Any] = type(field.default)
    if is_list(field):
        given = text.split(field.metadata["separator"]) if isinstance(text, str) else text
        return tuple(each.strip() for each in given if each.strip() or field.metadata["path"])
    if is_switch(field):
        if text not in ("true", "false"):
            raise SettingError(f"{name} must be true or false, not {text!r}.")
        return text == "true"
    if field.metadata["auto"]:
        if text == AUTO:
            return field.metadata["auto"]()
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise SettingError(_auto_wanted(field, name, text))
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise SettingError(f"{name} must be {wanted}, not {text!r}.") from None


def _check_path(value: str | tuple[str, ...], name: str) -> None:
    """Refuse an empty path: `--data "$DIRECTORY"` without DIRECTORY is a mistake."""
    for path in (value,) if isinstance(value, str) else value:
        if not path.strip():
            raise SettingError(f"{name} is empty; give a path, or leave the setting out.")


# Values


def _check(field: dataclasses.Field[Any], value: Any, name: str) -> None:
    metadata = field.metadata
    low, high = metadata["low"], metadata["high"]
    if metadata["auto"] and not (type(value) is int and low <= value <= high):
        raise SettingError(_auto_wanted(field, name, value))
    if is_list(field) and not (
        type(value) is tuple and all(type(each) is str and each for each in value)
    ):
        raise SettingError(f"{name} must be a list of strings, not {value!r}.")
    if is_switch(field) and type(value) is not bool:
        raise SettingError(f"{name} must be true or false, not {value!r}.")
    if type(value) is not type(field.default):
        raise SettingError(f"{name} must be {type(field.default).__name__}, not {value!r}.")
    _check_text(value, name)
    if metadata["choices"] and value not in metadata["choices"]:
        raise SettingError(f"{name} must be {' or '.join(metadata['choices'])}, not {value!r}.")
    if low is not None and not low <= value <= high:
        raise SettingError(f"{name} must be from {low:,} to {high:,}, not {value!r}.")


def _check_text(value: Any, name: str) -> None:
    """Refuse a character that no path and no address can contain."""
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and "\0" in text:
            raise SettingError(f"{name} must not contain the character U+0000.")


def is_machine_name(name: str) -> bool:
    """Whether a machine can have this name."""
    return _MACHINE.fullmatch(name) is not None


def _check_engine(settings: Settings, names: Mapping[str, str], given: Collection[str]) -> None:
    """Refuse settings that have no effect with an engine, or without one."""
    if not settings.engine:
        for name in ("machine", "engine_patience"):
            if getattr(settings, name) != _DEFAULTS[name]:
                raise SettingError(f"{names[name]} has no effect without --engine; give both.")
        return
    from fastchat.ledger.url import parse_url  # here, because most servers have no engine

    urls = [parse_url(url, names["engine"]) for url in settings.engine]
    for number, url in enumerate(urls):
        if url in urls[:number]:
            raise SettingError(f"{names['engine']} has {url.shown} twice; give each URL once.")
    for name in ("history", "durability"):
        if name in given or getattr(settings, name) != _DEFAULTS[name]:
            raise SettingError(
                f"{names[name]} has no effect with --engine: messages are in PostgreSQL, and on "
                "disk before anybody sees them."
            )
    if settings.machine and not is_machine_name(settings.machine):
        raise SettingError(
            f"{names['machine']} must be 1 to 63 of the characters a-z, 0-9, -, _ and ., not "
            f"{settings.machine!r}."
        )


def _check_auth(settings: Settings, names: Mapping[str, str]) -> None:
    """Refuse settings that have no effect: an operator would rely on them."""
    if settings.auth != "none" and not settings.jwt_key_file:
        raise SettingError(
            f"{names['auth']} {settings.auth} needs --jwt-key-file; "
            "`fastchat token --new-key FILE` makes one."
        )
    if settings.auth == "none":
        for field in setting_fields():
            name = field.name
            if name.startswith("jwt_") and getattr(settings, name) != field.default:
                raise SettingError(
                    f"{names[name]} has no effect without --auth jwt or --auth optional; "
                    "give both or none."
                )
    if settings.auth == "jwt" and settings.guest_rights != "write":
        raise SettingError(
            f"{names['guest_rights']} has no effect with --auth jwt, which admits no guests; "
            "use --auth optional."
        )
    if not settings.jwt_user_claim:
        raise SettingError(f"{names['jwt_user_claim']} must be the name of a claim, such as sub.")


def _check_origins(settings: Settings, names: Mapping[str, str]) -> None:
    for origin in settings.allow_origin:
        if origin != ANY_ORIGIN and parse_origin(origin) is None:
            raise SettingError(
                f"{names['allow_origin']} must be a scheme, a host and, unless it is the default, "
                f"a port, such as https://chat.example or http://localhost:3000, not {origin!r}."
            )
    for origin in settings.allow_frame:
        try:
            page_headers([origin])
        except ValueError:
            raise SettingError(
                f"{names['allow_frame']} must be a scheme, a host name and, unless it is the "
                "default, a port, such as https://www.example or http://localhost:3000, "
                f"not {origin!r}."
            ) from None


def _check_proxies(settings: Settings, names: Mapping[str, str]) -> None:
    for proxy in settings.trusted_proxy:
        try:
            parse_network(proxy)
        except ValueError:
            raise SettingError(
                f"{names['trusted_proxy']} must be an address such as 127.0.0.1, or a range such "
                f"as 10.0.0.0/8, not {proxy!r}."
            ) from None


def _auto_wanted(field: dataclasses.Field[Any], name: str, found: Any) -> str:
    low, high = field.metadata["low"], field.metadata["high"]
    return f"{name} must be a number from {low:,} to {high:,}, or {AUTO}, not {found!r}."


def _wants_float(field: dataclasses.Field[Any]) -> bool:
    return type(field.default) is float
