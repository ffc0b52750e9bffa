"""Moderation: a moderator removes a user from a room."""

from __future__ import annotations

from fastchat import protocol
from fastchat.auth import forbidden
from fastchat.brokers import Presence
from fastchat.chat.client import ChatHub, Client, reply
from fastchat.errors import CloseReason
from fastchat.protocol import Remove
from fastchat.rooms import Removal

__all__ = ["Moderation"]


class Moderation:
    """Removes users, and knows which clients of this process have to go with a removed user.

    A guest who is removed is expelled like a user with a token, but can come back with another
    session.
    """

    def __init__(self, presence: Presence, hub: ChatHub) -> None:
        self._presence = presence
        self._hub = hub
        #: The clients that have joined, by room and user. Almost all users have one client in a
        #: room, and a tuple of it takes a fourth of what a set would.
        self._clients: dict[tuple[str, str], tuple[Client, ...]] = {}

    def track(self, client: Client, room: str) -> None:
        """Note that a client has joined a room."""
        who = room, client.rooms[room].user
        self._clients[who] = (*self._clients.get(who, ()), client)

    def untrack(self, client: Client, room: str, user: str) -> None:
        """Note that a client is not in a room any more. Safe to call again."""
        left = tuple(each for each in self._clients.get((room, user), ()) if each is not client)
        if left:
            self._clients[room, user] = left
        else:
            self._clients.pop((room, user), None)

    async def remove_user(self, client: Client, command: Remove) -> None:
        """Run a moderator's command: have all processes expel the user."""
        room = client.room_of(command.room)
        moderator = client.rooms[room].name
        if moderator is None or not client.moderates(room):
            raise forbidden()
        removal = Removal(room, command.user, command.username, command.seconds, moderator)
        name, user = await self._presence.remove(removal)
        payload = protocol.removed(room, user, name, command.seconds, ref=command.ref)
        reply(self._hub, client, payload)

    def expel(self, room: str, user: str, seconds: int) -> None:
        """Dismiss the clients of a user who was removed from a room for so many seconds."""
        for client in self._clients.get((room, user), ()):
            client.endpoint.dismiss(CloseReason.REMOVED, seconds * 1000)
