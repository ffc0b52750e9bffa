"""`fastchat tail`: a room in a terminal, which shows its messages and sends what is typed.

Each line of standard input is one message. A further line is read only when the last one is
confirmed, so a long pipe is not held in memory.

`/share FILE` sends a file, and then the line that links to it. This works only at a terminal,
because what comes through a pipe may be written by other people.

The messages of the room go to standard output, and sentences about the connection to standard
error. Control characters of other people reach neither.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

from fastchat.cli.terminal import JsonScreen, Screen, has_color, has_lines, lines_of
from fastchat.client.link import Refused
from fastchat.client.room import RoomClient, TokenNeeded
from fastchat.errors import SettingError

__all__ = ["Options", "Refused", "check_token", "read_token", "run", "websocket_address"]

#: `MAX_TOKEN_CHARS` of the server: no server takes a longer token.
MAX_TOKEN_BYTES = 8192
#: A line that begins with this names a file.
SHARE = "/share "


class Options(NamedTuple):
    """The arguments of `fastchat tail`. Without a `username` a name is made up.

    `token` is sent to the server; `token_file` may have a newer one when it has expired.
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

    Returns the exit status: 1 if a line could not be sent. Raises Refused with a sentence if
    trying again is useless, and BrokenPipeError if standard output is not read any more. If its
    reader only pauses, the client pauses, and recovers later.
    """
    file = options.token_file
    client = RoomClient(
        websocket_address(options.address),
        options.room,
        JsonScreen(sys.stdout) if options.json else Screen(sys.stdout, color=has_color()),
        notice=_notice,
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
            "The server asks for a token: --token-file FILE, or FASTCHAT_TOKEN."
        ) from None
    if client.has_unconfirmed:
        _notice("the last line was not confirmed")
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
    """Send each line, one after the other, once the room has been joined."""
    await client.arrived()
    async for line in lines:
        text = line.decode("utf-8", "replace").rstrip()
        if may_share and text.startswith(SHARE):
            text = await client.share(Path(text.removeprefix(SHARE).strip()))
        if text:
            await client.say(text)


def _notice(text: str) -> None:
    print(f"fastchat: {text}", file=sys.stderr, flush=True)


def _renewal(file: Path) -> Callable[[str], str]:
    """What reads a token's file again, when the token has expired."""

    def renew(old: str) -> str:
        try:
            token = read_token(file)
        except SettingError as error:
            raise Refused(f"The token has expired. {error}") from None
        if token == old:
            raise Refused(f"The token has expired, and {file} has no other.")
        return token

    return renew


def websocket_address(address: str) -> str:
    """The address of a server's WebSocket: `http://host:8080` becomes `ws://host:8080/ws`.

    Raises Refused if the address cannot be one of a server.
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
        raise Refused(
            "An address ends with its path; use --username and --room for the name and the room."
        )
    path = parts.path if parts.path.strip("/") else "/ws"
    return f"{known}://{parts.netloc}{path}"


def read_token(file: Path) -> str:
    """The token in a file. Raises SettingError if there is none."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise SettingError(f"--token-file {file} cannot be read: {error.strerror}.") from None
    return check_token(data.decode("ascii", "replace"), f"--token-file {file}")


def check_token(text: str, where: str) -> str:
    """A token without the white space around it. Raises SettingError if it cannot be one."""
    token = text.strip()
    if not token.isascii() or len(token.split()) != 1 or len(token) > MAX_TOKEN_BYTES:
        raise SettingError(f"{where} has no token in it; a token is one word of ASCII.")
    return token
