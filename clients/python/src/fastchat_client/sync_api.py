"""The HTTP API for programs without asyncio: scripts, and web applications such as Django."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fastchat_client.address import api_url
from fastchat_client.api import MAX_WAIT_S, TIMEOUT_S, BaseAPI, checked_key
from fastchat_client.events import File, Message, Options, Position
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
)
from fastchat_client.stream import EventStream, SyncEventStream
from fastchat_client.waiting import each, result

if TYPE_CHECKING:
    from fastchat_client.uploads import Source

__all__ = ["SyncAPI"]


class SyncAPI:
    """The HTTP API of a server. Use it with `with`, or call `close` at the end.

    The arguments, the methods and their errors are those of `API`. The methods wait for their
    results, and can be called from any thread. A program can fork while no call runs: each process
    then has connections of its own.
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
        from fastchat_client.transport import BlockingTransport  # loads httpx

        url = api_url(url)
        self._url = url
        self._transport = BlockingTransport(url, checked_key(key), timeout, tls)
        self._api = BaseAPI(url, self._transport, max_wait)

    def __repr__(self) -> str:
        return f"SyncAPI({self._url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Later calls raise Closed. Safe to call again."""
        result(self._api.close())

    # Messages

    def publish(
        self,
        room: str,
        text: str,
        *,
        user: str | None = None,
        username: str | None = None,
        reply_to: int | Message | None = None,
        id: str | None = None,
    ) -> Published:
        """Publish a message, and return when the server has stored it. See `API.publish`."""
        return result(
            self._api.publish(room, text, user=user, username=username, reply_to=reply_to, id=id)
        )

    def publish_to(
        self,
        rooms: Sequence[str] | None,
        text: str,
        *,
        user: str | None = None,
        username: str | None = None,
        id: str | None = None,
    ) -> tuple[RoomResult, ...]:
        """Publish a message to many rooms, or to all. See `API.publish_to`."""
        return result(self._api.publish_to(rooms, text, user=user, username=username, id=id))

    def messages(
        self,
        room: str,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> MessagePage:
        """Read messages in their present state, oldest first. See `API.messages`."""
        return result(self._api.messages(room, before=before, after=after, limit=limit))

    def search(self, room: str, query: str, *, limit: int = 50) -> tuple[Message, ...]:
        """Find messages that have all words of a query, newest first."""
        return result(self._api.search(room, query, limit=limit))

    def since(self, room: str, position: Position, *, limit: int = 50) -> PublicationPage:
        """Read what was published after a position. See `API.since`."""
        return result(self._api.since(room, position, limit=limit))

    def edit(
        self,
        room: str,
        offset: int,
        text: str,
        *,
        user: str | None = None,
        username: str | None = None,
    ) -> None:
        """Replace the text of a message. See `API.edit`."""
        result(self._api.edit(room, offset, text, user=user, username=username))

    def delete(
        self, room: str, offset: int, *, user: str | None = None, username: str | None = None
    ) -> None:
        """Delete a message. See `API.delete`."""
        result(self._api.delete(room, offset, user=user, username=username))

    def react(
        self,
        room: str,
        offset: int,
        emoji: str,
        *,
        remove: bool = False,
        user: str | None = None,
        username: str | None = None,
    ) -> None:
        """React to a message, or take the reaction back. See `API.react`."""
        result(self._api.react(room, offset, emoji, remove=remove, user=user, username=username))

    def upload(self, room: str, file: Source) -> File:
        """Store a file. See `API.upload`."""
        return result(self._api.upload(room, file))

    def events(self, *rooms: str, last_id: str | None = None) -> SyncEventStream:
        """Follow rooms. The iteration waits without a limit. See `API.events`."""
        return SyncEventStream(EventStream(self._transport, rooms, last_id))

    # Rooms

    def rooms(self, prefix: str = "") -> Iterator[RoomInfo]:
        """List the rooms of the key whose names begin with `prefix`."""
        return each(self._api.rooms(prefix))

    def options(self, room: str) -> Options:
        """Read the options of a room."""
        return result(self._api.options(room))

    def set_options(
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
        """Change options of a room. See `API.set_options`."""
        return result(
            self._api.set_options(
                room,
                title=title,
                topic=topic,
                closed=closed,
                read_only=read_only,
                slow_s=slow_s,
                max_messages=max_messages,
            )
        )

    def delete_room(self, room: str) -> None:
        """Delete the messages, the files and the options of a room."""
        result(self._api.delete_room(room))

    # Users

    def users(self, room: str) -> tuple[Online, ...]:
        """List the users in a room, in the order in which they came."""
        return result(self._api.users(room))

    def find_user(self, user: str) -> tuple[Online, ...]:
        """List the rooms of the key that a user is in."""
        return result(self._api.find_user(user))

    def disconnect(self, user: str, *, room: str | None = None, reason: str | None = None) -> int:
        """Close the connections of a user. See `API.disconnect`."""
        return result(self._api.disconnect(user, room=room, reason=reason))

    def ban(self, user: str, *, seconds: int, room: str | None = None) -> None:
        """Keep a user out of a room, or of all rooms. See `API.ban`."""
        result(self._api.ban(user, seconds=seconds, room=room))

    def unban(self, user: str, *, room: str | None = None) -> None:
        """Lift a ban. See `API.unban`."""
        result(self._api.unban(user, room=room))

    def bans(self) -> tuple[Ban, ...]:
        """List the bans in force, the one that ends soonest first."""
        return result(self._api.bans())

    def export(self, user: str) -> Iterator[dict[str, Any]]:
        """Everything that a user has published in all rooms. See `API.export`."""
        return each(self._api.export(user))

    def erase(self, user: str) -> Erased:
        """Erase what a user has said in all rooms. See `API.erase`."""
        return result(self._api.erase(user))

    def create_token(
        self,
        sub: str,
        *,
        name: str | None = None,
        rooms: Mapping[str, Sequence[str]] | None = None,
        ttl: int | None = None,
    ) -> IssuedToken:
        """Make a token with which a user of your site can join. See `API.create_token`."""
        return result(self._api.create_token(sub, name=name, rooms=rooms, ttl=ttl))

    def description(self) -> dict[str, Any]:
        """The server's description of its API (OpenAPI 3.1)."""
        return result(self._api.description())
