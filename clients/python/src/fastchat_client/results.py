"""Results of the HTTP API, as frozen dataclasses, and their parsing from the server's JSON.

Each function raises KeyError, TypeError or ValueError if the object is not one of the API.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fastchat_client.errors import Refused
from fastchat_client.events import (
    Message,
    Options,
    Position,
    Publication,
    message_of,
    options_of,
    publication_of,
)

__all__ = [
    "Ban",
    "Erased",
    "IssuedToken",
    "MessagePage",
    "Online",
    "PublicationPage",
    "Published",
    "RoomInfo",
    "RoomResult",
]


@dataclass(frozen=True, slots=True)
class Published:
    """A message that the server has stored.

    `repeated` says that a message with this `id` was stored before, and nothing was published now.
    `timestamp` is None if that message is not stored any more.
    """

    room: str
    epoch: str
    offset: int
    timestamp: datetime | None
    id: str
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class RoomResult:
    """What became of a message in one of several rooms: either `published` or `error` is set."""

    room: str
    published: Published | None = None
    error: Refused | None = None


@dataclass(frozen=True, slots=True)
class MessagePage:
    """A page of messages in their present state; `more` says whether there are others.

    `position` was the end of the room: `since` goes on from there without a gap.
    """

    messages: tuple[Message, ...]
    more: bool
    position: Position


@dataclass(frozen=True, slots=True)
class PublicationPage:
    """Publications of every kind after a position; `position` is the place after them.

    Kinds that this version does not know are left out.
    """

    publications: tuple[Publication, ...]
    more: bool
    position: Position


@dataclass(frozen=True, slots=True)
class RoomInfo:
    """A room: the offset of its newest publication (`head`), its users, and its size in bytes."""

    room: str
    epoch: str
    head: int
    online: int
    last_at: datetime | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Online:
    """A user in a room, on a number of connections, since the first of them has joined."""

    room: str
    user: str
    username: str
    connections: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Ban:
    """A user who cannot join a room, or any room (`room` is None), before `until`."""

    user: str
    room: str | None
    until: datetime


@dataclass(frozen=True, slots=True)
class Erased:
    """How much was erased."""

    messages: int
    reactions: int


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token for a user, which is not in the representation, and when it expires."""

    token: str = field(repr=False)
    expires: datetime


def published_of(raw: Mapping[str, Any], *, repeated: bool) -> Published:
    return Published(
        str(raw["room"]),
        str(raw["epoch"]),
        int(raw["offset"]),
        _time(raw["timestamp"]),
        str(raw["id"]),
        repeated,
    )


def room_result_of(raw: Mapping[str, Any]) -> RoomResult:
    room = str(raw["room"])
    if "error" in raw:
        return RoomResult(room, error=Refused.from_event(raw["error"]))
    return RoomResult(room, published_of(raw, repeated=raw["status"] == 200))


def message_page_of(raw: Mapping[str, Any]) -> MessagePage:
    epoch = str(raw["epoch"])
    messages = tuple(message_of(each, epoch) for each in raw["messages"])
    return MessagePage(messages, bool(raw["more"]), Position(epoch, int(raw["offset"])))


def publication_page_of(raw: Mapping[str, Any]) -> PublicationPage:
    epoch = str(raw["epoch"])
    known = tuple(_known_of(raw["messages"], epoch))
    return PublicationPage(known, bool(raw["more"]), Position(epoch, int(raw["offset"])))


def _known_of(raws: Iterable[Mapping[str, Any]], epoch: str) -> Iterable[Publication]:
    for raw in raws:
        if raw["type"] in ("message", "edit", "delete", "react"):
            yield publication_of(raw, epoch)


def room_info_of(raw: Mapping[str, Any]) -> RoomInfo:
    return RoomInfo(
        str(raw["room"]),
        str(raw["epoch"]),
        int(raw["head"]),
        int(raw["online"]),
        _time(raw["last_at"]),
        int(raw["bytes"]),
    )


def online_of(raw: Mapping[str, Any], **more: str) -> Online:
    """Parse a user of a room, or a room of a user; `more` is what the list does not repeat."""
    fields = {**raw, **more}
    return Online(
        str(fields["room"]),
        str(fields["user"]),
        str(fields["username"]),
        int(fields["connections"]),
        datetime.fromisoformat(fields["since"]),
    )


def ban_of(raw: Mapping[str, Any]) -> Ban:
    room = raw["room"]
    return Ban(
        str(raw["user"]),
        None if room is None else str(room),
        datetime.fromisoformat(raw["until"]),
    )


def all_options_of(raw: Mapping[str, Any]) -> Options:
    """Parse an answer with all options, in which those that are not set are empty or 0."""
    return options_of({name: value for name, value in raw.items() if value})


def issued_of(raw: Mapping[str, Any]) -> IssuedToken:
    return IssuedToken(str(raw["token"]), datetime.fromisoformat(raw["expires"]))


def erased_of(raw: Mapping[str, Any]) -> Erased:
    return Erased(int(raw["messages"]), int(raw["reactions"]))


def refusal_of(raw: object) -> Refused | None:
    """Parse the body of an error; None if it is not one of the server's."""
    with suppress(KeyError, TypeError, ValueError):
        return Refused.from_event(raw)  # type: ignore[arg-type]  # which raises TypeError
    return None


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
