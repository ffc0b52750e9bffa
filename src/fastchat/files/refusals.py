"""Why a file is refused: the errors that clients get, wherever files are stored."""

from __future__ import annotations

from fastchat.errors import CommandError, ErrorCode

__all__ = [
    "disk_full",
    "incomplete",
    "interrupted",
    "quota_announced",
    "quota_used_up",
    "ticket_used",
    "too_large",
    "too_long",
    "total_used_up",
    "unavailable",
]


def too_large(max_bytes: int) -> CommandError:
    return CommandError(
        ErrorCode.TOO_LONG,
        f"The file is too large. A file can have at most {max_bytes:,} bytes.",
    )


def too_long(size: int) -> CommandError:
    return CommandError(
        ErrorCode.TOO_LONG, f"The file is longer than the announced {size:,} bytes."
    )


def incomplete(missing: int) -> CommandError:
    return CommandError(
        ErrorCode.BAD_COMMAND,
        f"The file is incomplete: {missing:,} bytes are missing. Send it again.",
    )


def ticket_used() -> CommandError:
    return CommandError(
        ErrorCode.FORBIDDEN, "The ticket is used or expired. Announce the file again."
    )


def total_used_up() -> CommandError:
    """The quota of all users together is used up."""
    return CommandError(
        ErrorCode.FORBIDDEN, "The server's quota for files is used up. Try again later."
    )


def quota_used_up() -> CommandError:
    """The quota of the user is used up."""
    return CommandError(
        ErrorCode.FORBIDDEN,
        "Your files use up your quota. Delete messages that contain files, and try again.",
    )


def quota_announced(wait_s: float) -> CommandError:
    """The quota of the user is used up until announcements expire, in `wait_s` seconds."""
    return CommandError(
        ErrorCode.FORBIDDEN,
        "Files that you announced and did not send use up your quota. Try again later.",
        temporary=True,
        retry_after_ms=int(wait_s * 1000) + 1,
    )


def disk_full() -> CommandError:
    return CommandError(
        ErrorCode.UNAVAILABLE,
        "The server's disk has no space for this file at the moment. Try again later.",
        temporary=True,
    )


def interrupted() -> CommandError:
    """The server has lost what it had of an upload."""
    return CommandError(
        ErrorCode.UNAVAILABLE, "The upload was interrupted. Send the file again.", temporary=True
    )


def unavailable() -> CommandError:
    return CommandError(
        ErrorCode.UNAVAILABLE,
        "The server cannot store or read files at the moment. Try again later.",
        temporary=True,
    )
