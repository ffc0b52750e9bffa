"""`fastchat tail`: shows the messages of a room in a terminal, and sends the lines that are typed.

Each line of standard input is one message. The next line is read only after the previous one was
confirmed, so the content of a long pipe is not stored in memory.

`/share FILE` sends a file, and then a message that links to it. It works only at a terminal,
because other people can have written the lines of a pipe.

Messages of the room are written to standard output, and sentences about the connection to standard
error. Control characters in the text of other people are escaped in both.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import uvloop

from fastchat.cli.terminal import JsonScreen, Screen, has_color, has_lines, lines_of
from fastchat.cli.text import safe
from fastchat.errors import CommandError, ErrorCode, FastchatError, SettingError
from fastchat.protocol import check_room, check_text
from fastchat.streams import complain, open_output
from fastchat_client import (
    Chat,
    ChatError,
    Delete,
    Disconnected,
    Edit,
    Gap,
    Join,
    Leave,
    Message,
    Position,
    React,
    Room,
    Status,
)
from fastchat_client import Refused as ChatRefused
from fastchat_client.address import websocket_url

__all__ = ["Address", "Options", "Refused", "check_token", "parse_address", "read_token", "run"]

#: The server's `MAX_TOKEN_CHARS`: a server refuses a longer token.
MAX_TOKEN_BYTES = 8192
#: The command that shares a file; the file's name follows.
SHARE = "/share "


#: The part of a page's address that names a room, and perhaps a message in it.
_FRAGMENT = re.compile(r"(?P<room>.*?)(?:/\d{1,15})?", re.DOTALL)


class Address(NamedTuple):
    """The URL of a server's WebSocket. `room` is the one that the address names; None if none."""

    url: str
    room: str | None


class Refused(FastchatError):
    """Another attempt is useless: the server refuses this client, or the address is wrong."""


class Options(NamedTuple):
    """The arguments of `fastchat tail`.

    `address` is the URL of a WebSocket. If `username` is None, the client makes up a name. `token`
    is sent to the server. When it has expired, it is read again from `token_file`.
    """

    address: str
    room: str
    username: str | None
    history: int
    json: bool
    token: str | None = None
    token_file: Path | None = None


def run(options: Options) -> int:
    """Follow a room until Ctrl+C, or until standard input has ended and each line is confirmed.

    Returns the exit status, which is 1 if a line could not be sent. Raises Refused if the server
    would refuse another attempt, OutputError if standard output cannot be written to, and
    BrokenPipeError if its reader has ended. If that reader pauses, the client pauses as well, and
    recovers later.
    """
    out = open_output()
    screen = JsonScreen(out) if options.json else Screen(out, color=has_color(out))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Tail(options, screen).run())


class _Tail:
    """One run of the command: a room on the screen, and lines to the room."""

    def __init__(self, options: Options, screen: Screen) -> None:
        self._options = options
        self._screen = screen
        self._last: Position | None = None  # of the last publication that was shown
        self._sends_line = False  # one that is not confirmed yet
        self._refused_lines = 0
        token = options.token
        self._tokens = None if options.token_file is None else _TokenFile(options.token_file, token)

    async def run(self) -> int:
        chat = Chat(
            self._options.address,
            token=self._tokens or self._options.token,
            username=self._options.username or _made_up_name,
            on_status=self._on_status,
            on_error=lambda error: complain(safe(error.message)),
        )
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        working = {loop.create_task(self._stay(chat)), loop.create_task(stopped.wait())}
        try:
            done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except ChatError as error:
            raise self._refused(error) from None
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            await chat.close()
        if self._sends_line:
            complain("the server has not confirmed the last line; it may not have been sent")
        return 1 if self._sends_line or self._refused_lines else 0

    async def _stay(self, chat: Chat) -> None:
        """Show the room, and send the lines of standard input until they end."""
        room = await chat.join(self._options.room, history=self._options.history)
        self._last = room.position
        for message in room.messages:
            self._screen.publication(message.raw)
        self._screen.flush()
        tasks = [asyncio.create_task(self._show_all(room))]
        if has_lines(sys.stdin):
            tasks.append(asyncio.create_task(self._say_all(chat, room)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _show_all(self, room: Room) -> None:
        async for event in room:
            match event:
                case Gap():
                    self._show_gap(event)
                case Join() | Leave():
                    self._screen.presence(event.raw)
                case Message() | Edit() | Delete() | React():
                    self._last = event.position
                    self._screen.publication(event.raw)
            self._screen.flush()

    def _show_gap(self, gap: Gap) -> None:
        """Show the messages after a gap that were not shown before it."""
        complain("some messages may be missing here")
        last, self._last = self._last, gap.position
        for message in gap.messages:
            if last is None or _is_after(last, message):
                self._screen.publication(message.raw)

    async def _say_all(self, chat: Chat, room: Room) -> None:
        """Send the lines one after the other, and close the chat after the last one."""
        may_share = sys.stdin.isatty()
        async for line in lines_of(sys.stdin.fileno()):
            text = line.decode("utf-8", "replace").rstrip()
            if may_share and text.startswith(SHARE):
                await self._share(room, text.removeprefix(SHARE).strip())
            elif text:
                await self._say(room, text)
        await chat.close()

    async def _say(self, room: Room, text: str) -> None:
        try:
            check_text(text)  # raises if the server would refuse the line
            self._sends_line = True
            await room.send(text)
        except CommandError as refusal:
            self._refuse_line(refusal.message)
        except ChatRefused as refusal:
            if room.has_ended:
                raise
            self._refuse_line(safe(refusal.message))
        self._sends_line = False

    async def _share(self, room: Room, file: str) -> None:
        try:
            self._sends_line = True
            link = (await room.upload(file)).link
        except (OSError, RuntimeError) as error:
            self._refuse_line(f"{safe(file)}: {getattr(error, 'strerror', None) or error}")
        except ChatRefused as refusal:
            if room.has_ended:
                raise
            self._refuse_line(safe(refusal.message))
        else:
            await self._say(room, link)
        self._sends_line = False

    def _refuse_line(self, why: str) -> None:
        self._refused_lines += 1
        complain(f"a line was not sent: {why}")

    def _on_status(self, status: Status) -> None:
        if status.state == "renewing" and self._tokens is not None:
            self._tokens.expired()
        elif status.state == "waiting" and status.error is not None:
            why = safe(str(status.error)).rstrip(".")
            if isinstance(status.error, Disconnected):
                why = why[:1].lower() + why[1:]
            complain(f"{why}; trying again in {status.retry_in:.1f} s")

    def _refused(self, error: ChatError) -> Refused:
        if error.code == ErrorCode.UNAUTHORIZED and not (self._tokens or self._options.token):
            return Refused(
                "The server requires a token: give --token-file FILE or set FASTCHAT_TOKEN."
            )
        return Refused(safe(error.message))


class _TokenFile:
    """The token of a user, which is read again for each connection."""

    def __init__(self, file: Path, token: str | None) -> None:
        self._file = file
        self._last = token
        self._has_expired = False

    def expired(self) -> None:
        """Note that the server has refused the last token because it has expired."""
        self._has_expired = True

    def __call__(self) -> str:
        """Return the token. Raises ChatError if there is no other than the expired one."""
        try:
            token = read_token(self._file)
        except SettingError as error:
            expired = "The token has expired. " if self._has_expired else ""
            raise ChatError("no_token", f"{expired}{error}") from None
        if self._has_expired and token == self._last:
            raise ChatError(
                "no_token", f"The token has expired, and {self._file} still holds the same token."
            )
        self._last, self._has_expired = token, False
        return token


def _is_after(last: Position, message: Message) -> bool:
    """Whether a message is not among those that were shown up to this position.

    If an older copy of the history was put back, a new message can have an old offset.
    """
    if last.epoch != message.epoch:
        return True
    known = last.timestamp is None or message.raw["timestamp"] <= last.timestamp
    return message.offset > last.offset or not known


def _made_up_name() -> str:
    return f"tail-{secrets.token_hex(2)}"


def parse_address(text: str) -> Address:
    """Parse the address of a server, or of a room on its page: `https://host/#ops`.

    Raises Refused if `text` is not an address of a server, or if its room cannot be the name of a
    room.
    """
    try:
        url = websocket_url(text)
    except ValueError as error:
        hint = " Use --username and --room instead." if "query" in str(error) else ""
        raise Refused(f"{error}{hint}") from None
    return Address(url, _room_of(urlsplit(text).fragment))


def _room_of(fragment: str) -> str | None:
    match = _FRAGMENT.fullmatch(fragment)
    name = unquote(match["room"] if match else fragment)
    if not name:
        return None
    try:
        return check_room(name.lower() if name.isascii() else name)
    except CommandError as refusal:
        raise Refused(
            f"The address ends with #{fragment}, and {name!r} is no room: {refusal.message}"
        ) from None


def read_token(file: Path) -> str:
    """Return the token in a file. Raises SettingError if the file has no token."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise SettingError(f"--token-file {file} cannot be read: {error.strerror}.") from None
    return check_token(data.decode("ascii", "replace"), f"--token-file {file}")


def check_token(text: str, where: str) -> str:
    """Return a token without the white space around it. `where` names its origin.

    Raises SettingError if the text cannot be a token.
    """
    token = text.strip()
    if not token.isascii() or len(token.split()) != 1 or len(token) > MAX_TOKEN_BYTES:
        raise SettingError(f"{where} holds no token; a token is one word of ASCII characters.")
    return token
