"""What happens in a room, as frozen dataclasses, and their parsing from the server's JSON.

Every event has `raw`, the server's object as it was received, with keys that this version does not
know. Two events are equal if their other fields are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from fastchat_client.replies import without_quote

if TYPE_CHECKING:
    from fastchat_client.room import Room

__all__ = [
    "Delete",
    "Edit",
    "Erase",
    "Event",
    "File",
    "Gap",
    "Join",
    "Leave",
    "Message",
    "Options",
    "OptionsChange",
    "Page",
    "Position",
    "Presence",
    "Publication",
    "React",
    "Rejoined",
    "Sent",
    "Typing",
    "User",
]

_FILE = re.compile(r"(?<!\S)/files/[a-z2-7]{32}/[^\s/?#]+\?size=\d+[^\s#]*")


class Position(NamedTuple):
    """A place in a room's stream: all publications up to `offset` were received.

    `epoch` names the room's history, in which offsets are 1, 2, 3 … `timestamp` is the server's
    text for the time of the publication at `offset`; None if that is not known.
    """

    epoch: str
    offset: int
    timestamp: str | None = None


@dataclass(frozen=True, slots=True)
class User:
    """Somebody in a room. `user` is a stable id, and `username` the name that people see."""

    user: str | None
    username: str


@dataclass(frozen=True, slots=True)
class File:
    """A shared file. `link` is an address on the server; images have a width and a height."""

    link: str
    name: str
    size: int
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator has set for a room (docs/protocol.md, "Options of a room").

    * ``title``, ``topic``: what the room is called, and what it is about; None if that is not set.
    * ``closed``: nobody can join or write. ``read_only``: nobody can write.
    * ``slow_s``: the seconds that a user has to wait between two messages; `Room.send` waits.
    * ``max_messages``: how many publications the room keeps; None if that is not set.
    """

    title: str | None = None
    topic: str | None = None
    closed: bool = False
    read_only: bool = False
    slow_s: float = 0
    max_messages: int | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that the server has stored.

    `timestamp` is None if the message had been published before and only its offset is known.
    """

    room: str
    epoch: str
    offset: int
    timestamp: datetime | None
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    room: str
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication(_Event):
    """Something that the server has numbered and stored.

    `user` is the id of the author, and `username` their name then. Compare `user` with
    `room.user` to know whether it is yours; a name can belong to somebody else later.
    """

    epoch: str
    offset: int
    user: str | None
    username: str
    timestamp: datetime

    @property
    def position(self) -> Position:
        """The place right after this publication."""
        return Position(self.epoch, self.offset, str(self.raw["timestamp"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Publication):
    """A message, in its state at the time when it was received.

    `id` is the sender's; None if they gave none. `edited` is the time of the last edit. The text of
    a deleted message is empty. `reactions` has the users for each emoji.
    """

    text: str
    id: str | None = None
    edited: datetime | None = None
    deleted: bool = False
    reactions: Mapping[str, tuple[User, ...]] = field(default_factory=dict)
    _room: Room | None = field(default=None, repr=False, compare=False)

    @property
    def own_text(self) -> str:
        """The text without the quote with which a reply begins."""
        return without_quote(self.text)

    @property
    def files(self) -> tuple[File, ...]:
        """The files that the text links to."""
        return tuple(_file_of(link) for link in _FILE.findall(self.text))

    async def reply(self, text: str) -> Sent:
        """Send a message that quotes this one. See `Room.send`."""
        return await self._live.send(text, reply_to=self)

    async def react(self, emoji: str, *, remove: bool = False) -> None:
        """React to this message, or take the reaction back. See `Room.react`."""
        await self._live.react(self.offset, emoji, remove=remove)

    async def edit(self, text: str) -> None:
        """Change the text of this message. See `Room.edit`."""
        await self._live.edit(self.offset, text)

    async def delete(self) -> None:
        """Delete this message. See `Room.delete`."""
        await self._live.delete(self.offset)

    @property
    def _live(self) -> Room:
        if self._room is None:
            raise RuntimeError(
                "This message does not belong to a Chat. With SyncChat, use the methods of the "
                "room, such as room.send(text, reply_to=message)."
            )
        return self._room


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit(Publication):
    """The text of the message at the offset `target` is another one now."""

    target: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Publication):
    """The message at the offset `target` was deleted, by its author or a moderator."""

    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class React(Publication):
    """A user has reacted to the message at `target`, or has taken the reaction back (`remove`)."""

    target: int
    emoji: str
    remove: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(_Event):
    """A user has come into the room; `online` is the number of users now."""

    user: str | None
    username: str
    timestamp: datetime
    online: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(_Event):
    """A user has left the room; `online` is the number of users now."""

    user: str | None
    username: str
    timestamp: datetime
    online: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence(_Event):
    """The numbers of users and spectators have changed.

    `users` is the whole list if it is known. It is None in a room of more than 200 users, and if
    only the numbers have changed.
    """

    online: int
    spectators: int
    users: tuple[User, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Typing(_Event):
    """Somebody else is writing a message. It is valid for 5 s."""

    user: str | None
    username: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionsChange(_Event):
    """The operator has changed the room's options."""

    options: Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase(_Event):
    """Everything that `user` has said in the room was erased, and their reactions are gone.

    It is not stored: a program that is away then reads the room as it is afterwards.
    """

    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejoined(_Event):
    """The client is in the room again after a lost connection; the users can be others now.

    What was missed follows: the publications, or one `Gap`.
    """

    username: str | None
    online: int
    spectators: int
    users: tuple[User, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap(_Event):
    """Publications after the offset `after` and before the offset `before` may be missing.

    * ``reason`` "away": more was missed than the server sends again. `messages` are the newest
      messages in the room, as they are now; some of them can be from before the gap.
    * ``reason`` "reset": the room has another history, so its offsets have begun anew, or an older
      copy was put back. Drop everything you have of the room; `messages` are its newest messages.
    * ``reason`` "slow": this program took events too slowly, and the oldest ones were dropped.

    Messages in `messages` do not come as events again. `position` is the place after the gap. If
    `before` is `after` + 1, only joins and leaves are missing.
    """

    reason: Literal["away", "reset", "slow"]
    after: int
    before: int
    position: Position
    messages: tuple[Message, ...] = field(default=(), repr=False)


Event = (
    Message
    | Edit
    | Delete
    | React
    | Join
    | Leave
    | Typing
    | Presence
    | OptionsChange
    | Erase
    | Rejoined
    | Gap
)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a room's history, oldest message first; `more` says whether there are others."""

    messages: tuple[Message, ...]
    more: bool


# Parsing. Each function raises KeyError, TypeError or ValueError if the object is not of the
# protocol.


def position_of(event: Mapping[str, Any]) -> Position:
    """The position in a `joined`."""
    stamp = event.get("timestamp")
    return Position(
        str(event["epoch"]), int(event["offset"]), None if stamp is None else str(stamp)
    )


def users_of(listed: Iterable[Mapping[str, Any]] | None) -> tuple[User, ...] | None:
    if listed is None:
        return None
    return tuple(User(each.get("user"), str(each["username"])) for each in listed)


def publication_of(raw: Mapping[str, Any], epoch: str, room: Room | None = None) -> Publication:
    """Parse a publication of any type."""
    kind = raw["type"]
    common: dict[str, Any] = {
        "raw": raw,
        "room": str(raw["room"]),
        "epoch": epoch,
        "offset": int(raw["offset"]),
        "user": raw.get("user"),
        "username": str(raw["username"]),
        "timestamp": datetime.fromisoformat(raw["timestamp"]),
    }
    if kind == "message":
        return Message(
            **common,
            text=_text(raw["text"]),
            id=raw.get("id"),
            edited=_time(raw.get("edited")),
            deleted=bool(raw.get("deleted")),
            reactions={
                str(emoji): users_of(reactors) or ()
                for emoji, reactors in (raw.get("reactions") or {}).items()
            },
            _room=room,
        )
    common["target"] = int(raw["target"])
    if kind == "edit":
        return Edit(**common, text=_text(raw["text"]))
    if kind == "delete":
        return Delete(**common)
    if kind == "react":
        return React(**common, emoji=str(raw["emoji"]), remove=bool(raw.get("remove")))
    raise ValueError(kind)


def message_of(raw: Mapping[str, Any], epoch: str, room: Room | None = None) -> Message:
    """Parse a message of a page or of a search."""
    parsed = publication_of(raw, epoch, room)
    if not isinstance(parsed, Message):
        raise ValueError(raw["type"])
    return parsed


def movement_of(raw: Mapping[str, Any]) -> Join | Leave:
    """Parse a `join` or a `leave`."""
    kinds: dict[str, type[Join | Leave]] = {"join": Join, "leave": Leave}
    kind = kinds[raw["type"]]
    return kind(
        raw=raw,
        room=str(raw["room"]),
        user=raw.get("user"),
        username=str(raw["username"]),
        timestamp=datetime.fromisoformat(raw["timestamp"]),
        online=int(raw["online"]),
    )


def presence_of(raw: Mapping[str, Any]) -> Presence:
    return Presence(
        raw=raw,
        room=str(raw["room"]),
        online=int(raw["online"]),
        spectators=int(raw["spectators"]),
        users=users_of(raw.get("users")),
    )


def options_of(raw: Mapping[str, Any] | None) -> Options:
    """Parse the options in a `joined` or a `room`; without any, they have their defaults."""
    known = {field.name for field in fields(Options)}
    return Options(**{key: value for key, value in (raw or {}).items() if key in known})


def options_change_of(raw: Mapping[str, Any]) -> OptionsChange:
    return OptionsChange(raw=raw, room=str(raw["room"]), options=options_of(raw["options"]))


def erase_of(raw: Mapping[str, Any]) -> Erase:
    return Erase(raw=raw, room=str(raw["room"]), user=str(raw["user"]))


def typing_of(raw: Mapping[str, Any]) -> Typing:
    return Typing(
        raw=raw, room=str(raw["room"]), user=raw.get("user"), username=str(raw["username"])
    )


def file_of(raw: Mapping[str, Any], name: str, size: int) -> File:
    """Parse a `file`. `name` and `size` are those of the upload."""
    return File(
        str(raw["link"]),
        str(raw.get("name", name)),
        int(raw.get("size", size)),
        raw.get("width"),
        raw.get("height"),
    )


def _file_of(link: str) -> File:
    parts = urlsplit(link)
    numbers = {
        key: int(values[0])
        for key, values in parse_qs(parts.query).items()
        if values[0].isdecimal()
    }
    name = unquote(parts.path.rpartition("/")[2])
    return File(link, name, numbers["size"], numbers.get("width"), numbers.get("height"))


def _text(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(text)
    return text


def _time(text: object) -> datetime | None:
    return None if text is None else datetime.fromisoformat(_text(text))
