"""Builds the rooms that several machines share in a PostgreSQL."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fastchat.directory import make_private
from fastchat.errors import SettingError
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.metrics import Metrics
from fastchat.process.assembly.limits import room_limits_of
from fastchat.settings import Settings, is_machine_name

# asyncpg is optional. Only a server with an engine imports this module, and it needs asyncpg.
if importlib.util.find_spec("asyncpg") is None:
    raise SettingError("--engine needs the package asyncpg; install fastchat-server[cluster].")

from fastchat.ledger import LedgerError, WrongLedgerError
from fastchat.ledger.appending import Limits
from fastchat.ledger.files import LedgerFiles, SpreadFiles
from fastchat.ledger.files.cache import CACHE_BYTES
from fastchat.ledger.files.cache import FOLDER as CACHE_FOLDER
from fastchat.ledger.identity import FILE_NAME as WITNESS_NAME
from fastchat.ledger.identity import Share, Witness
from fastchat.ledger.rooms import SharedRooms
from fastchat.ledger.schema import prepare_ledger
from fastchat.ledger.spread import SpreadRooms

__all__ = [
    "CONNECTIONS",
    "EngineRooms",
    "build_shared_rooms",
    "engine_urls_of",
    "open_ledger_files",
    "open_shared_rooms",
]

#: The rooms of a machine: those of one ledger, or of several.
EngineRooms = SharedRooms | SpreadRooms
#: The connections of a machine's rooms to each PostgreSQL: the writer, the teller, the listener and
#: the reader; one for searches, and one for removals. Each process with clients has one for files.
CONNECTIONS = 6
#: In the data directory: the name of the machine, if the settings have none.
MACHINE_NAME = "machine"
#: A new relay waits for so long, before it says that all its users are there, for its workers.
GATHERING_S = 1.5
#: Publications that a room has at most beyond `--history-max-messages`: an eighth, or this many.
MAX_SLACK = 256
#: Settings that should be the same on all machines of a chat.
_SAME = frozenset(
    {
        "auth",
        "files",
        "guest_rights",
        "history_max_age",
        "history_max_messages",
        "jwt_audience",
        "jwt_issuer",
        "jwt_user_claim",
        "limits",
        "max_file_bytes",
        "max_files_bytes",
        "max_user_file_bytes",
        "room_burst",
        "room_rate",
        "spectators",
        "user_burst",
        "user_rate",
    }
)
_NO_NAME = re.compile(r"[^a-z0-9-]+")


def engine_urls_of(settings: Settings) -> tuple[EngineUrl, ...]:
    """The URLs of the engine, in the order of the settings."""
    return tuple(map(parse_url, settings.engine))


def build_shared_rooms(settings: Settings, metrics: Metrics) -> EngineRooms:
    """Build the rooms of this machine, in the running loop.

    The caller must hold the lock of the data directory, which has the name of the machine and what
    it has seen of the ledger. Raises SettingError if the directory cannot be used.
    """
    urls = engine_urls_of(settings)
    directory = Path(settings.data)
    machine = settings.machine or _machine_name(directory)
    limits = room_limits_of(settings)  # users and new rooms count in all ledgers together
    patience_s = settings.engine_patience

    def make(
        url: EngineUrl, share: Share | None, rooms_elsewhere: Callable[[], int] = lambda: 0
    ) -> SharedRooms:
        return SharedRooms(
            url,
            machine,
            secrets.token_hex(8),
            Witness(_witness_file(directory, share)),
            room_limits=Limits(
                stored := settings.history_max_messages,
                min(stored // 8 + 1, MAX_SLACK),
                settings.room_rate,
                settings.room_burst,
            ),
            clock=time.time,
            metrics=metrics,
            limits=limits,
            max_age_s=settings.history_max_age,
            patience_s=patience_s if share is None else None,
            settings_digest=_digest_of(settings),
            gather_s=GATHERING_S if settings.workers > 1 else 0.0,
            share=share,
            rooms_elsewhere=rooms_elsewhere,
        )

    if len(urls) == 1:
        return make(urls[0], None)
    return SpreadRooms(urls, make, patience_s=patience_s)


async def open_shared_rooms(settings: Settings, rooms: EngineRooms, *, again: bool = False) -> None:
    """Connect the rooms to their ledgers, and make or migrate the schemas.

    `again` is whether the server has used the ledgers before. Then this waits until one can be
    reached. Otherwise it raises LedgerError if none can, so that whoever starts a server learns of
    it. Raises SettingError if a server, the role or a schema cannot be used, or if the ledgers do
    not belong together.
    """
    if isinstance(rooms, SpreadRooms):
        try:
            await rooms.open(again=again)
        except LedgerError as error:
            raise LedgerError(f"{error}.") from None
        return
    (url,) = engine_urls_of(settings)
    try:
        if not again:
            await prepare_ledger(url)
        await rooms.open(again=again)
    except WrongLedgerError as error:
        raise SettingError(f"--engine {url.shown}: {error}.") from None
    except LedgerError as error:
        raise LedgerError(f"--engine {url.shown}: {error}.") from None


def open_ledger_files(settings: Settings, metrics: Metrics) -> LedgerFiles | SpreadFiles:
    """The shared files of a process with clients. Nothing is connected before a file is used."""
    urls = engine_urls_of(settings)
    directory = Path(settings.data)

    def make(url: EngineUrl, share: Share | None) -> LedgerFiles:
        return LedgerFiles(
            url,
            cache=directory / (CACHE_FOLDER if share is None else f"{CACHE_FOLDER}-{share.ledger}"),
            witness=partial(Witness, _witness_file(directory, share)),
            max_bytes=settings.max_file_bytes,
            max_user_bytes=settings.max_user_file_bytes,
            max_total_bytes=settings.max_files_bytes,
            metrics=metrics,
            share=share,
            cache_bytes=CACHE_BYTES // len(urls),
        )

    if len(urls) == 1:
        return make(urls[0], None)
    sizes = settings.max_file_bytes, settings.max_user_file_bytes, settings.max_files_bytes
    return SpreadFiles(urls, make, max_bytes=min(sizes))


def _witness_file(directory: Path, share: Share | None) -> Path:
    """The file with what this machine has seen of a ledger."""
    name = Path(WITNESS_NAME)
    return directory / (name if share is None else f"{name.stem}-{share.ledger}{name.suffix}")


def _machine_name(directory: Path) -> str:
    """The name that this machine has kept, or a new one: its host's, with four random digits."""
    file = directory / MACHINE_NAME
    try:
        make_private(directory)
        if not file.exists():
            host = _NO_NAME.sub("-", socket.gethostname().partition(".")[0].lower()).strip("-")
            written = file.with_suffix(".new")
            written.write_text(f"{host[:40] or 'machine'}-{secrets.token_hex(2)}\n", "ascii")
            os.replace(written, file)
        name = file.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise SettingError(f"--data: {file} cannot be used: {error}.") from None
    if not is_machine_name(name):
        raise SettingError(
            f"--data: {file} has no name of a machine in it; delete it, or give --machine."
        )
    return name


def _digest_of(settings: Settings) -> str:
    """A digest of the settings that should be the same on all machines."""
    same = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name in _SAME
    }
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]
