"""Finds the transport behind the WebSocket of another library.

No library has a public way to its transport, so this module knows the objects that write frames:
uvicorn's protocols, websockets' connection, aiohttp's writer. Each calls `write` of its attribute
`transport`. Starlette's WebSocket has only ASGI's `receive` and `send`. With uvicorn both are
methods of the protocol, and middlewares can have wrapped them in functions. So the module looks
into these functions, and accepts a protocol only if its handshake is the one of the WebSocket.

It imports none of the libraries: if there is an object of a library, the library is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

SUPPORTED = (
    "hub.member() supports FastAPI's and Starlette's WebSocket on uvicorn, ServerConnection of "
    "websockets, and WebSocketResponse of aiohttp"
)
NOT_ACCEPTED = "accept the WebSocket before it becomes a member"

STARLETTE = ("starlette.websockets", "WebSocket")
UVICORN_LEGACY = ("uvicorn.protocols.websockets.websockets_impl", "WebSocketProtocol")
UVICORN = (
    ("uvicorn.protocols.websockets.websockets_sansio_impl", "WebSocketsSansIOProtocol"),
    ("uvicorn.protocols.websockets.wsproto_impl", "WSProtocol"),
    UVICORN_LEGACY,
)
WEBSOCKETS = ("websockets.asyncio.server", "ServerConnection")
AIOHTTP = ("aiohttp.web_ws", "WebSocketResponse")

#: Callables that are looked at between a WebSocket and its protocol. A middleware adds a few.
MAX_CALLABLES = 200


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The server's end of a WebSocket, as its library has it."""

    #: The protocol that the transport calls.
    protocol: asyncio.Protocol
    #: The objects whose attribute `transport` the library uses to write.
    writers: tuple[Any, ...]
    #: Whether a message has begun in a fragment, and has not ended.
    is_message_open: bool = False


async def find(ws: object) -> Endpoint | None:
    """Return the end of a WebSocket, or None if it is closed or about to be.

    Raises TypeError if the WebSocket is of another kind, or on another server. Raises RuntimeError
    if it was not accepted yet.
    """
    if _is(ws, WEBSOCKETS):
        endpoint = _of_websockets(ws)
    elif _is(ws, AIOHTTP):
        endpoint = _of_aiohttp(ws)
    elif _is(ws, STARLETTE):
        endpoint = await _of_starlette(ws)
    else:
        raise TypeError(f"{SUPPORTED}, not {type(ws).__module__}.{type(ws).__qualname__}")
    if endpoint is None or endpoint.writers[0].transport.is_closing():
        return None
    return endpoint


def _is(thing: object, kind: tuple[str, str]) -> bool:
    """Whether an object is of a class that is named by its module and its name."""
    module, name = kind
    found = getattr(sys.modules.get(module), name, None)
    return found is not None and isinstance(thing, found)


def _of_websockets(ws: Any) -> Endpoint | None:
    state = ws.state.name
    if state == "CONNECTING":
        raise RuntimeError(NOT_ACCEPTED)
    if state != "OPEN":
        return None
    return Endpoint(ws, (ws,), is_message_open=ws.protocol.expect_continuation_frame)


def _of_aiohttp(ws: Any) -> Endpoint | None:
    if not ws.prepared:
        raise RuntimeError(NOT_ACCEPTED)
    if ws.closed:
        return None
    writer = ws._writer
    return Endpoint(writer.protocol, (writer, writer.protocol))


async def _of_starlette(ws: Any) -> Endpoint | None:
    if ws.application_state.name == "CONNECTING":
        raise RuntimeError(NOT_ACCEPTED)
    if ws.application_state.name != "CONNECTED" or ws.client_state.name != "CONNECTED":
        return None
    protocol = _uvicorn_protocol(ws)
    if protocol is None:
        raise TypeError(f"{SUPPORTED}: this server does not show its transport")
    if _is(protocol, UVICORN_LEGACY):
        # It writes its answer to the handshake in another task.
        await protocol.handshake_completed_event.wait()
        if not protocol.open:
            return None
    return Endpoint(protocol, (protocol,))


def _uvicorn_protocol(ws: Any) -> Any:
    for call in (ws._receive, ws._send):
        for owner in _owners(call):
            if _is_protocol_of(owner, ws):
                return owner
    return None


def _is_protocol_of(thing: Any, ws: Any) -> bool:
    return any(_is(thing, kind) for kind in UVICORN) and (
        _handshake_key(thing.scope) == _handshake_key(ws.scope)
    )


def _handshake_key(scope: Any) -> bytes | None:
    """The number that a client has drawn for this handshake alone (RFC 6455 §4.1)."""
    return dict(scope["headers"]).get(b"sec-websocket-key")


def _owners(call: object) -> Iterator[object]:
    """The objects whose methods a callable calls, as far as its wrappers show them."""
    found = [call]
    seen: set[int] = set()
    for each in found:  # which grows meanwhile
        if id(each) in seen or len(seen) == MAX_CALLABLES:
            continue
        seen.add(id(each))
        if isinstance(each, MethodType):
            yield each.__self__
        found += filter(callable, _contents(each))


def _contents(call: object) -> Iterator[object]:
    """What a wrapper can have stored: it is a function, a `partial`, a method or an object."""
    if isinstance(call, FunctionType):
        for cell in call.__closure__ or ():
            with contextlib.suppress(ValueError):  # the variable has no value yet
                yield cell.cell_contents
    elif isinstance(call, functools.partial):
        yield from (call.func, *call.args, *call.keywords.values())
    elif isinstance(call, MethodType):
        yield from (call.__func__, *getattr(call.__self__, "__dict__", {}).values())
    else:
        yield from getattr(call, "__dict__", {}).values()
