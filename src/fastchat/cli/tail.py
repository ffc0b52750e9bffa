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
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import uvloop

from fastchat.cli.terminal import JsonScreen, Screen, has_color, has_lines, lines_of
from fastchat.client.link import Refused
from fastchat.client.room import RoomClient, TokenNeeded
from fastchat.errors import CommandError, SettingError
from fastchat.protocol.names import check_room
from fastchat.streams import complain, open_output

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
    file = options.token_file
    out = open_output()
    client = RoomClient(
        options.address,
        options.room,
        JsonScreen(out) if options.json else Screen(out, color=has_color(out)),
        notice=complain,
        username=options.username,
        history=options.history,
        token=options.token,
        renew_token=None if file is None else _renewal(file),
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_follow(client))
    except TokenNeeded:
        raise Refused(
            "The server requires a token: give --token-file FILE or set FASTCHAT_TOKEN."
        ) from None
    if client.has_unconfirmed:
        complain("the server has not confirmed the last line; it may not have been sent")
    return 1 if client.has_unconfirmed or client.refused_lines else 0


async def _follow(client: RoomClient) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    working = {loop.create_task(client.stay()), loop.create_task(stopped.wait())}
    if has_lines(sys.stdin):
        lines = lines_of(sys.stdin.fileno())
        working.add(loop.create_task(_say_all(client, lines, may_share=sys.stdin.isatty())))
    try:
        done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await client.leave()


async def _say_all(client: RoomClient, lines: AsyncIterator[bytes], *, may_share: bool) -> None:
    """Send the lines one after the other, from the first join on."""
    await client.arrived()
    async for line in lines:
        text = line.decode("utf-8", "replace").rstrip()
        if may_share and text.startswith(SHARE):
            text = await client.share(Path(text.removeprefix(SHARE).strip()))
        if text:
            await client.say(text)


def _renewal(file: Path) -> Callable[[str], str]:
    """Return a function that reads a token's file again after the token has expired."""

    def renew(old: str) -> str:
        try:
            token = read_token(file)
        except SettingError as error:
            raise Refused(f"The token has expired. {error}") from None
        if token == old:
            raise Refused(f"The token has expired, and {file} still holds the same token.")
        return token

    return renew


def parse_address(text: str) -> Address:
    """Parse the address of a server, or of a room on its page: `https://host/#ops`.

    The WebSocket of the page at `http://host:8080/` is `ws://host:8080/ws`. A path that does not
    end with a slash is the path of a WebSocket. Raises Refused if `text` is not an address of a
    server, or if its room cannot be the name of a room.
    """
    try:
        parts = urlsplit(text)
        known = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}[parts.scheme]
        _ = parts.port  # raises ValueError
    except (KeyError, ValueError):
        parts, known = urlsplit(""), ""
    if not parts.hostname or not text.isprintable():
        raise Refused(f"{text!r} is not an address; give one like ws://127.0.0.1:8080.")
    if parts.query or parts.username is not None:
        raise Refused(
            "The address must have no query (?…) and no user; use --username and --room instead."
        )
    path = parts.path or "/"
    url = f"{known}://{parts.netloc}{path}{'ws' if path.endswith('/') else ''}"
    return Address(url, _room_of(parts.fragment))


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
