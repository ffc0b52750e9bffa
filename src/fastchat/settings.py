"""The settings of a server: flags over environment over file over defaults.

One frozen dataclass, validated once. A field's metadata is all that the command
line, the environment (`FASTCHAT_MAX_LAG_BYTES`) and the file (`max-lag-bytes` in
TOML) know of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastchat.errors import SettingError

__all__ = ["Settings", "load_settings"]

MAX_WORKERS = 256
#: The word for "find out yourself", where a setting has it.
AUTO = "auto"
#: What a container may use of the CPUs (the kernel's cgroup-v2.rst, "cpu.max").
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def _usable_cpus() -> int:
    """How many CPUs this process may use, rounded up; at most MAX_WORKERS."""
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `fastchat serve` can be told. Sizes are bytes, times seconds."""

    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 or :: for all")
    port: int = _setting(8080, "port to listen on; 0 for any free one", low=0, high=65535)
    workers: int = _setting(
        1,
        "worker processes; auto for one a CPU that may be used",
        low=1,
        high=MAX_WORKERS,
        auto=_usable_cpus,
    )
    admin_host: str = _setting("127.0.0.1", "address for /metrics, /live and /ready")
    admin_port: int = _setting(0, "port for these; 0 for none", low=0, high=65535)
    max_message_bytes: int = _setting(
        65536, "largest message a client may send", low=1024, high=1 << 24
    )
    max_lag_bytes: int = _setting(
        1 << 20, "how far a client may fall behind before it is evicted", low=1 << 16, high=1 << 30
    )
    max_lag_seconds: float = _setting(
        10.0, "how long a client may read nothing before it is evicted", low=1, high=3600
    )
    history: str = _setting("sqlite", "where publications are kept", choices=("sqlite", "memory"))
    data: str = _setting("fastchat-data", "directory of the SQLite file")
    durability: str = _setting(
        "process",
        "what a publication survives once anybody has seen it: a killed process, or (by a sync "
        "for each turn) a power loss",
        choices=("process", "power-loss"),
    )
    history_max_messages: int = _setting(
        1000, "publications kept of each room", low=1, high=1_000_000
    )
    history_max_age: float = _setting(
        0.0, "how long publications are kept, in seconds; 0 for ever", low=0, high=1e10
    )
    log_level: str = _setting(
        "info", "least important lines to log", choices=("debug", "info", "warning", "error")
    )
    log_format: str = _setting("text", "one line an event, as", choices=("text", "json"))

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))


def load_settings(
    flags: Mapping[str, str], environment: Mapping[str, str], file: Path | None
) -> Settings:
    """Settings from all sources; raises SettingError with a sentence that names the setting."""
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


def _convert(field: dataclasses.Field[Any], text: str, name: str) -> Any:
    kind: Callable[[str], Any] = type(field.default)
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
    if type(value) is not type(field.default):
        raise SettingError(f"{flag} must be {type(field.default).__name__}, not {value!r}.")
    if metadata["choices"] and value not in metadata["choices"]:
        raise SettingError(f"{flag} must be {' or '.join(metadata['choices'])}, not {value!r}.")
    if low is not None and not low <= value <= high:
        raise SettingError(f"{flag} must be from {low:,} to {high:,}, not {value!r}.")


def _auto_wanted(field: dataclasses.Field[Any], name: str, found: Any) -> str:
    low, high = field.metadata["low"], field.metadata["high"]
    return f"{name} must be a number from {low:,} to {high:,}, or {AUTO}, not {found!r}."


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _wants_float(field: dataclasses.Field[Any]) -> bool:
    return type(field.default) is float
