"""The settings of a server, from flags, the environment, a file, and defaults, in this order.

`Settings` is a frozen dataclass, which is validated once. The metadata of its fields define the
flag (`--max-lag-bytes`), the variable (`FASTCHAT_MAX_LAG_BYTES`) and the key of the TOML file
(`max-lag-bytes`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import tomllib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastchat.errors import SettingError
from fastchat.web.headers import page_headers
from fastchat.web.origins import ANY_ORIGIN, parse_origin
from fastchat.web.proxies import parse_network

__all__ = ["Settings", "flag_of", "is_list", "is_switch", "load_settings"]

MAX_WORKERS = 256
#: The value that asks the server to choose, where a setting allows it.
AUTO = "auto"
#: A container's CPU quota and period in µs (the kernel's cgroup-v2.rst, "cpu.max").
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


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
) -> Any:
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "auto": auto}
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
    names the flag.
    """

    host: str = _setting(
        "127.0.0.1",
        "address to listen on for clients; 0.0.0.0 or :: for every address of the machine",
    )
    port: int = _setting(
        8080, "TCP port to listen on for clients; 0 for any free port", low=0, high=65535
    )
    workers: int = _setting(
        1,
        "worker processes that serve clients; auto for one per usable CPU",
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
    max_lag_seconds: float = _setting(
        10.0, "seconds after which a client that reads nothing is evicted", low=1, high=3600
    )
    history: str = _setting(
        "sqlite",
        "where to keep messages: in a SQLite file in --data, or in memory only",
        choices=("sqlite", "memory"),
    )
    data: str = _setting("fastchat-data", "directory for the SQLite file, shared files and sockets")
    durability: str = _setting(
        "process",
        "failure that a delivered message survives: process for a killed server, power-loss for a "
        "loss of power too, which is slower because each batch is synced to the disk",
        choices=("process", "power-loss"),
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
        "whether clients can share files; auto for on with --history sqlite, off with memory",
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
        "who can join: anybody, or clients with a valid JSON Web Token",
        choices=("none", "jwt"),
    )
    jwt_key_file: tuple[str, ...] = _setting(
        (), "file with a key that verifies tokens: a secret, a public key (PEM) or a JWKS"
    )
    jwt_audience: str = _setting("", "audience (`aud`) that a token must name; empty to accept any")
    jwt_issuer: str = _setting("", "issuer (`iss`) that a token must name; empty to accept any")
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
    ssl_certfile: str = _setting(
        "", "certificate (PEM, followed by its chain) to serve https and wss with"
    )
    ssl_keyfile: str = _setting(
        "", "private key (PEM) of --ssl-certfile, if it is in a separate file"
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
        "messages a second from one user, over all their connections; a message to a large room "
        "counts for more than one",
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
        "bytes a second of a file uploaded by binary messages on one connection",
        1e12,
    )
    address_upload_rate: float = _limit(
        float(1 << 26),
        "bytes a second of files uploaded by binary messages that each process takes from one "
        "address",
        1e12,
    )
    typing_rate: float = _limit(
        2.0, "typing events a second from one connection; the server drops any others", 1e6
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

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if is_list(field) and type(value) is list:  # as TOML and JSON have it
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            _check(field, value)
        _check_auth(self)
        _check_origins(self)
        _check_proxies(self)
        if self.limits == "off":
            for field in dataclasses.fields(self):
                if "limit" in field.metadata:
                    object.__setattr__(self, field.name, 0.0 if _wants_float(field) else 0)
        if self.ssl_keyfile and not self.ssl_certfile:
            raise SettingError("--ssl-keyfile has no effect without --ssl-certfile; give both.")


def load_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
) -> Settings:
    """Return the settings from all sources.

    Raises SettingError if a value is wrong or the file cannot be read. The message is a sentence
    that names the setting.
    """
    values: dict[str, Any] = {} if file is None else _read_file(file)
    for field in dataclasses.fields(Settings):
        variable = f"FASTCHAT_{field.name.upper()}"
        if variable in environment:
            values[field.name] = _convert(field, environment[variable], variable)
        if field.name in flags:
            values[field.name] = _convert(field, flags[field.name], flag_of(field))
    return Settings(**values)


def flag_of(field: dataclasses.Field[Any]) -> str:
    return "--" + field.name.replace("_", "-")


def is_list(field: dataclasses.Field[Any]) -> bool:
    """Whether a setting takes several values: a repeated flag, or commas in the environment."""
    return type(field.default) is tuple


def is_switch(field: dataclasses.Field[Any]) -> bool:
    """Whether a setting is a switch: a flag without a value, but `true` or `false` elsewhere."""
    return type(field.default) is bool


def _read_file(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"--config {file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"--config {file} is not valid TOML: {error}.") from None
    known = {flag_of(field)[2:]: field for field in dataclasses.fields(Settings)}
    values = {}
    for key, value in content.items():
        if key not in known:
            raise SettingError(f"--config {file}: there is no setting `{key}`.")
        field = known[key]
        if value == AUTO and field.metadata["auto"]:
            value = field.metadata["auto"]()
        values[field.name] = float(value) if _is_whole(value) and _wants_float(field) else value
    return values


def _convert(field: dataclasses.Field[Any], text: Any, name: str) -> Any:
    kind: Callable[[str], Any] = type(field.default)
    if is_list(field):
        given = text.split(",") if isinstance(text, str) else text
        return tuple(each.strip() for each in given if each.strip())
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


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    flag, metadata = flag_of(field), field.metadata
    low, high = metadata["low"], metadata["high"]
    if metadata["auto"] and not (type(value) is int and low <= value <= high):
        raise SettingError(_auto_wanted(field, flag, value))
    if is_list(field) and not (
        type(value) is tuple and all(type(each) is str and each for each in value)
    ):
        raise SettingError(f"{flag} must be a list of strings, not {value!r}.")
    if is_switch(field) and type(value) is not bool:
        raise SettingError(f"{flag} must be true or false, not {value!r}.")
    if type(value) is not type(field.default):
        raise SettingError(f"{flag} must be {type(field.default).__name__}, not {value!r}.")
    if metadata["choices"] and value not in metadata["choices"]:
        raise SettingError(f"{flag} must be {' or '.join(metadata['choices'])}, not {value!r}.")
    if low is not None and not low <= value <= high:
        raise SettingError(f"{flag} must be from {low:,} to {high:,}, not {value!r}.")


def _check_auth(settings: Settings) -> None:
    """Refuse a key without `--auth jwt`, because the server would admit all clients anyway."""
    if settings.auth == "jwt" and not settings.jwt_key_file:
        raise SettingError(
            "--auth jwt needs --jwt-key-file; `fastchat token --new-key FILE` makes one."
        )
    if settings.auth == "none":
        for name in ("jwt_key_file", "jwt_audience", "jwt_issuer"):
            if getattr(settings, name):
                flag = "--" + name.replace("_", "-")
                raise SettingError(f"{flag} has no effect without --auth jwt; give both or none.")


def _check_origins(settings: Settings) -> None:
    for origin in settings.allow_origin:
        if origin != ANY_ORIGIN and parse_origin(origin) is None:
            raise SettingError(
                "--allow-origin must be a scheme, a host and, unless it is the default, a port, "
                f"such as https://chat.example or http://localhost:3000, not {origin!r}."
            )
    for origin in settings.allow_frame:
        try:
            page_headers([origin])
        except ValueError:
            raise SettingError(
                "--allow-frame must be a scheme, a host name and, unless it is the default, a "
                f"port, such as https://www.example or http://localhost:3000, not {origin!r}."
            ) from None


def _check_proxies(settings: Settings) -> None:
    for proxy in settings.trusted_proxy:
        try:
            parse_network(proxy)
        except ValueError:
            raise SettingError(
                "--trusted-proxy must be an address such as 127.0.0.1, or a range such as "
                f"10.0.0.0/8, not {proxy!r}."
            ) from None


def _auto_wanted(field: dataclasses.Field[Any], name: str, found: Any) -> str:
    low, high = field.metadata["low"], field.metadata["high"]
    return f"{name} must be a number from {low:,} to {high:,}, or {AUTO}, not {found!r}."


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _wants_float(field: dataclasses.Field[Any]) -> bool:
    return type(field.default) is float
