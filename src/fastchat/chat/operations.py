"""What a backend or an operator can have done: an API key over HTTP, or a command on this machine.

Both ways call these operations, with the same names. Who may call which is decided before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from fastchat.brokers import Broker, Pages
from fastchat.chat.quotes import quote_of
from fastchat.errors import CommandError, ErrorCode
from fastchat.history import Duplicate
from fastchat.protocol import (
    ChangeDraft,
    Draft,
    Kind,
    Position,
    PostedDraft,
    check_emoji,
    check_id,
    check_room,
    check_text,
    check_username,
    timestamps,
    users,
)
from fastchat.protocol.options import RoomOptions
from fastchat.protocol.users import GUEST_PREFIX, HOLDER_PREFIX, check_user
from fastchat.protocol.values import MAX_OFFSET, MAX_TOKEN_BYTES
from fastchat.rooms import Messages
from fastchat.rooms.administration import (
    MAX_LISTED_ROOMS,
    Administration,
    Ban,
    Erased,
    Presence,
    StoredRoom,
)

__all__ = ["OPERATOR", "Operations", "Published", "Speaker", "check_options"]

#: The longest ban, in seconds: 10 years. A moderator's removal lasts 30 days at most.
MAX_BAN_S = 3650 * 86400
MAX_TITLE_CHARS, MAX_TOPIC_CHARS = 80, 400
#: The longest time between two messages of a user in slow mode: 6 h.
MAX_SLOW_S = 6 * 3600
#: The fewest publications that a room can be told to keep, and the most.
MIN_KEPT, MAX_KEPT = 10, 10_000_000
#: How long the epoch of a room is remembered. It changes only if publications were lost or deleted.
EPOCH_S = 1.0
#: Rooms whose epochs are remembered.
MAX_EPOCHS = 10_000


class Speaker(NamedTuple):
    """A key, a webhook or an operator: a public id, and the name that users see."""

    user: str
    name: str


#: Who administers the server on its machine.
OPERATOR = Speaker(users.OPERATOR, "operator")


class Published(NamedTuple):
    """A publication that was stored; `is_repeated` if it was stored before.

    `id` is the caller's own. The timestamp of a repeated message is None if the message is not
    stored any more.
    """

    room: str
    epoch: str
    offset: int
    timestamp: str | None
    id: str | None = None
    is_repeated: bool = False


class Operations:
    """The operations. They check their arguments, and raise CommandError if one is refused.

    If the rooms cannot be reached, or the disk fails, the error is `unavailable`; the operation can
    have happened nevertheless, and can be repeated. `clock`: seconds since 1970, for timestamps
    only.
    """

    def __init__(
        self,
        broker: Broker,
        pages: Pages,
        administration: Administration,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._broker = broker
        self._pages = pages
        self._administration = administration
        self._now = timestamps(clock)
        self._epochs: dict[str, tuple[str, float]] = {}

    # Publications

    async def publish(
        self,
        speaker: Speaker,
        room: str,
        text: str,
        *,
        user: str | None = None,
        username: str | None = None,
        id: str | None = None,
        reply_to: int | None = None,
    ) -> Published:
        """Publish a message, and return when it is stored.

        It is the speaker's own, or one of `user`, who then needs a `username`. With `reply_to`, it
        begins with a quote of the message at that offset. If the speaker has published a message
        with this `id` in the room before, and within ten minutes, the result is that message.

        Nobody joins or leaves, and no rate of users counts. Members see the `id` as `SPEAKER:ID`,
        so it is never that of a message that a user has sent.
        """
        room = check_room(room)
        author, name = _author(speaker, user, username)
        stored_id = None if id is None else _own_id(speaker, id)
        text = check_text(text)
        if reply_to is not None:
            text = check_text(await self._quote(room, reply_to) + text)
        draft = PostedDraft(room, name, text, self._now(), author, stored_id)
        outcome = await self._store(draft)
        epoch = await self._epoch(room)
        if isinstance(outcome, Duplicate):
            found = await self._find(room, outcome.offset)
            timestamp = None if found is None else found["timestamp"]
            return Published(room, epoch, outcome.offset, timestamp, id, is_repeated=True)
        return Published(room, epoch, outcome, draft.timestamp, id)

    async def edit(
        self,
        speaker: Speaker,
        room: str,
        offset: int,
        text: str,
        *,
        user: str | None = None,
        username: str | None = None,
        moderates: bool = False,
    ) -> Published:
        """Replace the text of a message.

        The message must be the speaker's own, or `user`'s; if the speaker `moderates`, anybody's.
        """
        who = _author(speaker, user, username)
        return await self._change(room, who, Kind.EDIT, offset, moderates, text=check_text(text))

    async def delete(
        self,
        speaker: Speaker,
        room: str,
        offset: int,
        *,
        user: str | None = None,
        username: str | None = None,
        moderates: bool = False,
    ) -> Published:
        """Delete a message, as for `edit`."""
        who = _author(speaker, user, username)
        return await self._change(room, who, Kind.DELETE, offset, moderates)

    async def react(
        self,
        speaker: Speaker,
        room: str,
        offset: int,
        emoji: str,
        *,
        remove: bool = False,
        user: str | None = None,
        username: str | None = None,
    ) -> Published:
        """Add a reaction of the speaker or of `user` to a message, or take it back."""
        who = _author(speaker, user, username)
        emoji = check_emoji(emoji)
        return await self._change(room, who, Kind.REACT, offset, False, emoji=emoji, remove=remove)

    async def _change(
        self,
        room: str,
        who: tuple[str, str],
        kind: Kind,
        offset: int,
        moderates: bool,
        *,
        text: str = "",
        emoji: str = "",
        remove: bool = False,
    ) -> Published:
        room, offset = check_room(room), _check_offset(offset)
        author, name = who
        timestamp = self._now()
        draft = ChangeDraft(
            *(room, name, text, timestamp, author, kind, offset, emoji, remove, moderates, True)
        )
        outcome = await self._store(draft)
        assert isinstance(outcome, int)  # a change has no id, so it repeats nothing
        return Published(room, await self._epoch(room), outcome, timestamp)

    async def _store(self, draft: Draft) -> int | Duplicate:
        stored: asyncio.Future[int | Duplicate] = asyncio.get_running_loop().create_future()

        def on_outcome(outcome: int | Duplicate | CommandError) -> None:
            if stored.cancelled():
                return
            if isinstance(outcome, CommandError):
                stored.set_exception(outcome)
            else:
                stored.set_result(outcome)

        self._broker.publish(draft, on_outcome)
        return await stored

    async def _epoch(self, room: str) -> str:
        now = asyncio.get_running_loop().time()
        epoch, until = self._epochs.get(room, ("", 0.0))
        if until <= now:
            epoch = (await self._administration.position(room)).epoch
            if len(self._epochs) >= MAX_EPOCHS:
                self._epochs.clear()
            self._epochs[room] = epoch, now + EPOCH_S
        return epoch

    async def _find(self, room: str, offset: int) -> Mapping[str, Any] | None:
        """The message at an offset, in its present state; None if there is none."""
        page = await self._pages.before(room, offset + 1, 1)
        message: Mapping[str, Any] | None = (
            orjson.loads(page.payloads[0]) if page.payloads else None
        )
        return message if message is not None and message["offset"] == offset else None

    async def _quote(self, room: str, offset: int) -> str:
        found = await self._find(room, _check_offset(offset))
        if found is None or found.get("deleted"):
            raise CommandError(
                ErrorCode.NOT_FOUND, "There is no message at this offset to reply to."
            )
        return quote_of(found["username"], offset, found["text"])

    # Reading

    async def messages(
        self,
        room: str,
        *,
        before: int | None = None,
        after: int | None = None,
        query: str | None = None,
        limit: int = 50,
    ) -> Messages:
        """A page of messages, or the newest ones that match a query (newest first)."""
        room = check_room(room)
        if query is not None:
            return await self._pages.search(room, query, limit)
        if after is not None:
            return await self._pages.after(room, after, limit)
        return await self._pages.before(room, before, limit)

    async def since(self, room: str, position: Position, limit: int) -> Sequence[bytes] | None:
        """Publications of all kinds after a position; see `Administration.since`."""
        return await self._administration.since(check_room(room), position, limit)

    async def position(self, room: str) -> Position:
        return await self._administration.position(check_room(room))

    async def rooms(
        self, prefix: str = "", after: str = "", limit: int = MAX_LISTED_ROOMS
    ) -> Sequence[StoredRoom]:
        """Rooms in the order of their names; see `Administration.rooms`."""
        return await self._administration.rooms(prefix, after, limit)

    async def users(self, room: str) -> Sequence[Presence]:
        return await self._administration.users(check_room(room))

    async def find_user(self, user: str) -> Sequence[Presence]:
        return await self._administration.find_user(check_user(user))

    # Rooms

    async def options(self, room: str) -> RoomOptions:
        return await self._administration.options(check_room(room))

    async def set_options(
        self, speaker: Speaker, room: str, changes: Mapping[str, Any]
    ) -> RoomOptions:
        """Change options of a room; those that are not in `changes` stay."""
        room, checked = check_room(room), check_options(changes)
        return await self._administration.set_options(room, checked, speaker.name)

    async def delete_room(self, speaker: Speaker, room: str) -> bool:
        deleted = await self._administration.delete_room(check_room(room), speaker.name)
        self._epochs.pop(room, None)
        return deleted

    # Users

    async def disconnect(self, speaker: Speaker, user: str, room: str | None = None) -> int:
        """Close a user's connections; returns in how many rooms the user was."""
        where = _check_where(room)
        return await self._administration.disconnect(check_user(user), where, speaker.name)

    async def ban(self, speaker: Speaker, user: str, seconds: int, room: str | None = None) -> None:
        """Keep a user out of a room, or of all rooms."""
        if type(seconds) is not int or not 1 <= seconds <= MAX_BAN_S:
            raise _bad(f"`seconds` must be a whole number from 1 to {MAX_BAN_S}.")
        where = _check_where(room)
        await self._administration.ban(check_user(user), where, seconds, speaker.name)

    async def unban(self, speaker: Speaker, user: str, room: str | None = None) -> bool:
        """Lift a ban or a removal; returns whether there was one."""
        where = _check_where(room)
        return await self._administration.unban(check_user(user), where, speaker.name)

    async def bans(self) -> Sequence[Ban]:
        return await self._administration.bans()

    async def messages_of(
        self, user: str, after: Sequence[Any] | None, limit: int
    ) -> tuple[Sequence[bytes], Sequence[Any] | None]:
        """What a user has published, in steps; see `Administration.messages_of`."""
        return await self._administration.messages_of(check_user(user), after, limit)

    async def erase(self, speaker: Speaker, user: str) -> Erased:
        """Erase what a user has said; see `Administration.erase_user`."""
        return await self._administration.erase_user(check_user(user), speaker.name)

    # By name

    async def run(self, speaker: Speaker, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Run an operation by its name, and return its result as values for JSON.

        Raises CommandError `bad_command` for an unknown name or argument, or one that is missing.
        """
        known = _VERBS.get(verb)
        if known is None:
            raise _bad(f"There is no operation `{verb}`; these are known: {', '.join(_VERBS)}.")
        for name, value in arguments.items():
            if (type_ := known.arguments.get(name)) is None:
                names = ", ".join(known.arguments) or "none"
                raise _bad(f"`{verb}` has no argument `{name}`; it has these: {names}.")
            if type(value) is not type_:
                raise _bad(f"`{name}` of `{verb}` must be of the type {type_.__name__}.")
        for name in known.needed:
            if name not in arguments:
                raise _bad(f"`{verb}` needs the argument `{name}`.")
        method = getattr(self, known.method)
        said = (speaker,) if known.is_said else ()
        return _plain(await method(*said, **arguments))


class _Verb(NamedTuple):
    """An operation that can be run by its name.

    `method` is the name of the method, and `is_said` whether its first argument is the speaker.
    `arguments` are the others with their types, of which those in `needed` cannot be left out.
    """

    method: str
    arguments: Mapping[str, type] = {}
    needed: Sequence[str] = ()
    is_said: bool = True


_TEXTS = {"room": str, "text": str, "user": str, "username": str, "id": str, "reply_to": int}
_USER = {"user": str, "room": str}
#: The operations that `Operations.run` knows.
_VERBS: Mapping[str, _Verb] = {
    "publish": _Verb("publish", _TEXTS, ("room", "text")),
    "disconnect": _Verb("disconnect", _USER, ("user",)),
    "ban": _Verb("ban", {**_USER, "seconds": int}, ("user", "seconds")),
    "unban": _Verb("unban", _USER, ("user",)),
    "erase": _Verb("erase", {"user": str}, ("user",)),
    "set": _Verb("set_options", {"room": str, "changes": dict}, ("room", "changes")),
    "delete": _Verb("delete_room", {"room": str}, ("room",)),
    "options": _Verb("options", {"room": str}, ("room",), is_said=False),
    "rooms": _Verb("rooms", {"prefix": str, "after": str, "limit": int}, is_said=False),
    "users": _Verb("users", {"room": str}, ("room",), is_said=False),
    "find": _Verb("find_user", {"user": str}, ("user",), is_said=False),
    "bans": _Verb("bans", is_said=False),
}


def _plain(value: Any) -> Any:
    """A result as values for JSON: named tuples become objects."""
    if hasattr(value, "_asdict"):
        return value._asdict()
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def check_options(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Check options of a room by their names. Raises CommandError `bad_command`."""
    checked: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in RoomOptions._fields:
            known = ", ".join(f"`{each}`" for each in RoomOptions._fields)
            raise _bad(f"A room has no option {name!r}; its options are {known}.")
        checked[name] = _OPTIONS[name](name, value)
    return checked


def _line(most: int) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if type(value) is not str or len(value) > most or (value and not value.isprintable()):
            raise _bad(f"`{name}` must be a line of at most {most} characters.")
        return value.strip()

    return check


def _flag(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise _bad(f"`{name}` must be true or false.")
    return value


def _slow(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_SLOW_S:
        raise _bad(f"`{name}` must be a whole number of seconds from 0 to {MAX_SLOW_S}.")
    return value


def _kept(name: str, value: Any) -> int:
    if type(value) is not int or (value and not MIN_KEPT <= value <= MAX_KEPT):
        raise _bad(f"`{name}` must be 0, or a whole number from {MIN_KEPT} to {MAX_KEPT}.")
    return value


_OPTIONS: Mapping[str, Callable[[str, Any], Any]] = {
    "title": _line(MAX_TITLE_CHARS),
    "topic": _line(MAX_TOPIC_CHARS),
    "closed": _flag,
    "read_only": _flag,
    "slow_s": _slow,
    "max_messages": _kept,
}


def _author(speaker: Speaker, user: str | None, username: str | None) -> tuple[str, str]:
    """The public id and the name under which a speaker publishes."""
    if user is None:
        if username is not None:
            raise _bad("`username` needs a `user`; without one, a key speaks under its own name.")
        return speaker
    if not check_user(user).startswith((GUEST_PREFIX, HOLDER_PREFIX)):
        raise _bad("`user` must be the id of a user, which begins with u_ or g_.")
    if username is None:
        raise _bad("`user` needs a `username`, the name that the others see.")
    return user, check_username(username)


def _own_id(speaker: Speaker, id: object) -> str:
    """The id of a speaker's message as it is stored."""
    most = MAX_TOKEN_BYTES - len(speaker.user) - 1
    if len(check_id(id).encode()) > most:
        raise _bad(f"`id` must be a string of 1 to {most} bytes.")
    return f"{speaker.user}:{id}"


def _check_offset(offset: object) -> int:
    if type(offset) is int and 1 <= offset <= MAX_OFFSET:
        return offset
    raise _bad("An offset must be a whole number from 1 on.")


def _check_where(room: str | None) -> str | None:
    return None if room is None else check_room(room)


def _bad(message: str) -> CommandError:
    return CommandError(ErrorCode.BAD_COMMAND, message)
