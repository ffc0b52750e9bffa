"""Asks the operator's hooks about a client's commands, and does what they answer.

`fastchat.webhooks.asking` has the hooks themselves.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastchat.auth import ANY_ROOM, GUEST_RIGHTS, Identity, unauthorized
from fastchat.brokers import Presence
from fastchat.chat.client import Client
from fastchat.errors import CloseCode, CloseReason, CommandError, ErrorCode
from fastchat.protocol import Edit, Join, React, Send, Upload
from fastchat.protocol.users import DIGEST_MARK, HOLDER_PREFIX, holder_of, subject_of
from fastchat.rooms import Member, Removal
from fastchat.webhooks.answers import Disconnect, JoinAnswer, PublishAnswer, Refuse

__all__ = ["AskJoin", "AskPublish", "Asked", "Gate"]

#: The commands about which a hook is asked before they run.
Asked = Send | Edit | React | Upload
AskPublish = Callable[[Mapping[str, Any]], Awaitable[PublishAnswer | Refuse | Disconnect]]
AskJoin = Callable[[Mapping[str, Any]], Awaitable[JoinAnswer | Refuse | Disconnect]]


class Gate:
    """The hooks of the chat, either of which can be None. They can change at any time.

    A hook raises only CommandError, which refuses the command.
    """

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self.before_publish: AskPublish | None = None
        self.before_join: AskJoin | None = None

    async def pass_command(
        self, client: Client, command: Asked, room: str, member: Member
    ) -> Asked:
        """Ask about a command; returns the command to run, which can have another text.

        Raises CommandError if it is refused. If the hook has the client disconnected, the client is
        gone when this returns or raises.
        """
        if self.before_publish is None:
            return command
        user = {"user": member.user, "username": member.name, "address": client.address}
        try:
            answer = await self.before_publish({**_about(command), "room": room, "user": user})
            if isinstance(answer, Refuse):
                raise CommandError(ErrorCode.FORBIDDEN, answer.message)
            if isinstance(answer, Disconnect):
                await self._disconnect(client, room, member, answer.seconds)
            elif answer.text is not None and isinstance(command, (Send, Edit)):
                return command._replace(text=answer.text)
        except CommandError as refusal:
            refusal.id = getattr(command, "id", None)
            raise
        return command

    async def pass_join(self, client: Client, command: Join) -> str | None:
        """Ask about a join; returns the name of the client in the room, as far as it is known.

        The client has the identity and the rights that the hook gives it when this returns. Raises
        CommandError if the client may not join.
        """
        if self.before_join is None:
            return command.username
        answer = await self.before_join(_join_question(client, command))
        if isinstance(answer, Refuse):
            raise CommandError(ErrorCode.FORBIDDEN, answer.message)
        if isinstance(answer, Disconnect):
            raise CommandError(
                ErrorCode.FORBIDDEN,
                CloseReason.REMOVED.text,
                retry_after_ms=answer.seconds * 1000,
                close_code=CloseCode.REMOVED,
            )
        if answer.subject is not None and answer.username is not None:
            _identify(client, answer.subject, answer.username)
        rights = answer.rights
        if rights is not None and client.identity is None:
            rights &= GUEST_RIGHTS  # a guest never moderates
        client.grant(command.room, rights)
        return answer.username or command.username

    async def _disconnect(self, client: Client, room: str, member: Member, seconds: int) -> None:
        """Remove a user from a room, and close the connection that has sent the command."""
        removal = Removal(room, member.user, None, seconds, "before-publish")
        try:
            with contextlib.suppress(CommandError):  # the user can have gone meanwhile
                await self._presence.remove(removal)
        finally:
            if not client.gone:
                client.endpoint.dismiss(CloseReason.REMOVED, seconds * 1000)


def _about(command: Asked) -> dict[str, Any]:
    match command:
        case Send(text, _, id, _):
            return {"action": "message", "text": text, "id": id}
        case Edit(offset, text, _, _):
            return {"action": "edit", "offset": offset, "text": text}
        case React(offset, emoji, remove, _, _):
            return {"action": "react", "offset": offset, "emoji": emoji, "remove": remove}
        case Upload(name, size, _, _):
            return {"action": "file", "name": name, "size": size}


def _join_question(client: Client, command: Join) -> dict[str, Any]:
    username = command.username or client.username
    if client.identity is not None:
        username = client.identity.name
    return {
        "action": "join",
        "room": command.room,
        "user": {"user": _user_of(client), "username": username, "address": client.address},
        **client.handshake,
    }


def _user_of(client: Client) -> str | None:
    """The public id of a client, as far as it is known before the rooms have made it."""
    if client.identity is None:
        return next((member.user for member in client.rooms.values()), None)
    subject = subject_of(client.identity.credential) or ""
    if "@" in subject or subject.startswith(DIGEST_MARK):
        return next((member.user for member in client.rooms.values()), None)
    return HOLDER_PREFIX + subject


def _identify(client: Client, subject: str, name: str) -> None:
    """Make a client the user that a hook says it is. Raises CommandError if it is another one."""
    credential = holder_of(subject)
    if client.identity is None:
        if not all(map(client.is_spectator_in, client.rooms)):
            raise CommandError(
                ErrorCode.FORBIDDEN,
                "You are a guest on this connection. Open a new connection to join as a user.",
            )
    elif client.identity.credential != credential:
        raise unauthorized("You are another user now. Open a new connection.")
    elif client.identity.expires_s < math.inf:
        return  # the token has the name and the rights
    client.identify(Identity(credential, name, math.inf, {ANY_ROOM: GUEST_RIGHTS}))
