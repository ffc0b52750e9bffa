"""What clients hear when a room does not let them in, or cannot be reached."""

from __future__ import annotations

import math

from fastchat.errors import CommandError, ErrorCode

__all__ = [
    "looks_alike",
    "name_taken",
    "not_here",
    "read_only",
    "removed",
    "room_closed",
    "too_soon",
    "unavailable",
]


def removed(wait_s: float) -> CommandError:
    """The refusal of a user whom a moderator has removed for so many seconds more."""
    return CommandError(
        ErrorCode.FORBIDDEN,
        f"A moderator has removed you from this room. You can join again in {int(wait_s) + 1:,} s.",
        temporary=True,
        retry_after_ms=int(wait_s * 1000) + 1,
    )


def name_taken(wait_s: float | None) -> CommandError:
    """The refusal of a name that another user has.

    `wait_s` is the time for which it is kept for a user who is absent; None if they are here.
    """
    if wait_s is None:
        return CommandError(
            ErrorCode.USERNAME_TAKEN,
            "A user in this room has this name, or one that looks like it. Choose another name.",
            temporary=True,
        )
    seconds = math.ceil(wait_s)
    return CommandError(
        ErrorCode.USERNAME_TAKEN,
        "This name, or one that looks like it, is kept for a user whose connection was lost. "
        f"Try again in {seconds} s, or choose another name.",
        temporary=True,
        retry_after_ms=seconds * 1000,
    )


def looks_alike() -> CommandError:
    """The refusal to create a room whose name looks like that of another room.

    It does not name the other room, which may be one that the client cannot join.
    """
    return CommandError(
        ErrorCode.BAD_ROOM, "The name looks like the name of another room. Choose another name."
    )


def not_here() -> CommandError:
    """The refusal to remove a user."""
    return CommandError(ErrorCode.NOT_FOUND, "This user is not in the room.")


def room_closed() -> CommandError:
    """The refusal to join a closed room, or to write in one."""
    return CommandError(ErrorCode.FORBIDDEN, "This room is closed.")


def read_only() -> CommandError:
    """The refusal to write in a room that is read-only."""
    return CommandError(ErrorCode.FORBIDDEN, "This room is read-only.")


def too_soon(slow_s: int, wait_s: float) -> CommandError:
    """The refusal of a message in a slow room, for so many seconds more."""
    return CommandError(
        ErrorCode.RATE_LIMITED,
        f"This room takes a message of each user every {slow_s:,} s. Try again in "
        f"{math.ceil(wait_s):,} s.",
        temporary=True,
        retry_after_ms=math.ceil(wait_s * 1000),
    )


def unavailable() -> CommandError:
    """The refusal of what needs the rooms or their history, while these cannot be reached."""
    return CommandError(
        ErrorCode.UNAVAILABLE,
        "The server cannot do this at the moment. Try again soon.",
        temporary=True,
    )
