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

    Only clients with a token are tracked: without one, a removed user could open another session
    and come back at once.
    """

    def __init__(self, presence: Presence, hub: ChatHub) -> None:
        self._presence = presence
        self._hub = hub
        #: The clients that have joined with a token, by room and user.
        self._clients: dict[tuple[str, str], set[Client]] = {}

    def track(self, client: Client, room: str) -> None:
        """Note that a client has joined a room."""
        if client.identity is not None:
            self._clients.setdefault((room, client.rooms[room].user), set()).add(client)

    def untrack(self, client: Client, room: str, user: str) -> None:
        """Note that a client is not in a room any more. Safe to call again."""
        clients = self._clients.get((room, user))
        if clients is not None:
            clients.discard(client)
            if not clients:
                del self._clients[room, user]

    async def remove_user(self, client: Client, command: Remove) -> None:
        """Run a moderator's command: have all processes expel the user."""
        room = client.room_of(command.room)
        if not client.moderates(room):
            raise forbidden()
        removal = Removal(
            room, command.user, command.username, command.seconds, client.rooms[room].name
        )
        name, user = await self._presence.remove(removal)
        payload = protocol.removed(room, user, name, command.seconds, ref=command.ref)
        reply(self._hub, client, payload)

    def expel(self, room: str, user: str, seconds: int) -> None:
        """Dismiss the clients of a user who was removed from a room for so many seconds."""
        for client in tuple(self._clients.get((room, user), ())):
            client.endpoint.dismiss(CloseReason.REMOVED, seconds * 1000)
