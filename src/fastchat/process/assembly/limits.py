"""Turns settings into limits: one function for each object that keeps a limit."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastchat.limits.buckets import Budget
from fastchat.limits.commands import SessionLimits
from fastchat.limits.connections import ConnectionCount
from fastchat.limits.handshakes import HandshakeLimiter
from fastchat.limits.queue import FairQueue
from fastchat.limits.rooms import RoomLimits
from fastchat.settings import Settings

__all__ = [
    "connection_count_of",
    "handshake_limiter_of",
    "readers_of",
    "room_limits_of",
    "session_limits_of",
    "transfers_of",
    "visitors_of",
]

#: The burst of a budget is what its rate allows in this many seconds. After a restart, it must be
#: enough for all clients that come back at once, for an office of clients at one address, and for a
#: bot that joins all of its rooms.
HANDSHAKES_S = 2
ADDRESS_HANDSHAKES_S = 20
COMMANDS_S = 20
ADDRESS_MESSAGES_S = 8
ADDRESS_COMMANDS_S = 20
TYPING_S = 5
NEW_ROOMS_S = 50
UPLOAD_S = 1
#: For each WebSocket, an address can have this many other connections: a browser fetches the page
#: through six of them, and keeps them for some seconds.
VISITS_A_CONNECTION = 4
#: An address can have at least MIN_VISITS of these connections, and at most one in
#: VISITING_ADDRESSES of all that the process serves.
MIN_VISITS, VISITING_ADDRESSES = 32, 4
#: An address can have at most one in this many of all files that are under way.
TRANSFERRING_ADDRESSES = 4
#: For each download under way, this many others can wait, and at least MIN_WAITING of an address.
#: A download that waits costs a connection and about 10 kB. A picture of 300 kB needs a quarter of
#: a second on an office line of 10 Mbit/s, so all that wait get it in time.
WAITING_PER_DOWNLOAD, MIN_WAITING = 8, 8


def connection_count_of(settings: Settings, *, served: int = 0) -> ConnectionCount:
    """Limits the connections of the server, or of one process, which can serve `served`."""
    totals = [total for total in (settings.max_connections, served) if total]
    return ConnectionCount(
        total=min(totals, default=0),
        per_address=settings.max_address_connections,
        per_user=settings.max_user_connections,
    )


def visitors_of(settings: Settings, *, served: int) -> ConnectionCount:
    """Limits a process's connections that are not WebSockets, or not yet."""
    if not settings.max_address_connections:
        return ConnectionCount()
    wanted = settings.max_address_connections * VISITS_A_CONNECTION
    return ConnectionCount(per_address=max(MIN_VISITS, min(wanted, served // VISITING_ADDRESSES)))


def transfers_of(settings: Settings, total: int) -> ConnectionCount:
    """Limits the transfers of one kind that are under way in a process to `total` at once."""
    if not settings.max_address_connections:
        return ConnectionCount(total=total)
    return ConnectionCount(total=total, per_address=max(1, total // TRANSFERRING_ADDRESSES))


def readers_of(settings: Settings, total: int, *, wait_s: float) -> FairQueue:
    """Limits the downloads of a process: `total` at once; others can wait for `wait_s`."""
    connection_count = transfers_of(settings, total)
    waiting = total * WAITING_PER_DOWNLOAD
    if not settings.max_address_connections:
        return FairQueue(connection_count, max_waiting=waiting, wait_s=wait_s)
    per_address = max(MIN_WAITING, waiting // TRANSFERRING_ADDRESSES)
    return FairQueue(
        connection_count, max_waiting=waiting, max_address_waiting=per_address, wait_s=wait_s
    )


def handshake_limiter_of(settings: Settings, clock: Callable[[], float]) -> HandshakeLimiter:
    return HandshakeLimiter(
        _budget(settings.handshake_rate, HANDSHAKES_S),
        _budget(settings.address_handshake_rate, ADDRESS_HANDSHAKES_S),
        clock,
    )


def session_limits_of(settings: Settings) -> SessionLimits:
    return SessionLimits(
        publications=Budget(settings.message_rate, settings.message_burst),
        commands=_budget(settings.command_rate, COMMANDS_S),
        typing=_budget(settings.typing_rate, TYPING_S),
        errors=settings.max_errors,
        address_publications=_budget(settings.address_message_rate, ADDRESS_MESSAGES_S),
        address_commands=_budget(settings.address_command_rate, ADDRESS_COMMANDS_S),
        upload_bytes=_budget(settings.upload_rate, UPLOAD_S),
        address_upload_bytes=_budget(settings.address_upload_rate, UPLOAD_S),
    )


def room_limits_of(settings: Settings) -> RoomLimits:
    """The limits of users and of new rooms, and the budgets of rooms unless an engine has them."""
    room = Budget(settings.room_rate, settings.room_burst)
    return RoomLimits(
        user=Budget(settings.user_rate, settings.user_burst),
        room=Budget(0, 1) if settings.engine else room,
        new_rooms=_budget(settings.new_room_rate, NEW_ROOMS_S),
        max_rooms=settings.max_rooms,
        clock=time.monotonic,
    )


def _budget(rate_per_s: float, seconds: float) -> Budget:
    return Budget(rate_per_s, rate_per_s * seconds)
