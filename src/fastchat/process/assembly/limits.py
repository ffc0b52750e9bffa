"""The limits that the settings ask for, each where it is kept."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastchat.limits.buckets import Budget, RoomLimits
from fastchat.limits.commands import SessionLimits
from fastchat.limits.connections import Census, Gate
from fastchat.limits.queue import Places
from fastchat.settings import Settings

__all__ = [
    "census_of",
    "gate_of",
    "readers_of",
    "room_limits_of",
    "session_limits_of",
    "transfers_of",
    "visitors_of",
]

#: At once, what otherwise takes this long: after a restart everybody comes back, an office
#: from one address; a bot joins all its rooms.
HANDSHAKES_S = 2
ADDRESS_HANDSHAKES_S = 20
COMMANDS_S = 20
ADDRESS_MESSAGES_S = 8
ADDRESS_COMMANDS_S = 20
TYPING_S = 5
NEW_ROOMS_S = 50
UPLOAD_S = 1
#: A browser fetches the page by six connections, and keeps them for some seconds.
VISITS_A_CONNECTION = 4
#: The least that an address may have of them; and the most, one of so many parts of the place.
MIN_VISITS, VISITING_ADDRESSES = 32, 4
#: The same of files that are on their way.
TRANSFERRING_ADDRESSES = 4
#: Who waits for one costs a connection, and some 10 kB. A picture of 300 kB takes an office line of
#: 10 Mbit/s a quarter of a second: in the time that they wait all of them get it.
WAITING_FOR_A_PLACE, MIN_WAITING = 8, 8


def census_of(settings: Settings, *, served: int = 0) -> Census:
    """Of the machine; or of a process, which can serve only so many."""
    totals = [total for total in (settings.max_connections, served) if total]
    return Census(
        total=min(totals, default=0),
        per_address=settings.max_address_connections,
        per_user=settings.max_user_connections,
    )


def visitors_of(settings: Settings, *, served: int) -> Census:
    """Of a process: connections that are not WebSockets, or not yet."""
    if not settings.max_address_connections:
        return Census()
    wanted = settings.max_address_connections * VISITS_A_CONNECTION
    return Census(per_address=max(MIN_VISITS, min(wanted, served // VISITING_ADDRESSES)))


def transfers_of(settings: Settings, total: int) -> Census:
    """Of a process: files that are on their way, `total` at once by one of the ways."""
    if not settings.max_address_connections:
        return Census(total=total)
    return Census(total=total, per_address=max(1, total // TRANSFERRING_ADDRESSES))


def readers_of(settings: Settings, total: int) -> Places:
    """Of a process: places to read a file, `total` of them, for which others wait."""
    census = transfers_of(settings, total)
    waiting = total * WAITING_FOR_A_PLACE
    if not settings.max_address_connections:
        return Places(census, max_waiting=waiting)
    per_address = max(MIN_WAITING, waiting // TRANSFERRING_ADDRESSES)
    return Places(census, max_waiting=waiting, max_address_waiting=per_address)


def gate_of(settings: Settings, clock: Callable[[], float]) -> Gate:
    return Gate(
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
    return RoomLimits(
        user=Budget(settings.user_rate, settings.user_burst),
        room=Budget(settings.room_rate, settings.room_burst),
        new_rooms=_budget(settings.new_room_rate, NEW_ROOMS_S),
        max_rooms=settings.max_rooms,
        clock=time.monotonic,
    )


def _budget(rate_per_s: float, seconds: float) -> Budget:
    return Budget(rate_per_s, rate_per_s * seconds)
