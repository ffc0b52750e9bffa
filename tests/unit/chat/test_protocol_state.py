"""Sequences of commands of several clients, compared with a small model of the protocol.

The model (`Model`) has the users of each room, its stream, and its messages with their changes
applied. For every command it says which events each connection gets, and in which order: no event
less and none more. Therefore an error reply to a command that nevertheless changed something is
noticed at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastchat.errors import CommandError
from fastchat.rooms.members import GRACE_TICKS
from support.chat import TIMESTAMP, Talk, user_of

CONNECTIONS = ("one", "two", "three", "four")
ROOMS = ("a", "b")
NAMES = ("Ann", "Bob", "ANN")  # the last one looks like the first
SESSIONS = ("a-session-of-many-bytes", "another-session-of-bytes")
EMOJI = ("👋", "🎉")
TEXTS = ("Hello", "Hello, world", "…")

connections = st.sampled_from(CONNECTIONS)
rooms = st.sampled_from(ROOMS)
room_or_none = st.sampled_from((None, None, *ROOMS))
offsets = st.sampled_from((1, 1, 1, 2, 2, 3, 4, 5, 0))  # low offsets exist most often


class User:
    """A user of a room: the first spelling of their name, and their connections."""

    def __init__(self, name: str, session: str) -> None:
        self.name = name
        self.session = session
        self.connections: set[str] = set()
        self.left_in: int | None = None  # the tick in which the last connection was lost

    def shown(self) -> dict[str, str]:
        """The user as events show them."""
        return {"user": user_of(self.session), "username": self.name}


class Room:
    """A room: its users in the order of joining, its stream, and its messages as they are now."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.members: list[str] = []  # connections, also those of spectators
        self.spectators: dict[str, str] = {}  # the sessions of those, by connection
        self.stream: list[dict[str, Any]] = []
        self.authors: dict[int, str] = {}
        self.ids: dict[tuple[str, str], int] = {}
        self.epoch: str | None = None  # None until a reply has shown it

    def user_of(self, connection: str) -> User:
        (user,) = [each for each in self.users.values() if connection in each.connections]
        return user

    def message(self, offset: int) -> dict[str, Any] | None:
        """The message at an offset as it is now; None if there is none or it is deleted."""
        if not 1 <= offset <= len(self.stream):
            return None
        found = self.stream[offset - 1]
        return found if found["type"] == "message" and not found.get("deleted") else None

    def messages(self) -> list[dict[str, Any]]:
        return [each for each in self.stream if each["type"] == "message"]


class Model:
    """The expected state, and the events that each connection has yet to get."""

    def __init__(self) -> None:
        self.rooms = {name: Room() for name in ROOMS}
        self.due: dict[str, list[dict[str, Any]]] = {name: [] for name in CONNECTIONS}
        self.names: dict[str, str] = {}
        self.sessions: dict[str, str] = {}
        self.ticks = 0
        self.changed: dict[str, None] = {}  # rooms whose number of spectators has changed
        self.absent: list[tuple[str, User]] = []  # users without a connection, in the order of loss

    def rooms_of(self, connection: str) -> list[str]:
        return [name for name, room in self.rooms.items() if connection in room.members]

    def target_room(self, connection: str, room: str | None) -> str:
        """The room that a command is for, or the name of the error code that refuses it."""
        joined = self.rooms_of(connection)
        if room is not None:
            return room if room in joined else "not_joined"
        if len(joined) == 1:
            return joined[0]
        return "bad_command" if joined else "not_joined"

    def send(self, name: str, event: dict[str, Any], excluded: str | None = None) -> None:
        for connection in self.rooms[name].members:
            if connection != excluded:
                self.due[connection].append(dict(event))

    def announce(self, name: str, user: User, kind: str) -> None:
        verb = "joined" if kind == "join" else "left"
        event = {"type": kind, "room": name, **user.shown(), "timestamp": TIMESTAMP}
        event |= {"text": f"{user.name} {verb} the chat", "online": len(self.rooms[name].users)}
        self.send(name, event)

    def end_absence(self, user: User) -> None:
        user.left_in = None
        self.absent = [(name, each) for name, each in self.absent if each is not user]

    def remove(self, name: str, user: User) -> None:
        room = self.rooms[name]
        self.end_absence(user)  # the user is not absent any more, but gone
        del room.users[user.name.casefold()]
        self.announce(name, user, "leave")
        self.forget_if_silent(name)

    def forget_if_silent(self, name: str) -> None:
        """Forget a room that is empty and has no messages."""
        room = self.rooms[name]
        if not (room.users or room.spectators or room.stream):
            self.rooms[name] = Room()

    def lose_spectator(self, name: str, connection: str) -> None:
        del self.rooms[name].spectators[connection]
        self.changed[name] = None

    def lose(self, name: str, connection: str) -> User | None:
        """Remove a connection; returns its user if it was the user's last one."""
        room = self.rooms[name]
        if connection in room.spectators:
            room.members.remove(connection)
            self.lose_spectator(name, connection)
            self.forget_if_silent(name)
            return None
        user = room.user_of(connection)
        user.connections.discard(connection)
        room.members.remove(connection)
        return None if user.connections else user

    def publish(self, name: str, publication: dict[str, Any], author: str) -> None:
        room = self.rooms[name]
        publication |= {"room": name, "offset": len(room.stream) + 1, "timestamp": TIMESTAMP}
        room.stream.append(dict(publication))
        room.authors[publication["offset"]] = author
        self.send(name, publication)


def fold(message: dict[str, Any], change: dict[str, Any], room: Room) -> None:
    """Apply an edit, a deletion or a reaction to a message of a room."""
    if change["type"] == "edit":
        message |= {"text": change["text"], "edited": TIMESTAMP}
        return
    if change["type"] == "delete":
        message |= {"text": "", "deleted": True}
        message.pop("edited", None)
        message.pop("reactions", None)
        for each in room.stream:
            if each["type"] == "edit" and each["target"] == message["offset"]:
                each["text"] = ""
        return
    reactions = message.setdefault("reactions", {})
    others = [each for each in reactions.pop(change["emoji"], []) if each["user"] != change["user"]]
    if not change.get("remove"):
        others.append({"user": change["user"], "username": change["username"]})
    if others:
        reactions[change["emoji"]] = others
    if not reactions:
        del message["reactions"]


class Conversation(RuleBasedStateMachine):
    """The real chat on a broker with a history in memory, and the model."""

    @initialize(inhabited=st.booleans())
    def begin(self, inhabited: bool) -> None:
        self.loop = asyncio.new_event_loop()
        self.model = Model()
        self.loop.run_until_complete(self._build())
        if inhabited:  # so that not only joins succeed
            for connection, name, session in zip(CONNECTIONS, "AAB", (0, 0, 1), strict=False):
                self.join(connection, "a", name, SESSIONS[session], 0, None, True, None)
                self.connections_get_the_expected_events()

    async def _build(self) -> None:
        self.talk = Talk()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()

    def run(self, connection: str, **fields: Any) -> str | None:
        """Run a command; returns the code of an immediate refusal, or None."""
        fields = {key: value for key, value in fields.items() if value is not None}
        with suppress_refusal() as refused:
            self.loop.run_until_complete(self.talk.do(connection, **fields))
        return refused.code

    def expect(self, connection: str, event: dict[str, Any]) -> None:
        self.model.due[connection].append(event)

    # Joining and leaving

    @rule(
        connection=connections, room=rooms, name=st.sampled_from((None, *NAMES)),
        session=st.sampled_from((None, *SESSIONS)), limit=st.integers(0, 5),
        since=st.none() | offsets, same_epoch=st.booleans(),
        timestamp=st.sampled_from((None, TIMESTAMP, "2025-01-18T10:30:00.124Z")),
    )  # fmt: skip
    def join(
        self, connection: str, room: str, name: str | None, session: str | None, limit: int,
        since: int | None, same_epoch: bool, timestamp: str | None,
    ) -> None:  # fmt: skip
        model, here = self.model, self.model.rooms[room]
        epoch = (here.epoch if same_epoch else None) or "another"
        position = since if since is None else {
            "epoch": epoch, "offset": since, "timestamp": timestamp
        }  # fmt: skip
        refused = self.run(
            connection, type="join", room=room, username=name, session=session, history=limit,
            since=position, ref="r",
        )  # fmt: skip
        name = name or model.names.get(connection)
        if connection in here.members and (name is None or connection not in here.spectators):
            assert refused == "already_joined"
            return
        session = session or model.sessions.get(connection)
        if name is None:
            assert refused is None
            reply = self.talk.inboxes.got[connection][-1]
            here.spectators[connection] = model.sessions[connection] = session or reply["session"]
            here.members.append(connection)
            model.changed[room] = None
            self._check_reply(reply, connection, here, epoch, since, timestamp, limit)
            return
        user = here.users.get(name.casefold())
        if user is not None and user.session != session:
            assert refused == "username_taken"
            return
        assert refused is None
        reply = self.talk.inboxes.got[connection][-1]
        self._count_in(connection, room, name, session or reply["session"])
        self._check_reply(reply, connection, here, epoch, since, timestamp, limit)

    def _check_reply(
        self, reply: dict[str, Any], connection: str, room: Room, epoch: str, since: int | None,
        timestamp: str | None, limit: int,
    ) -> None:  # fmt: skip
        recovered = epoch == room.epoch and since is not None and since <= len(room.stream)
        recovered = recovered and (not since or timestamp in (None, TIMESTAMP))
        self._check_joined(reply, connection, room, since if recovered else limit)
        assert reply["recovered"] is recovered

    def _count_in(self, connection: str, name: str, username: str, session: str) -> None:
        model, room = self.model, self.model.rooms[name]
        user = room.users.get(username.casefold())
        if user is None:
            user = room.users[username.casefold()] = User(username, session)
            model.announce(name, user, "join")
        user.connections.add(connection)
        model.end_absence(user)
        if connection in room.spectators:
            model.lose_spectator(name, connection)
        else:
            room.members.append(connection)
        model.names[connection], model.sessions[connection] = user.name, session

    def _check_joined(
        self, reply: dict[str, Any], connection: str, room: Room, number: int
    ) -> None:
        """Expect the reply; only its session and its epoch are the server's choice."""
        room.epoch = room.epoch or reply["epoch"]
        session = self.model.sessions[connection]
        shown: dict[str, str | None] = {"user": user_of(session), "username": None}
        rights = ["read"]
        if connection not in room.spectators:
            shown, rights = {**room.user_of(connection).shown()}, ["read", "write"]
        newest = room.messages()[-number:] if number else []
        self.expect(connection, {
            "type": "joined", "room": reply["room"], "ref": "r", "recovered": reply["recovered"],
            **shown, "session": session, "spectators": len(room.spectators), "rights": rights,
            "epoch": room.epoch, "offset": len(room.stream), "online": len(room.users),
            "timestamp": TIMESTAMP if room.stream else None,
            "users": [user.shown() for user in room.users.values()],
            "messages": room.stream[number:] if reply["recovered"] else newest,
        })  # fmt: skip

    @rule(connection=connections, room=room_or_none)
    def leave(self, connection: str, room: str | None) -> None:
        refused = self.run(connection, type="leave", room=room)
        if (target_room := self._target(connection, room, refused)) is None:
            return
        user = self.model.lose(target_room, connection)
        if user is not None:
            self.model.remove(target_room, user)
        self.expect(connection, {"type": "left", "room": target_room})

    @rule(connection=connections)
    def depart(self, connection: str) -> None:
        """Disconnect a client; the next client under this connection's name is another one."""
        model = self.model
        joined = list(self.talk.client(connection).rooms)
        assert sorted(joined) == sorted(model.rooms_of(connection))
        self.talk.depart(connection)
        for name in reversed(joined):  # the last room first, which is the order of the events
            user = model.lose(name, connection)
            if user is not None:
                user.left_in = model.ticks
                model.absent.append((name, user))
        for of_connections in (model.names, model.sessions, self.talk.clients):
            of_connections.pop(connection, None)

    @rule(times=st.sampled_from((1, GRACE_TICKS - 1, GRACE_TICKS)))
    def tick(self, times: int) -> None:
        for _ in range(times):
            self.talk.broker.tick()
            self.model.ticks += 1
            for name, user in list(self.model.absent):
                assert user.left_in is not None
                if user.left_in + GRACE_TICKS <= self.model.ticks:
                    self.model.remove(name, user)
            changed, self.model.changed = self.model.changed, {}
            for name in changed:
                room = self.model.rooms[name]
                numbers = {"online": len(room.users), "spectators": len(room.spectators)}
                self.model.send(name, {"type": "presence", "room": name, **numbers})

    # Publishing

    @rule(
        connection=connections, room=room_or_none, text=st.sampled_from(TEXTS),
        id=st.sampled_from((None, "id-1", "id-2")),
    )  # fmt: skip
    def message(self, connection: str, room: str | None, text: str, id: str | None) -> None:
        refused = self.run(connection, text=text, room=room, id=id)
        if (target_room := self._writable(connection, room, refused)) is None:
            return
        here = self.model.rooms[target_room]
        user = here.user_of(connection)
        if id is not None and (user.session, id) in here.ids:
            offset = here.ids[user.session, id]
            self.expect(
                connection, {"type": "ack", "id": id, "room": target_room, "offset": offset}
            )
            return
        publication = {"type": "message", **user.shown(), "text": text}
        if id is not None:
            publication["id"] = id
            here.ids[user.session, id] = len(here.stream) + 1
        self.model.publish(target_room, publication, user.session)

    @rule(
        connection=connections, room=room_or_none, offset=offsets,
        kind=st.sampled_from(("edit", "delete", "react")), text=st.sampled_from(TEXTS),
        emoji=st.sampled_from(EMOJI), remove=st.booleans(),
    )  # fmt: skip
    def change(
        self, connection: str, room: str | None, offset: int, kind: str, text: str, emoji: str,
        remove: bool,
    ) -> None:  # fmt: skip
        more: dict[str, Any] = {"text": text} if kind == "edit" else {}
        if kind == "react":
            more = {"emoji": emoji, "remove": remove}
        refused = self.run(connection, type=kind, room=room, offset=offset, ref="r", **more)
        if (target_room := self._writable(connection, room, refused)) is None:
            return
        here = self.model.rooms[target_room]
        user, message = here.user_of(connection), here.message(offset)
        if message is None:
            self._expect_error(connection, "not_found")
        elif kind != "react" and here.authors[offset] != user.session:
            self._expect_error(connection, "forbidden")
        else:
            if not more.get("remove", True):
                del more["remove"]
            publication = {"type": kind, **user.shown(), "target": offset, **more}
            fold(message, publication, here)
            self.model.publish(target_room, publication, user.session)

    def _expect_error(self, connection: str, code: str) -> None:
        sentence = self.talk.inboxes.got[connection][-1].get("message")
        event = {"type": "error", "code": code, "message": sentence, "temporary": False, "ref": "r"}
        self.expect(connection, event)

    # Reading

    @rule(connection=connections, room=room_or_none)
    def typing(self, connection: str, room: str | None) -> None:
        refused = self.run(connection, type="typing", room=room)
        if (target_room := self._writable(connection, room, refused)) is not None:
            user = self.model.rooms[target_room].user_of(connection)
            event = {"type": "typing", "room": target_room, **user.shown()}
            self.model.send(target_room, event, excluded=connection)

    @rule(
        connection=connections, room=room_or_none, limit=st.integers(1, 4),
        side=st.sampled_from((None, "before", "after")), offset=offsets,
    )  # fmt: skip
    def history(
        self, connection: str, room: str | None, limit: int, side: str | None, offset: int
    ) -> None:
        where = {} if side is None else {side: offset}
        refused = self.run(connection, type="history", room=room, limit=limit, **where)
        if (target_room := self._target(connection, room, refused)) is None:
            return
        found = self.model.rooms[target_room].messages()
        if side == "after":
            found = [each for each in found if each["offset"] > offset]
            page = found[:limit]
        else:
            found = [each for each in found if side is None or each["offset"] < offset]
            page = found[-limit:]
        event = {
            "type": "history",
            "room": target_room,
            "more": len(found) > limit,
            "messages": page,
        }
        self.expect(connection, event)

    def _writable(self, connection: str, room: str | None, refused: str | None) -> str | None:
        """The same for a command that a spectator cannot run."""
        target_room = self.model.target_room(connection, room)
        if target_room in ROOMS and connection in self.model.rooms[target_room].spectators:
            assert refused == "forbidden"
            return None
        return self._target(connection, room, refused)

    def _target(self, connection: str, room: str | None, refused: str | None) -> str | None:
        """The room of a command; None if the command had to be refused, and was."""
        target_room = self.model.target_room(connection, room)
        assert refused == (None if target_room in ROOMS else target_room)
        return target_room if target_room in ROOMS else None

    # Invariants

    @invariant()
    def connections_get_the_expected_events(self) -> None:
        for connection in CONNECTIONS if hasattr(self, "model") else ():
            assert self.talk.news(connection) == self.model.due[connection]
            self.model.due[connection] = []

    @invariant()
    def rooms_have_the_expected_members(self) -> None:
        for name in ROOMS if hasattr(self, "model") else ():
            members = self.talk.inboxes.members.get(name, [])
            assert sorted(members) == sorted(self.model.rooms[name].members)


class Refused:
    code: str | None = None


class suppress_refusal(suppress):  # noqa: N801  as contextlib's
    """Suppresses a CommandError and stores its code."""

    def __init__(self) -> None:
        super().__init__(CommandError)
        self.refused = Refused()

    def __enter__(self) -> Refused:
        return self.refused

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if isinstance(error, CommandError):
            self.refused.code = error.code
        return super().__exit__(kind, error, trace)


Conversation.TestCase.settings = settings(
    max_examples=400,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestConversation = Conversation.TestCase
