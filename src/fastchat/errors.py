"""The package's exceptions, and what each means on the wire.

    FastchatError
    ├── SettingError     the operator's fault: one sentence at the command line, exit status 2
    ├── CommandError     the client's fault: answered with an `error` event
    ├── Violation        the client's fault: the connection is closed with a close code
    ├── OutputError      standard output cannot be written to: one sentence, exit status 1
    ├── HistoryError     the disk's fault: clients that publish or read get `unavailable`
    │   └── HistoryAwayError  the same, because the file is not in its directory any more
    └── FilesError       the disk's fault: clients that share or download a file get 503

A fault of our own is no FastchatError: it is logged with its traceback, and the client gets 1011
without details.
"""

from __future__ import annotations

from enum import Enum, IntEnum, StrEnum

__all__ = [
    "CloseCode",
    "CloseReason",
    "CommandError",
    "ErrorCode",
    "FastchatError",
    "FilesError",
    "HistoryAwayError",
    "HistoryError",
    "OutputError",
    "SettingError",
    "Violation",
]


class CloseCode(IntEnum):
    """Close codes (RFC 6455 §7.4; docs/protocol.md, "Closing").

    1000-2999 belong to the RFC's registry. Of ours, 4000-4499 ask the client to
    reconnect and 4500-4999 not to. The client's copy is in `static/client.js`; a test
    holds the two together.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_TEXT = 1007
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    OVERLOADED = 1013
    EVICTED = 4008
    HEARTBEAT_MISSED = 4009
    LOST_CONTINUITY = 4010
    TOKEN_EXPIRED = 4011
    UNAUTHORIZED = 4501
    JOIN_TIMEOUT = 4502
    REMOVED = 4503
    FLOODING = 4504

    @property
    def reconnect(self) -> bool:
        """Whether a client should come back by itself."""
        if self < 4000:
            return self not in (
                CloseCode.PROTOCOL_ERROR,
                CloseCode.UNSUPPORTED_DATA,
                CloseCode.INVALID_TEXT,
                CloseCode.TOO_BIG,
            )
        return self < 4500


class CloseReason(Enum):
    """Why the server closes a connection: the close code, and the text of the close frame.

    The text is for people who debug a client, at most 123 bytes long (RFC 6455 §5.5). The
    table in ARCHITECTURE.md, "Ways a connection ends", says where each reason comes from.
    Three kinds of closes are not here: the hub imports nothing of ours, and has its own texts
    for 4008 and 4009; a refused token is closed with the sentence of its `error` event; and
    a client that closes gets its own code back.
    """

    RESERVED_BIT = CloseCode.PROTOCOL_ERROR, "a reserved bit is set"
    INVALID_CLOSE_CODE = CloseCode.PROTOCOL_ERROR, "an invalid close code"
    STRAY_FRAGMENT = CloseCode.PROTOCOL_ERROR, "a fragment is out of place"
    UNEXPECTED_BINARY = CloseCode.UNSUPPORTED_DATA, "binary messages are not expected"
    INVALID_UTF8 = CloseCode.INVALID_TEXT, "a text message must be UTF-8"
    MESSAGE_TOO_BIG = CloseCode.TOO_BIG, "the message is too big"
    #: A fault of ours: the log has the details, which never reach a client.
    INTERNAL = CloseCode.INTERNAL, ""
    RESTART = CloseCode.RESTART, "the server restarts"
    SERVER_FULL = CloseCode.OVERLOADED, "the server is full"
    ADDRESS_FULL = CloseCode.OVERLOADED, "too many connections from this address"
    USER_FULL = CloseCode.OVERLOADED, "too many connections of this user"
    LOST_CONTINUITY = CloseCode.LOST_CONTINUITY, "the room's stream lost its continuity"
    CUT_OFF = CloseCode.LOST_CONTINUITY, "the rooms cannot be reached from here"
    TOKEN_EXPIRED = CloseCode.TOKEN_EXPIRED, "the token has expired"
    JOIN_TIMEOUT = CloseCode.JOIN_TIMEOUT, "joined nothing in time"
    REMOVED = CloseCode.REMOVED, "removed by a moderator"
    TOO_MANY_FRAGMENTS = CloseCode.FLOODING, "too many fragments"
    TOO_MANY_PINGS = CloseCode.FLOODING, "too many pings"
    TOO_MANY_ERRORS = CloseCode.FLOODING, "too many errors"
    MESSAGE_TIMEOUT = CloseCode.FLOODING, "the message took too long"

    def __init__(self, code: CloseCode, text: str) -> None:
        self.code = code
        self.text = text


class ErrorCode(StrEnum):
    """The `code` of an `error` event (docs/protocol.md, "Errors")."""

    BAD_JSON = "bad_json"
    BAD_COMMAND = "bad_command"
    TOO_LONG = "too_long"
    NOT_JOINED = "not_joined"
    ALREADY_JOINED = "already_joined"
    BAD_ROOM = "bad_room"
    BAD_USERNAME = "bad_username"
    USERNAME_TAKEN = "username_taken"
    TOO_MANY_ROOMS = "too_many_rooms"
    NOT_FOUND = "not_found"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"


class FastchatError(Exception):
    """The base of all exceptions that this package raises on purpose."""


class SettingError(FastchatError):
    """A setting is wrong. The message names the setting and says how to fix it."""


class OutputError(FastchatError):
    """Standard output is closed or cannot be written to. The message is a sentence."""


class CommandError(FastchatError):
    """A command is refused; the client gets an `error` event and stays connected.

    * ``message``: a sentence for a person.
    * ``temporary``: whether the same command can succeed later; ``retry_after_ms``: after how long,
      None if that is not known.
    * ``close_code``: the code with which the connection is closed after the event; None to keep it.
    * ``ref``, ``id``: those of the command; None if it had none.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        temporary: bool = False,
        retry_after_ms: int | None = None,
        close_code: CloseCode | None = None,
        ref: str | None = None,
        id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.temporary = temporary
        self.retry_after_ms = retry_after_ms
        self.close_code = close_code
        self.ref = ref
        self.id = id


class HistoryError(FastchatError):
    """The history could not be written or read. Nothing has changed; a retry can succeed."""


class HistoryAwayError(HistoryError):
    """The file of the history is not in its directory any more. It can come back."""


class FilesError(FastchatError):
    """A file could not be stored or read. Nothing has changed; a retry can succeed."""


class Violation(FastchatError):
    """The client broke a rule. Its connection is closed, and the close frame carries `reason`."""

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(reason.text)
        self.reason = reason
