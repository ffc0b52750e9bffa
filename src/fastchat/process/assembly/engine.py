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

from fastchat.ledger import LedgerError
from fastchat.ledger.appending import Limits
from fastchat.ledger.files import LedgerFiles
from fastchat.ledger.files.cache import FOLDER as CACHE_FOLDER
from fastchat.ledger.identity import FILE_NAME as WITNESS_NAME
from fastchat.ledger.identity import Witness
from fastchat.ledger.rooms import SharedRooms
from fastchat.ledger.schema import prepare_ledger

__all__ = [
    "CONNECTIONS",
    "build_shared_rooms",
    "engine_url_of",
    "open_ledger_files",
    "open_shared_rooms",
]

#: The connections of a machine's rooms to PostgreSQL: the writer, the teller, the listener and the
#: reader; one for searches, and one for removals. Each process with clients has one for files.
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


def engine_url_of(settings: Settings) -> EngineUrl:
    """The URL of the engine; the settings must have one."""
    (url,) = settings.engine
    return parse_url(url)


def build_shared_rooms(settings: Settings, metrics: Metrics) -> SharedRooms:
    """Build the rooms of this machine, in the running loop.

    The caller must hold the lock of the data directory, which has the name of the machine and what
    it has seen of the ledger. Raises SettingError if the directory cannot be used.
    """
    directory = Path(settings.data)
    return SharedRooms(
        engine_url_of(settings),
        settings.machine or _machine_name(directory),
        secrets.token_hex(8),
        Witness(directory / WITNESS_NAME),
        room_limits=Limits(
            stored := settings.history_max_messages,
            min(stored // 8 + 1, MAX_SLACK),
            settings.room_rate,
            settings.room_burst,
        ),
        clock=time.time,
        metrics=metrics,
        limits=room_limits_of(settings),
        max_age_s=settings.history_max_age,
        patience_s=settings.engine_patience,
        settings_digest=_digest_of(settings),
        gather_s=GATHERING_S if settings.workers > 1 else 0.0,
    )


async def open_shared_rooms(settings: Settings, rooms: SharedRooms, *, again: bool = False) -> None:
    """Connect the rooms to their ledger, and make or migrate its schema.

    `again` is whether the server has used the ledger before. Then this waits until it can be
    reached. Otherwise it raises LedgerError if it cannot, so that whoever starts a server learns of
    it. Raises SettingError if the server, the role or the schema cannot be used.
    """
    url = engine_url_of(settings)
    try:
        if not again:
            await prepare_ledger(url)
        await rooms.open(again=again)
    except LedgerError as error:
        raise LedgerError(f"--engine {url.shown}: {error}.") from None


def open_ledger_files(settings: Settings, metrics: Metrics) -> LedgerFiles:
    """The shared files of a process with clients. Nothing is connected before a file is used."""
    directory = Path(settings.data)
    return LedgerFiles(
        engine_url_of(settings),
        cache=directory / CACHE_FOLDER,
        witness=partial(Witness, directory / WITNESS_NAME),
        max_bytes=settings.max_file_bytes,
        max_user_bytes=settings.max_user_file_bytes,
        max_total_bytes=settings.max_files_bytes,
        metrics=metrics,
    )


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
