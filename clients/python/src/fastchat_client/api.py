"""The HTTP API of a server, for backends and scripts with a key (docs/http-api.md).

A request is sent again if that cannot do harm: after a refusal that asks to wait, and after a lost
connection if the effect of two such requests is that of one. A message gets an `id`, so it is
published once however often it is sent. The waits of a call are limited by `max_wait`.
"""

from __future__ import annotations

import json
import logging
import random
import ssl
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fastchat_client.address import api_url
from fastchat_client.errors import ChatError
from fastchat_client.events import File, Message, Options, Position, file_of
from fastchat_client.requests import (
    Body,
    Lost,
    Reply,
    Request,
    Transport,
    error_of,
    path_of,
    unreachable,
)
from fastchat_client.results import (
    Ban,
    Erased,
    IssuedToken,
    MessagePage,
    Online,
    PublicationPage,
    Published,
    RoomInfo,
    RoomResult,
    all_options_of,
    ban_of,
    erased_of,
    issued_of,
    message_page_of,
    online_of,
    publication_page_of,
    published_of,
    room_info_of,
    room_result_of,
)
from fastchat_client.server_sent import Lines
from fastchat_client.stream import EventStream

if TYPE_CHECKING:
    from fastchat_client.uploads import Source

__all__ = ["API", "MAX_WAIT_S", "TIMEOUT_S", "BaseAPI"]

logger = logging.getLogger("fastchat_client")

#: The longest wait for a connection, and for each piece of an answer, in seconds.
TIMEOUT_S = 15.0
#: How long a call is tried again if the program does not say, in seconds.
MAX_WAIT_S = 10.0
#: The longest wait for operations that look at whole histories.
LONG_TIMEOUT_S = 600.0
#: Rooms of a listing that are read at once; the server's limit.
ROOMS_AT_ONCE = 1000
#: Between two attempts after a lost connection, in seconds: at first, and at most.
BACKOFF_S, MAX_BACKOFF_S = 0.1, 5.0

Result = TypeVar("Result")


class BaseAPI:
    """The operations of `API` and `SyncAPI`, on a transport of one of them."""

    def __init__(self, url: str, transport: Transport, max_wait: float) -> None:
        self._url = url
        self._transport = transport
        self._max_wait = max_wait

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    async def close(self) -> None:
        """Close all connections. Later calls raise Closed. Safe to call again."""
        await self._transport.close()

    # Messages

    async def publish(
        self,
        room: str,
        text: str,
        *,
        user: str | None = None,
        username: str | None = None,
        reply_to: int | Message | None = None,
        id: str | None = None,
    ) -> Published:
        """Publish a message, and return when the server has stored it.

        * ``user``, ``username``: the id and the name of a user in whose name the key speaks;
          without them, the message is from the key.
        * ``reply_to``: a message, or its offset, which the text then quotes.
        * ``id``: the key's own id of the message. Within ten minutes a second message with this id
          is not published; `repeated` of the result says so. Without it, every call has a new one.
        """
        offset = reply_to.offset if isinstance(reply_to, Message) else reply_to
        fields = _given(user=user, username=username, reply_to=offset)
        fields |= {"text": text, "id": uuid.uuid4().hex if id is None else id}
        path = path_of("rooms", room, "messages")
        reply = await self._call(Request("POST", path, json=fields))
        repeated = reply.status == 200
        return _parsed(reply, lambda raw: published_of(raw, repeated=repeated))

    async def publish_to(
        self,
        rooms: Sequence[str] | None,
        text: str,
        *,
        user: str | None = None,
        username: str | None = None,
        id: str | None = None,
    ) -> tuple[RoomResult, ...]:
        """Publish a message to many rooms; None stands for all rooms of the key that exist.

        There are at most 1,000 rooms. Some of them can fail: each result has an `error` or not. To
        try these rooms again, call this with the same `id`. See `publish`.
        """
        fields = _given(user=user, username=username)
        fields |= {"rooms": "*" if rooms is None else list(rooms), "text": text}
        fields["id"] = uuid.uuid4().hex if id is None else id
        request = Request("POST", "/messages", json=fields, timeout=LONG_TIMEOUT_S)
        return _parsed(
            await self._call(request),
            lambda raw: tuple(room_result_of(each) for each in raw["results"]),
        )

    async def messages(
        self,
        room: str,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> MessagePage:
        """Read messages in their present state, oldest first; without an offset, the newest.

        `before` and `after` are offsets, and cannot be used together.
        """
        params = _given(before=before, after=after, limit=limit)
        request = Request("GET", path_of("rooms", room, "messages"), params=params)
        return _parsed(await self._call(request), message_page_of)

    async def search(self, room: str, query: str, *, limit: int = 50) -> tuple[Message, ...]:
        """Find messages that have all words of a query, newest first."""
        params: dict[str, str | int] = {"q": query, "limit": limit}
        request = Request("GET", path_of("rooms", room, "messages"), params=params)
        return _parsed(await self._call(request), message_page_of).messages

    async def since(self, room: str, position: Position, *, limit: int = 50) -> PublicationPage:
        """Read what was published after a position: messages, edits, deletions and reactions.

        Raises Refused with the `code` "gone" if some of it is not stored any more. Then drop the
        room, and read it again with `messages`.
        """
        params: dict[str, str | int] = {
            "since": f"{position.epoch}:{position.offset}",
            "limit": limit,
        }
        request = Request("GET", path_of("rooms", room, "messages"), params=params)
        return _parsed(await self._call(request), publication_page_of)

    async def edit(
        self,
        room: str,
        offset: int,
        text: str,
        *,
        user: str | None = None,
        username: str | None = None,
    ) -> None:
        """Replace the text of a message of the key, or of `user`; a moderator's key, of anybody."""
        fields = {"text": text, **_given(user=user, username=username)}
        await self._call(Request("PATCH", path_of("rooms", room, "messages", offset), json=fields))

    async def delete(
        self, room: str, offset: int, *, user: str | None = None, username: str | None = None
    ) -> None:
        """Delete a message, as for `edit`."""
        path = path_of("rooms", room, "messages", offset)
        params = _given(user=user, username=username)
        await self._call(Request("DELETE", path, params=params, is_removal=True))

    async def react(
        self,
        room: str,
        offset: int,
        emoji: str,
        *,
        remove: bool = False,
        user: str | None = None,
        username: str | None = None,
    ) -> None:
        """React to a message, as the key or as `user`, or take the reaction back."""
        path = path_of("rooms", room, "messages", offset, "reactions", emoji)
        params = _given(user=user, username=username)
        method = "DELETE" if remove else "PUT"
        await self._call(Request(method, path, params=params, is_removal=remove))

    async def upload(self, room: str, file: Source) -> File:
        """Store a file: a path, or a pair of a name and bytes. Publish a message with its link.

        A file that no message links to is deleted after an hour. An upload that was lost on the
        way is not sent again. Raises OSError if the file cannot be read.
        """
        path = path_of("rooms", room, "files")
        shared = await self._transport.open_file(file)
        try:
            params = {"name": shared.name}
            reply = await self._call(
                Request("POST", path, params=params, file=shared, is_idempotent=False)
            )
        finally:
            shared.file.close()
        return _parsed(reply, lambda raw: file_of(raw, shared.name, shared.size))

    # Rooms

    async def rooms(self, prefix: str = "") -> AsyncGenerator[RoomInfo]:
        """List the rooms of the key whose names begin with `prefix`, in the order of the names."""
        params: dict[str, str | int] = {"prefix": prefix, "limit": ROOMS_AT_ONCE}
        while True:
            reply = await self._call(Request("GET", "/rooms", params=params))
            rooms, cursor = _parsed(
                reply,
                lambda raw: (tuple(map(room_info_of, raw["rooms"])), raw["cursor"]),
            )
            for room in rooms:
                yield room
            if cursor is None:
                return
            params["cursor"] = cursor

    async def options(self, room: str) -> Options:
        """Read the options of a room."""
        request = Request("GET", path_of("rooms", room))
        return _parsed(await self._call(request), all_options_of)

    async def set_options(
        self,
        room: str,
        *,
        title: str | None = None,
        topic: str | None = None,
        closed: bool | None = None,
        read_only: bool | None = None,
        slow_s: int | None = None,
        max_messages: int | None = None,
    ) -> Options:
        """Change options of a room; those that are None stay. Return all options.

        An empty text, and 0, take an option back. `Options` says what they mean.
        """
        fields = _given(
            title=title,
            topic=topic,
            closed=closed,
            read_only=read_only,
            slow_s=slow_s,
            max_messages=max_messages,
        )
        request = Request("PATCH", path_of("rooms", room), json=fields)
        return _parsed(await self._call(request), all_options_of)

    async def delete_room(self, room: str) -> None:
        """Delete the messages, the files and the options of a room; its members leave it."""
        request = Request("DELETE", path_of("rooms", room), is_removal=True, timeout=LONG_TIMEOUT_S)
        await self._call(request)

    # Users

    async def users(self, room: str) -> tuple[Online, ...]:
        """List the users in a room, in the order in which they came."""
        reply = await self._call(Request("GET", path_of("rooms", room, "users")))
        return _parsed(
            reply, lambda raw: tuple(online_of(each, room=room) for each in raw["users"])
        )

    async def find_user(self, user: str) -> tuple[Online, ...]:
        """List the rooms of the key that a user is in."""
        reply = await self._call(Request("GET", path_of("users", user)))
        return _parsed(
            reply, lambda raw: tuple(online_of(each, user=user) for each in raw["rooms"])
        )

    async def disconnect(
        self, user: str, *, room: str | None = None, reason: str | None = None
    ) -> int:
        """Close the connections of a user in a room, or in all; return in how many rooms they were.

        The user can come back at once. `reason` is for the server's log. The request is not sent
        again after a lost connection.
        """
        request = Request(
            "POST",
            path_of("users", user, "disconnect"),
            json=_given(room=room, reason=reason),
            is_idempotent=False,
        )
        return _parsed(await self._call(request), lambda raw: int(raw["rooms"]))

    async def ban(self, user: str, *, seconds: int, room: str | None = None) -> None:
        """Keep a user out of a room, or of all rooms, also if they are away.

        An earlier ban of the same user and room is replaced.
        """
        fields = {"seconds": seconds, **_given(room=room)}
        await self._call(Request("PUT", path_of("users", user, "ban"), json=fields))

    async def unban(self, user: str, *, room: str | None = None) -> None:
        """Lift a ban from a room, or that from all rooms. Raises Refused if there is none."""
        path = path_of("users", user, "ban")
        await self._call(Request("DELETE", path, params=_given(room=room), is_removal=True))

    async def bans(self) -> tuple[Ban, ...]:
        """List the bans in force, the one that ends soonest first."""
        reply = await self._call(Request("GET", "/bans"))
        return _parsed(reply, lambda raw: tuple(map(ban_of, raw["bans"])))

    async def export(self, user: str) -> AsyncGenerator[dict[str, Any]]:
        """Everything that a user has published in all rooms, as the server's JSON objects.

        Raises Disconnected if the connection is lost on the way: the export is not complete.
        """
        request = Request("GET", path_of("users", user, "export"), timeout=LONG_TIMEOUT_S)
        body = await self._open(request)
        lines = Lines()
        try:
            while (piece := await body.next()) is not None:
                for line in lines.feed(piece):
                    yield _object(line)
            if not lines.is_complete:
                raise unreachable("lines that are not complete")
        except Lost as lost:
            raise lost.error from None
        finally:
            await body.close()

    async def erase(self, user: str) -> Erased:
        """Erase the texts, the names, the reactions and the files of a user in all rooms."""
        request = Request("DELETE", path_of("users", user), timeout=LONG_TIMEOUT_S)
        return _parsed(await self._call(request), erased_of)

    async def create_token(
        self,
        sub: str,
        *,
        name: str | None = None,
        rooms: Mapping[str, Sequence[str]] | None = None,
        ttl: int | None = None,
    ) -> IssuedToken:
        """Make a token with which a user of your site can join.

        * ``sub``: the permanent identifier of the user at your site; `name`: what others see.
        * ``rooms``: a list of "read", "write" and "moderate" for each room, or for "*"; without
          it, the token can read and write in all rooms.
        * ``ttl``: the seconds for which it is valid; an hour without it.
        """
        fields = {"sub": sub, **_given(name=name, ttl=ttl)}
        if rooms is not None:
            fields["rooms"] = {room: list(rights) for room, rights in rooms.items()}
        return _parsed(await self._call(Request("POST", "/tokens", json=fields)), issued_of)

    async def description(self) -> dict[str, Any]:
        """The server's description of its API (OpenAPI 3.1)."""
        reply = await self._call(Request("GET", "/openapi.json"))
        return _parsed(reply, lambda raw: dict(raw))

    # Sending

    async def _call(self, request: Request) -> Reply:
        """Send a request, again if that is possible, and return its answer of success."""
        attempts = _Attempts(self._transport, request, self._max_wait)
        while True:
            try:
                reply = await _whole(await self._transport.open(request))
            except Lost as lost:
                await attempts.wait_after_loss(lost)
            else:
                if reply.status < 300 or attempts.have_removed(reply):
                    return reply
                await attempts.wait_after_refusal(reply)

    async def _open(self, request: Request) -> Body:
        """Do what `_call` does, for an answer that is read in pieces."""
        attempts = _Attempts(self._transport, request, self._max_wait)
        while True:
            try:
                body = await self._transport.open(request)
                if body.status < 300:
                    return body
                reply = await _whole(body)
            except Lost as lost:
                await attempts.wait_after_loss(lost)
            else:
                await attempts.wait_after_refusal(reply)


class _Attempts:
    """The attempts of a call, and whether one of them can have succeeded without an answer."""

    def __init__(self, transport: Transport, request: Request, max_wait: float) -> None:
        self._transport = transport
        self._request = request
        self._give_up = monotonic() + max_wait
        self._count = 0
        self._was_lost = False

    def have_removed(self, reply: Reply) -> bool:
        """Whether an answer says "not found" because an earlier attempt has removed the thing."""
        return reply.status == 404 and self._request.is_removal and self._was_lost

    async def wait_after_loss(self, lost: Lost) -> None:
        """Wait before the next attempt, or raise the error."""
        self._was_lost = self._was_lost or lost.was_sent
        await self._wait(lost.error, self._request.is_idempotent or not lost.was_sent)

    async def wait_after_refusal(self, reply: Reply) -> None:
        """Wait before the next attempt, or raise the error."""
        # Whether a request that was answered with 503 has had an effect is not always known.
        self._was_lost = self._was_lost or reply.status >= 500
        await self._wait(error_of(reply), self._request.is_idempotent or reply.status == 429)

    async def _wait(self, error: ChatError, may_repeat: bool) -> None:
        backoff_s = min(MAX_BACKOFF_S, BACKOFF_S * 2.0**self._count) * random.uniform(0.5, 1.0)  # noqa: S311
        wait_s = max(backoff_s, error.retry_after or 0.0)
        if not (error.temporary and may_repeat) or monotonic() + wait_s > self._give_up:
            raise error
        self._count += 1
        logger.info("a request to the API is sent again in %.1f s: %s", wait_s, error)
        await self._transport.sleep(wait_s)


class API(BaseAPI):
    """The HTTP API of a server. Use it with `async with`, or call `close` at the end.

    * ``url``: the address of the server, as for `Chat`; with `--api-port`, that of this port.
    * ``key``: a key of `fastchat key new`. It is in no log and no representation.
    * ``timeout``: the longest wait for a connection, and for each piece of an answer, in seconds.
    * ``max_wait``: how long a call is tried again, in seconds: after "rate_limited" and
      "unavailable", and after a lost connection if the request can be repeated. If the server asks
      to wait longer, the call raises at once. 0 for never.
    * ``tls``: other certificates than the system trusts.

    Connections are kept for later calls, of which any number can run at a time, in one event loop.
    A call raises Refused if the server refuses it, Disconnected if there is no answer (then it can
    have been carried out), and ValueError for a wrong argument.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str,
        timeout: float = TIMEOUT_S,
        max_wait: float = MAX_WAIT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        from fastchat_client.transport import AsyncTransport  # loads httpx

        url = api_url(url)
        super().__init__(url, AsyncTransport(url, checked_key(key), timeout, tls), max_wait)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def events(self, *rooms: str, last_id: str | None = None) -> EventStream:
        """Follow rooms: names, and beginnings followed by `*`; without any, all of the key.

        The iteration does not end. After a lost connection it goes on where it was, so no
        publication is missing or given twice; if some are not stored any more, there is a `Gap`
        without `messages`. After one with the reason "reset", the whole room follows. Joins and
        leaves while the connection is lost are missing. `epoch` of a publication is empty, because
        the server does not say it here.

        `last_id` continues an earlier stream after its `last_id`. Without it, the stream gives
        what happens after it has connected: at the beginning of an `async with`, or of the
        iteration. Both raise Refused if the key has no right to the rooms, or if there are more
        than 50 of them.
        """
        return EventStream(self._transport, rooms, last_id)


def checked_key(key: str) -> str:
    """The key without white space around it. Raises ValueError, without the key, if it is none."""
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("The key is not one of `fastchat key new`.")
    return key


async def _whole(body: Body) -> Reply:
    try:
        return await body.read()
    finally:
        await body.close()


def _given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _parsed(reply: Reply, parse: Callable[[Any], Result]) -> Result:
    try:
        return parse(json.loads(reply.content))
    except (KeyError, TypeError, ValueError):
        raise unreachable("a content of another kind") from None


def _object(line: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (TypeError, ValueError):
        raise unreachable("lines of another kind") from None
