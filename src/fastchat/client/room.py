"""A user in one room: a client of docs/protocol.md that reconnects and recovers.

Theory
------
The client stores its position in the room's stream. After a lost connection it joins with the
position, and the server sends the publications that it has missed. Therefore it shows no message
twice. If the server cannot recover the position, the client says that messages may be missing.

The client sends a line with an `id`, and sends it again after each reconnect, until it receives the
publication with this `id` or an `ack`. Only then does it send the next line. Therefore lines keep
their order, and the client can obey the server's rates. The price is one round trip for each line.

The client sends its token with each `join`. When the token has expired, it asks for another one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import orjson
from picows import ws_connect

from fastchat.client.link import Interrupted, Link, Refused, translated
from fastchat.client.text import safe
from fastchat.errors import CloseCode, CommandError, ErrorCode
from fastchat.protocol import DEFAULT_HISTORY, MAX_HISTORY, Kind, Position, parsing

__all__ = ["RoomClient", "RoomView", "TokenNeeded"]

#: The delay before the first reconnect, and the longest delay. Each failure doubles the delay.
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
#: The longest wait for the connection and its handshake.
CONNECT_TIMEOUT_S = 15.0
#: The longest wait for the answer to `join`. Without this bound, the client would wait for ever if
#: the server hangs, or is not a chat server.
JOIN_TIMEOUT_S = 15.0
#: The server sends a ping every 25 s. If the client has received nothing for longer than that, it
#: sends a ping itself, and waits this long for the answer.
PING_AFTER_S, PONG_TIMEOUT_S = 30.0, 10.0
#: The delay before a refused line is sent again, if the refusal is temporary and names no time.
RETRY_S = 1.0

#: The logger of picows. It drops everything, because the client raises the errors that matter.
_SILENT = logging.Logger("fastchat.tail", logging.CRITICAL + 1)


class TokenNeeded(Refused):
    """The server requires a token, and the client has none."""


class RoomView(Protocol):
    """Shows the room. Events contain text of other people: see `fastchat.client.text.safe`."""

    def publication(self, event: dict[str, Any], /) -> None: ...

    def presence(self, event: dict[str, Any], /) -> None: ...

    def flush(self) -> None:
        """Write buffered output: all events of one message from the server have been shown."""
        ...


class _Line:
    """A line that was sent, until the server confirms or refuses it.

    If the line shares a file, `content` has the file's bytes. `link` is set when the server has
    received all of them.
    """

    __slots__ = ("content", "id", "link", "payload", "settled")

    def __init__(self, id: str, payload: bytes, content: bytes = b"") -> None:
        self.id = id
        self.payload = payload
        self.content = content
        self.link: str | None = None
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)


class RoomClient:
    """One user in one room, over one connection after the other.

    `address` is the URL of a WebSocket. If `username` is None, the client makes up a name.
    `history` is the number of past messages to show. When `token` has expired, the client calls
    `renew_token` with it, which returns another token or raises Refused. `notice` is called with
    sentences about the connection. Only one line can be sent at a time: call `say` and `share` one
    after the other.
    """

    def __init__(
        self,
        address: str,
        room: str,
        view: RoomView,
        *,
        notice: Callable[[str], None],
        username: str | None = None,
        history: int = DEFAULT_HISTORY,
        token: str | None = None,
        renew_token: Callable[[str], str] | None = None,
    ) -> None:
        self._address = address
        self._room = room
        self._view = view
        self._notice = notice
        self._has_given_name = username is not None
        self._username = username or _made_up_name()
        self._history = history
        self._token = token
        self._renew = renew_token
        self._session: str | None = None
        self._position: Position | None = None
        self._link: Link | None = None
        self._joined = asyncio.Event()  # on this connection
        self._arrived = asyncio.Event()  # on any connection
        self._failures = 0  # in a row
        self._reconnect_after_s: float | None = None
        self._line: _Line | None = None
        self._max_file_bytes = 0  # 0 if the server accepts no files
        #: The number of lines that the server or this client has refused.
        self.refused_lines = 0

    @property
    def has_unconfirmed(self) -> bool:
        """Whether a line was sent that the server has neither confirmed nor refused."""
        return self._line is not None

    async def stay(self) -> None:
        """Join the room, and join it again after each lost connection.

        It ends only by an exception: Refused, or OutputError or BrokenPipeError of the view.
        """
        while True:
            try:
                why = await self._connect_once()
            except Interrupted as interrupted:
                why = str(interrupted)
            self._joined.clear()
            self._link = None
            delay = self._delay()
            self._notice(f"{why}; trying again in {delay:.1f} s")
            await asyncio.sleep(delay)

    async def arrived(self) -> None:
        """Wait until the room has been joined once."""
        await self._arrived.wait()

    async def say(self, text: str) -> None:
        """Send a line, again after each reconnect. Return when it was confirmed or refused."""
        id = secrets.token_urlsafe(12)
        payload = orjson.dumps({"type": "message", "room": self._room, "text": text, "id": id})
        await self._settle(_Line(id, payload))

    async def share(self, file: Path) -> str:
        """Send a file, again after each reconnect. Return its link, or "" if it was refused."""
        try:
            content = await asyncio.to_thread(_content_of, file, self._max_file_bytes)
        except (OSError, ValueError, RuntimeError) as error:
            self._refuse_line(f"{safe(str(file))}: {getattr(error, 'strerror', None) or error}")
            return ""
        id = secrets.token_urlsafe(12)
        announcement = {"type": "upload", "name": file.name, "size": len(content), "ref": id}
        payload = orjson.dumps({**announcement, "room": self._room})
        line = _Line(id, payload, content)
        await self._settle(line)
        return line.link or ""

    async def leave(self) -> None:
        """Leave the room, so that the other members see it at once, and close the connection."""
        if self._link is not None:
            if self._joined.is_set():
                self._send({"type": "leave", "room": self._room})
            await self._link.close()

    # A connection

    async def _connect_once(self) -> str:
        """Connect, and wait until the connection is lost. Return the reason."""
        link = Link(self._on_connected, self._on_payload)
        with translated(self._address, first=not self._arrived.is_set()):
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                transport, _ = await ws_connect(
                    lambda: link,
                    self._address,
                    logger_name=_SILENT,
                    enable_auto_ping=True,
                    auto_ping_idle_timeout=PING_AFTER_S,
                    auto_ping_reply_timeout=PONG_TIMEOUT_S,
                    use_aiofastnet=False,  # the loop's own transports, as the server's
                )
            patience = asyncio.get_running_loop().call_later(JOIN_TIMEOUT_S, self._give_up, link)
            try:
                await transport.wait_disconnected()  # raises the exceptions of our callbacks
            finally:
                patience.cancel()
        return self._why_closed(link)

    def _give_up(self, link: Link) -> None:
        if link is self._link and not self._joined.is_set():
            link.abort()

    def _why_closed(self, link: Link) -> str:
        code, reason = link.close_code, safe(link.close_reason)
        if code is None:
            return "the connection was lost"
        if code == CloseCode.TOKEN_EXPIRED:
            self._renew_token()
        if not _may_come_back(code):
            raise Refused(f"The server closed the connection: {reason or 'no reason'} ({code}).")
        return f"the server closed the connection: {reason or 'no reason'} ({code})"

    def _renew_token(self) -> None:
        """Replace a token that has expired. Raises Refused if there is no other."""
        if self._renew is None or self._token is None:
            raise Refused("The token has expired.")
        self._token = self._renew(self._token)

    def _delay(self) -> float:
        """Seconds before the next attempt: the server's, or a backoff with jitter.

        Without the jitter, the clients of a restarted server would reconnect at the same moment.
        """
        requested_s, self._reconnect_after_s = self._reconnect_after_s, None
        if requested_s is not None:
            return requested_s
        longest = min(BACKOFF_S * (1 << min(self._failures, 10)), MAX_BACKOFF_S)
        self._failures += 1
        return longest * random.uniform(0.5, 1)  # noqa: S311 spreads load

    def _on_connected(self, link: Link) -> None:
        self._link = link
        self._join()

    def _join(self) -> None:
        command: dict[str, Any] = {
            "type": "join",
            "room": self._room,
            "username": self._username,
            "history": self._history,
            "ref": "join",
        }
        if self._token is not None:
            command["token"] = self._token
        if self._session is not None:
            command["session"] = self._session
        if self._position is not None:
            # If the server cannot recover the position, it sends the newest messages instead. The
            # more they are, the fewer are missing.
            command |= {"since": self._position._asdict(), "history": MAX_HISTORY}
        self._send(command)

    def _send(self, command: dict[str, Any]) -> None:
        if self._link is not None:
            self._link.send(orjson.dumps(command))

    # Events from the server

    def _on_payload(self, payload: bytes) -> None:
        try:
            event = orjson.loads(payload)
            handler = self._HANDLERS.get(event["type"])
            if handler is not None:
                handler(self, event)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Refused("The server does not speak fastchat's protocol.") from None
        self._view.flush()

    def _on_joined(self, event: dict[str, Any]) -> None:
        before, messages = self._position, event["messages"]
        self._position = Position(str(event["epoch"]), int(event["offset"]), event.get("timestamp"))
        self._session, self._username = event["session"], event["username"]
        if before is not None and not event["recovered"]:
            self._notice("some messages may be missing here")
            if before.epoch == self._position.epoch:
                messages = [each for each in messages if _is_after(before, each)]
        for each in messages:
            self._show(each)
        self._max_file_bytes = event["files"]["max_bytes"] if "files" in event else 0
        self._failures = 0
        self._joined.set()
        self._arrived.set()
        self._transmit()

    def _on_publication(self, event: dict[str, Any]) -> None:
        if self._position is None or event["room"] != self._room:
            return
        missing = event["offset"] - self._position.offset - 1
        if missing < 0:
            return  # the client has shown it before
        if missing:
            raise Interrupted("messages are missing")
        self._position = self._position._replace(
            offset=event["offset"], timestamp=event["timestamp"]
        )
        self._show(event)

    def _show(self, publication: dict[str, Any]) -> None:
        self._view.publication(publication)
        self._confirm(publication.get("id"))

    def _on_ack(self, event: dict[str, Any]) -> None:
        self._confirm(event["id"])

    def _confirm(self, id: Any) -> None:
        if self._line is not None and self._line.id == id:
            self._line.settle()

    def _on_upload(self, event: dict[str, Any]) -> None:
        if self._link is not None and self._line is not None and event["ref"] == self._line.id:
            content, size = self._line.content, int(event["chunk_bytes"])
            for start in range(0, len(content), size):
                self._link.send(content[start : start + size], binary=True)

    def _on_file(self, event: dict[str, Any]) -> None:
        if self._line is not None and event["ref"] == self._line.id:
            self._line.link = str(event["link"])
            self._line.settle()

    def _on_change(self, event: dict[str, Any]) -> None:
        self._view.presence(event)

    def _on_closing(self, event: dict[str, Any]) -> None:
        self._reconnect_after_s = min(event["reconnect_after_ms"] / 1000, MAX_BACKOFF_S)

    def _on_error(self, event: dict[str, Any]) -> None:
        message = safe(event["message"])
        again_s = event.get("retry_after_ms", RETRY_S * 1000) / 1000
        if event.get("ref") == "join":
            if "retry_after_ms" in event:
                self._reconnect_after_s = min(again_s, MAX_BACKOFF_S)
            self._on_join_refused(event["code"], message, event["temporary"])
        elif self._line is None or self._line.id not in (event.get("id"), event.get("ref")):
            self._notice(message)
        elif event["temporary"]:
            asyncio.get_running_loop().call_later(min(again_s, MAX_BACKOFF_S), self._transmit)
        else:
            self._refuse_line(message)
            self._line.settle()

    def _on_join_refused(self, code: str, message: str, temporary: bool) -> None:
        if code == ErrorCode.USERNAME_TAKEN:
            given = self._has_given_name or self._token is not None
            # A name that is kept for a user who is away becomes free at a known time.
            if given and not self._arrived.is_set() and self._reconnect_after_s is None:
                raise Refused(message)
            if not given:
                self._username, self._session = _made_up_name(), None
                self._join()
                return
        if code == ErrorCode.UNAUTHORIZED and self._token is None:
            raise TokenNeeded("The server requires a token.")
        # A removal by a moderator is temporary, but can last for days.
        if not temporary or code == ErrorCode.FORBIDDEN:
            raise Refused(message)
        if code == ErrorCode.UNAUTHORIZED:
            self._renew_token()
        raise Interrupted(message.rstrip("."))

    _HANDLERS: ClassVar[dict[str, Callable[[RoomClient, dict[str, Any]], None]]] = {
        "joined": _on_joined,
        **dict.fromkeys(Kind, _on_publication),
        "ack": _on_ack,
        "upload": _on_upload,
        "file": _on_file,
        "join": _on_change,
        "leave": _on_change,
        "error": _on_error,
        "closing": _on_closing,
    }

    # Lines to the server

    async def _settle(self, line: _Line) -> None:
        try:
            parsing.parse(line.payload)  # raises if the server would refuse the line
        except CommandError as refusal:
            self._refuse_line(refusal.message)
            return
        self._line = line
        self._transmit()
        await line.settled
        self._line = None

    def _transmit(self) -> None:
        """Send the unconfirmed line, if there is one and the room has been joined."""
        if self._line is not None and not self._line.settled.done() and self._joined.is_set():
            assert self._link is not None
            self._link.send(self._line.payload)

    def _refuse_line(self, why: str) -> None:
        self.refused_lines += 1
        self._notice(f"a line was not sent: {why}")


def _content_of(file: Path, max_bytes: int) -> bytes:
    """Return the content of a file.

    Raises OSError or ValueError if the file cannot be shared, and RuntimeError if the home
    directory in `~` is unknown.
    """
    file = file.expanduser()
    if not max_bytes:
        raise ValueError("the server accepts no files")
    if file.exists() and not file.is_file():
        raise ValueError("it is not a regular file")
    if file.stat().st_size > max_bytes:
        raise ValueError(f"the server accepts files of at most {max_bytes:,} bytes")
    return file.read_bytes()


def _is_after(position: Position, message: dict[str, Any]) -> bool:
    """Whether a message is not among those that the client had shown at this position.

    If an older copy of the history was put back, a new message can have an old offset.
    """
    known: bool = position.timestamp is None or message["timestamp"] <= position.timestamp
    return message["offset"] > position.offset or not known


def _made_up_name() -> str:
    return f"tail-{secrets.token_hex(2)}"


def _may_come_back(code: int) -> bool:
    try:
        return CloseCode(code).reconnect
    except ValueError:
        # The code is that of a newer server. From 4500 to 4999, clients must not reconnect
        # (docs/protocol.md).
        return not 4500 <= code <= 4999
