"""A room in a terminal: `fastchat tail`, which prints what is said and sends what is typed.

A client of docs/protocol.md, and of nothing else: it knows its position in the room's
stream, comes back by itself with it, and is handed what it missed. So nothing is
printed twice, and what could not be recovered is said to be missing.

A typed line is sent with an `id`, and again after every reconnect, until it has come
back as a publication (or an `ack` of one). The next line is read only then: so lines
keep their order whatever happens, a server that limits rates is obeyed, and a long
pipe is not held in memory. It costs one round trip a line.

`/share FILE` sends a file, and then the line that links to it: only where somebody types it
himself, for what comes through a pipe may be anybody's.

A token, where the server asks for one, is shown in every `join`. When it has expired its
file is read again, once: with another one in it the client goes on where it was.

What the room shows goes to standard output, what is to be said of the connection to
standard error. Nobody else's control characters reach either.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

import orjson
import uvloop
from picows import ws_connect

from fastchat.cli.terminal import JsonScreen, Screen, has_color, has_lines, lines_of
from fastchat.client.link import Interrupted, Link, Refused, translated
from fastchat.client.text import safe
from fastchat.errors import CloseCode, CommandError, ErrorCode, SettingError
from fastchat.protocol import MAX_HISTORY, Kind, Position, parsing

__all__ = ["Options", "Refused", "check_token", "read_token", "run", "websocket_address"]

#: Waiting before the first attempt to come back, and the longest there is.
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
CONNECT_TIMEOUT_S = 15.0
#: A reply to `join`; then it is another server that answers, or none.
JOIN_TIMEOUT_S = 15.0
#: The server pings every 25 s; silence beyond is a dead connection.
PING_AFTER_S, PONG_TIMEOUT_S = 30.0, 10.0
#: No server takes a longer one.
MAX_TOKEN_BYTES = 8192
#: A refused line is sent again after this, unless the server names another time.
RETRY_S = 1.0
#: What a line begins with that names a file.
SHARE = "/share "

_SILENT = logging.Logger("fastchat.tail", logging.CRITICAL + 1)  # what matters is raised


class Options(NamedTuple):
    """What `fastchat tail` was told; `username` None is a made-up one.

    `token` is what is shown to the server, `token_file` where a newer one may be, both if any.
    """

    address: str
    room: str
    username: str | None
    history: int
    json: bool
    token: str | None = None
    token_file: Path | None = None


def run(options: Options) -> int:
    """Follow a room until Ctrl+C, or until standard input has ended and all is confirmed.

    Returns the exit status: 1 when a line could not be sent. Raises Refused with a
    sentence when there is no point in trying again, BrokenPipeError when nobody
    reads standard output any more. A reader that merely stops stops the client, which
    recovers when it goes on.
    """
    address = websocket_address(options.address)
    screen = JsonScreen(sys.stdout) if options.json else Screen(sys.stdout, color=has_color())
    client = _Client(options._replace(address=address), screen)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_follow(client))


async def _follow(client: _Client) -> int:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    working = {loop.create_task(client.stay()), loop.create_task(stopped.wait())}
    if has_lines(sys.stdin):
        lines = lines_of(sys.stdin.fileno())
        working.add(loop.create_task(client.say_all(lines, may_share=sys.stdin.isatty())))
    try:
        done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await client.leave()
    return client.status()


def websocket_address(address: str) -> str:
    """The WebSocket of a server: `http://host:8080` is `ws://host:8080/ws`.

    Raises Refused when it is no address of one.
    """
    try:
        parts = urlsplit(address)
        known = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}[parts.scheme]
        _ = parts.port  # raises ValueError
    except (KeyError, ValueError):
        parts, known = urlsplit(""), ""
    if not parts.hostname or not address.isprintable():
        raise Refused(f"{address!r} is not an address like ws://127.0.0.1:8080.")
    if parts.query or parts.fragment or parts.username is not None:
        raise Refused("An address ends with its path; who and where is said by --username, --room.")
    path = parts.path if parts.path.strip("/") else "/ws"
    return f"{known}://{parts.netloc}{path}"


def read_token(file: Path) -> str:
    """The token in a file; raises SettingError when there is none."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise SettingError(f"--token-file {file} cannot be read: {error.strerror}.") from None
    return check_token(data.decode("ascii", "replace"), f"--token-file {file}")


def check_token(text: str, where: str) -> str:
    """A token without the white space around it; raises SettingError when it cannot be one."""
    token = text.strip()
    if not token.isascii() or len(token.split()) != 1 or len(token) > MAX_TOKEN_BYTES:
        raise SettingError(f"{where} has no token in it, which is one word of ASCII.")
    return token


# The client


class _Line:
    """A typed line, until it is confirmed or refused.

    One that names a file has its `content`, and a `link` when the server has all of it.
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


class _Client:
    """One user in one room, over as many connections as it takes."""

    def __init__(self, options: Options, screen: Screen) -> None:
        self._options = options
        self._screen = screen
        self._username = options.username or _made_up_name()
        self._token = options.token
        self._session: str | None = None
        self._position: Position | None = None
        self._link: Link | None = None
        self._joined = asyncio.Event()  # now
        self._arrived = asyncio.Event()  # ever
        self._failures = 0  # in a row
        self._reconnect_after_s: float | None = None
        self._line: _Line | None = None
        self._refused_lines = 0
        self._max_file_bytes = 0  # none is taken

    async def stay(self) -> None:
        """Be in the room, and come back to it; ends only by raising."""
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

    async def say_all(self, lines: AsyncIterator[bytes], *, may_share: bool) -> None:
        """Send each line, one after the other, once the room has been joined."""
        await self._arrived.wait()
        async for line in lines:
            text = line.decode("utf-8", "replace").rstrip()
            if may_share and text.startswith(SHARE):
                text = await self._share(Path(text.removeprefix(SHARE).strip()))
            if text:
                await self._say(text)

    async def leave(self) -> None:
        """Go, so that the others hear of it at once; waits a moment for the server."""
        if self._link is not None:
            if self._joined.is_set():
                self._send({"type": "leave", "room": self._options.room})
            await self._link.close()

    def status(self) -> int:
        """The exit status: whether all that was to be said has been."""
        if self._line is not None:
            self._notice("the last line was not confirmed")
        return 1 if self._line is not None or self._refused_lines else 0

    # A connection

    async def _connect_once(self) -> str:
        """One connection, from its beginning to its end; returns why it ended."""
        link = Link(self._on_connected, self._on_payload)
        with translated(self._options.address, first=not self._arrived.is_set()):
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                transport, _ = await ws_connect(
                    lambda: link,
                    self._options.address,
                    logger_name=_SILENT,
                    enable_auto_ping=True,
                    auto_ping_idle_timeout=PING_AFTER_S,
                    auto_ping_reply_timeout=PONG_TIMEOUT_S,
                    use_aiofastnet=False,  # the loop's own transports, as the server's
                )
            patience = asyncio.get_running_loop().call_later(JOIN_TIMEOUT_S, self._give_up, link)
            try:
                await transport.wait_disconnected()  # raises what our callbacks did
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
        """Read the token that has expired again; raises Refused if it is still the same."""
        old, file = self._token, self._options.token_file
        try:
            self._token = old if file is None else read_token(file)
        except SettingError as error:
            raise Refused(f"The token has expired. {error}") from None
        if self._token == old:
            where = "" if file is None else f", and {file} has no other"
            raise Refused(f"The token has expired{where}.")

    def _delay(self) -> float:
        """Seconds before the next attempt; spread, so that not all come at once."""
        told, self._reconnect_after_s = self._reconnect_after_s, None
        if told is not None:
            return told
        longest = min(BACKOFF_S * (1 << min(self._failures, 10)), MAX_BACKOFF_S)
        self._failures += 1
        return longest * random.uniform(0.5, 1)  # noqa: S311 spreads load

    def _on_connected(self, link: Link) -> None:
        self._link = link
        self._join()

    def _join(self) -> None:
        command: dict[str, Any] = {
            "type": "join",
            "room": self._options.room,
            "username": self._username,
            "history": self._options.history,
            "ref": "join",
        }
        if self._token is not None:
            command["token"] = self._token
        if self._session is not None:
            command["session"] = self._session
        if self._position is not None:
            # What cannot be recovered is to be as little as possible.
            command |= {"since": self._position._asdict(), "history": MAX_HISTORY}
        self._send(command)

    def _send(self, command: dict[str, Any]) -> None:
        if self._link is not None:
            self._link.send(orjson.dumps(command))

    def _notice(self, text: str) -> None:
        print(f"fastchat: {text}", file=sys.stderr, flush=True)

    # What the server says

    def _on_payload(self, payload: bytes) -> None:
        try:
            event = orjson.loads(payload)
            handler = self._HANDLERS.get(event["type"])
            if handler is not None:
                handler(self, event)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Refused("The server does not speak fastchat's protocol.") from None
        self._screen.flush()

    def _on_joined(self, event: dict[str, Any]) -> None:
        before, messages = self._position, event["messages"]
        self._position = Position(str(event["epoch"]), int(event["offset"]))
        self._session, self._username = event["session"], event["username"]
        if before is not None and not event["recovered"]:
            self._notice("some messages may be missing here")
            if before.epoch == self._position.epoch:
                messages = [each for each in messages if each["offset"] > before.offset]
        for each in messages:
            self._show(each)
        self._max_file_bytes = event["files"]["max_bytes"] if "files" in event else 0
        self._failures = 0
        self._joined.set()
        self._arrived.set()
        self._transmit()

    def _on_publication(self, event: dict[str, Any]) -> None:
        if self._position is None or event["room"] != self._options.room:
            return
        missing = event["offset"] - self._position.offset - 1
        if missing < 0:
            return  # seen
        if missing:
            raise Interrupted("messages are missing")
        self._position = self._position._replace(offset=event["offset"])
        self._show(event)

    def _show(self, publication: dict[str, Any]) -> None:
        self._screen.publication(publication)
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
        self._screen.presence(event)

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
            given = self._options.username is not None or self._token is not None
            if given and not self._arrived.is_set():
                raise Refused(message)
            if not given:
                self._username, self._session = _made_up_name(), None
                self._join()
                return
        if code == ErrorCode.UNAUTHORIZED and self._token is None:
            raise Refused("The server asks for a token: --token-file FILE, or FASTCHAT_TOKEN.")
        if not temporary or code == ErrorCode.FORBIDDEN:  # who was removed may be so for days
            raise Refused(message)
        if code == ErrorCode.UNAUTHORIZED:
            self._renew_token()
        raise Interrupted(message.rstrip("."))

    _HANDLERS: ClassVar[dict[str, Callable[[_Client, dict[str, Any]], None]]] = {
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

    # What is typed

    async def _say(self, text: str) -> None:
        """Send a line, again and again if need be; returns when that is settled."""
        id = secrets.token_urlsafe(12)
        payload = orjson.dumps(
            {"type": "message", "room": self._options.room, "text": text, "id": id}
        )
        await self._settle(_Line(id, payload))

    async def _share(self, file: Path) -> str:
        """Send a file, anew after every reconnect; returns its link, "" if it is refused."""
        try:
            content = await asyncio.to_thread(_content_of, file, self._max_file_bytes)
        except (OSError, ValueError, RuntimeError) as error:
            self._refuse_line(f"{safe(str(file))}: {getattr(error, 'strerror', None) or error}")
            return ""
        id = secrets.token_urlsafe(12)
        announcement = {"type": "upload", "name": file.name, "size": len(content), "ref": id}
        payload = orjson.dumps({**announcement, "room": self._options.room})
        line = _Line(id, payload, content)
        await self._settle(line)
        return line.link or ""

    async def _settle(self, line: _Line) -> None:
        try:
            parsing.parse(line.payload)  # what the server would refuse does not go there
        except CommandError as refusal:
            self._refuse_line(refusal.message)
            return
        self._line = line
        self._transmit()
        await line.settled
        self._line = None

    def _transmit(self) -> None:
        """Send the line that is not confirmed, if there is one; else when we are back."""
        if self._line is not None and not self._line.settled.done() and self._joined.is_set():
            assert self._link is not None
            self._link.send(self._line.payload)

    def _refuse_line(self, why: str) -> None:
        self._refused_lines += 1
        self._notice(f"a line was not sent: {why}")


def _content_of(file: Path, max_bytes: int) -> bytes:
    """Raises OSError, ValueError or RuntimeError with the reason why it cannot be shared."""
    file = file.expanduser()
    if not max_bytes:
        raise ValueError("the server takes no files")
    if file.exists() and not file.is_file():
        raise ValueError("this is no file")
    if file.stat().st_size > max_bytes:
        raise ValueError(f"the server takes files of at most {max_bytes:,} bytes")
    return file.read_bytes()


def _made_up_name() -> str:
    return f"tail-{secrets.token_hex(2)}"


def _may_come_back(code: int) -> bool:
    try:
        return CloseCode(code).reconnect
    except ValueError:  # a newer server's
        return not 4500 <= code <= 4999
