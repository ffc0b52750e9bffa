"""Builds the objects of the HTTP API. Only a server with keys imports this module."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastchat.api.application import Api
from fastchat.api.events import EventHandlers
from fastchat.api.keys import ApiKeys
from fastchat.api.listing import ListedRooms
from fastchat.api.messages import MessageHandlers
from fastchat.api.paths import PREFIX, body_rule
from fastchat.api.rooms import RoomHandlers
from fastchat.api.transfers import TransferHandlers
from fastchat.api.users import IssueToken, TokenHandlers, UserHandlers
from fastchat.api.watching import Tap, Watcher
from fastchat.brokers import Delivery
from fastchat.chat.operations import Operations
from fastchat.errors import CommandError, ErrorCode, SettingError
from fastchat.files.transfers import BodyRule
from fastchat.process.assembly.limits import transfers_of
from fastchat.protocol import check_username
from fastchat.protocol.users import MAX_SUBJECT_CHARS
from fastchat.settings import Settings
from fastchat.web.mounts import Mount

if TYPE_CHECKING:
    from fastchat.process.assembly.worker import Base

__all__ = ["ApiParts", "build_api"]

logger = logging.getLogger("fastchat.api")

_PATH = PREFIX + "/"


class ApiParts(NamedTuple):
    """The API, its place, and the delivery through which it learns of publications here."""

    api: Api
    delivery: Delivery
    mount: Mount


def build_api(base: Base, keys: ApiKeys, operations: Operations) -> ApiParts:
    settings, files = base.settings, base.files
    rooms = ListedRooms(operations)
    watcher = Watcher(operations)
    api = Api(
        keys,
        MessageHandlers(operations, rooms, watcher.wake),
        RoomHandlers(operations, rooms),
        UserHandlers(operations),
        TokenHandlers(_issuer_of(settings), time.time),
        TransferHandlers(files, transfers_of(settings, base.transfers)),
        EventHandlers(operations, rooms, watcher, keys),
        metrics=base.metrics,
        is_limited=settings.limits == "on",
        clock=asyncio.get_running_loop().time,
    )
    max_file_bytes = 0 if files is None else files.max_bytes

    def rule(method: str, path: str) -> BodyRule | None:
        return body_rule(method, path, max_file_bytes) if path.startswith(_PATH) else None

    return ApiParts(api, Tap(base.hub, watcher), Mount(_PATH, api, rule))


def _issuer_of(settings: Settings) -> IssueToken | None:
    """Makes tokens with the first secret among the token keys; None if there is no secret."""
    if settings.auth == "none":
        return None
    # Imported here: the library takes a while, and is there already if the server accepts tokens.
    from fastchat.auth.issuing import make_token, signs
    from fastchat.auth.tokens import is_subject

    file = next((path for path in map(Path, settings.jwt_key_file) if signs(path)), None)
    if file is None:
        return None
    sign = partial(
        make_token,
        file.absolute(),
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        user_claim=settings.jwt_user_claim,
    )

    def issue(
        subject: str,
        name: str | None,
        rooms: Mapping[str, Sequence[str]] | None,
        seconds: int,
    ) -> str:
        if not is_subject(subject):
            raise CommandError(
                ErrorCode.BAD_COMMAND,
                f"`sub` must have 1 to {MAX_SUBJECT_CHARS} printable characters.",
            )
        if name is not None:
            check_username(name)
        try:
            return sign(subject=subject, name=name, rooms=rooms, duration_s=seconds)
        except SettingError as error:  # the file has changed
            logger.error("no token could be made: %s", error)
            raise CommandError(
                ErrorCode.UNAVAILABLE, "The server cannot make tokens at the moment."
            ) from None

    return issue
