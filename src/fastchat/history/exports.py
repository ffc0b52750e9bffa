"""The format of exports: JSON Lines, which `fastchat export` writes and `fastchat import` reads.

Each room starts with a header, which announces its publications; it is one line:

    {"format":"fastchat","version":2,"room":"lobby","epoch":"V-mb…","first":1,"head":42,
     "user_key":"5e…"}

`user_key` is the secret of the history's users (`fastchat.history.users`). A history without
publications adopts it, so that users keep their ids and own their messages. Any other history keeps
its own secret; imported messages keep their users all the same, but guests are not recognised as
these users. In a header of version 1 there is no key, and its lines have authors, which the import
replaces by users.

One line for each stored publication follows the header, from `first` to `head` without a gap. A
line has everything that the history stores about the publication. So exports can be concatenated,
and an import notices if an export was cut off.

Lines before the first header are foreign: messages from another program. They have `username`
and `text`, and can have `timestamp` and `room`. The import numbers them in their order.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from fastchat import protocol
from fastchat.errors import CommandError, SettingError
from fastchat.history.rows import OFFSET_MASK
from fastchat.history.users import USER_KEY_BYTES
from fastchat.protocol import (
    Change,
    Kind,
    Message,
    Position,
    Publication,
    Reactor,
    check_emoji,
    check_epoch,
    check_id,
    check_room,
    check_text,
    check_username,
)
from fastchat.protocol.publications import encodable
from fastchat.protocol.users import MAX_SUBJECT_CHARS, check_user

__all__ = ["Imported", "LineReader", "Origin", "export_file", "header_line", "line_of"]

#: The values of `format` and `version` in a header. Another format gets another version.
FORMAT, VERSION = "fastchat", 2
#: The version whose lines have authors in the place of users.
_WITH_AUTHORS = 1
#: A line must fit into memory. An export's lines have at most about 200 kB; the limit leaves
#: room for files that other programs write.
MAX_LINE_BYTES = 64 * 1024 * 1024
#: An author of version 1 is a digest, or `sub:` and a subject.
_MAX_AUTHOR_CHARS = len("sub:") + MAX_SUBJECT_CHARS

_APPEND_NEWLINE = orjson.OPT_APPEND_NEWLINE


class Imported(NamedTuple):
    """The numbers of rooms and publications that an import has added.

    `has_strangers` says that some rooms come from a history with another secret, so that their
    guests are not recognised.
    """

    rooms: int
    publications: int
    has_strangers: bool = False


class Origin(NamedTuple):
    """Where the publications of an imported room come from.

    `position` is the final position of the room. `user_key` is the secret of its users; None if it
    is not known. If `has_authors`, its publications have authors in the place of users, and its
    reactions have empty users (`fastchat.history.authors`).
    """

    position: Position
    user_key: bytes | None
    has_authors: bool


# Writing


def header_line(room: str, epoch: str, first: int, head: int, user_key: bytes) -> bytes:
    """The header of a room whose publications have the offsets from `first` to `head`."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "room": room,
        "epoch": epoch,
        "first": first,
        "head": head,
        "user_key": user_key.hex(),
    }
    return orjson.dumps(header, option=_APPEND_NEWLINE)


def line_of(publication: Publication) -> bytes:
    """The line of a stored publication."""
    fields: dict[str, Any] = {
        "type": Kind.MESSAGE,
        "room": publication.room,
        "offset": publication.offset,
        "user": publication.user,
        "username": publication.username,
        "text": publication.text,
        "timestamp": publication.timestamp,
    }
    if isinstance(publication, Message):
        fields["id"] = publication.id
        fields["edited"] = publication.edited
        fields["deleted"] = publication.deleted or None
        if publication.reactions is not None:
            fields["reactions"] = encodable(publication.reactions)
    else:
        fields["type"] = publication.kind
        fields["target"] = publication.target
        fields["emoji"] = publication.emoji or None
        fields["remove"] = publication.remove or None
    present = {name: value for name, value in fields.items() if value is not None}
    return orjson.dumps(present, option=_APPEND_NEWLINE)


def export_file(file: Path, export: Callable[[BinaryIO], None]) -> None:
    """Have `export` write an export into `file`.

    The export is written beside `file` and then replaces it, so `file` is complete, or remains
    as it was if the export fails. Only this user can read the new file. Raises SettingError if
    `file` cannot be written, and what `export` raises.
    """
    # A pipe or a device cannot be replaced; it is written to directly.
    if file.exists() and not file.is_file():
        with _writing(file), file.open("wb") as out:
            export(out)
        return
    part = file.with_name(file.name + ".part")
    try:
        with _writing(file), _created(part) as out:
            export(out)
            out.flush()
            os.fsync(out.fileno())
            part.replace(file)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _created(part: Path) -> BinaryIO:
    """Open a new file for this user only; one that an interrupted export has left is removed."""
    part.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return open(os.open(part, flags, 0o600), "wb")


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SettingError(f"--output {file} cannot be written: {error.strerror}.") from None


# Reading


def _new_epoch() -> str:
    return secrets.token_urlsafe(16)


class _BadLine(Exception):
    """A line cannot be imported; the message is a sentence that says why."""


class _Header(NamedTuple):
    room: str
    epoch: str
    first: int
    head: int
    user_key: bytes | None
    has_authors: bool


class LineReader:
    """Parses lines into publications.

    `origins` has the origin of each room, and `count` the number of publications, once
    `publications` has ended. `_header` is that of the present room; None before the first header,
    where lines are foreign. Without `knows_authors`, an export of version 1 is a bad line.
    """

    def __init__(
        self, lines: BinaryIO, name: str, default_room: str, *, knows_authors: bool = True
    ) -> None:
        self.origins: dict[str, Origin] = {}
        self.count = 0
        self._lines = lines
        self._name = name
        self._default_room = default_room
        self._knows_authors = knows_authors
        self._header: _Header | None = None
        self._next = 0  # the offset of the next publication in the present room
        self._now = protocol.timestamp_of(time.time())

    def publications(self) -> Iterator[Publication]:
        """Read the lines one by one; raise SettingError at the first bad line."""
        number = 0
        try:
            while line := self._lines.readline(MAX_LINE_BYTES + 1):
                number += 1
                publication = None if line.isspace() else self._read(line)
                if publication is not None:
                    self.count += 1
                    yield publication
            number += 1
            self._end_room()
        except CommandError as refusal:
            raise self._refusal(number, refusal.message) from None
        except _BadLine as bad:
            raise self._refusal(number, str(bad)) from None
        except OSError as error:
            raise SettingError(f"{self._name} cannot be read: {error.strerror}.") from None
        if not self.origins:
            raise SettingError(f"{self._name} is empty, so there is nothing to import.")

    def _refusal(self, number: int, why: str) -> SettingError:
        return SettingError(f"{self._name}, line {number}: {why} Nothing was imported.")

    def _read(self, line: bytes) -> Publication | None:
        fields = _load(line)
        if "format" in fields:
            self._end_room()
            self._begin_room(_header(fields))
            return None
        return self._foreign(fields) if self._header is None else self._exported(fields)

    def _begin_room(self, header: _Header) -> None:
        if header.has_authors and not self._knows_authors:
            raise _BadLine(
                "The export is of version 1. Import it into a new directory (--data), export that, "
                "and import the result."
            )
        if header.room in self.origins:
            raise _BadLine(f"The room “{header.room}” occurs twice in the file.")
        self._header = header
        self._next = header.first
        self.origins[header.room] = Origin(
            Position(header.epoch, header.head), header.user_key, header.has_authors
        )

    def _end_room(self) -> None:
        header = self._header
        if header is not None and self._next <= header.head:
            raise _BadLine(
                f"The room “{header.room}” ends before offset {self._next}; "
                f"by its header it has publications up to {header.head}."
            )

    def _exported(self, fields: dict[str, Any]) -> Publication:
        assert self._header is not None
        head = self._header.head
        room = fields.get("room")
        if room != self._header.room and check_room(room) != self._header.room:
            raise _BadLine(f"`room` must be “{self._header.room}”, the room of the header.")
        offset = _offset(fields, "offset")
        if offset != self._next or offset > head:
            raise _BadLine(
                f"`offset` is {offset}; the next one must be {self._next}, and the last {head}."
            )
        self._next += 1
        return _publication(fields, self._header, offset)

    def _foreign(self, fields: dict[str, Any]) -> Message:
        if fields.get("type", Kind.MESSAGE) != Kind.MESSAGE:
            raise _BadLine("Without a header, only messages can be imported.")
        room = check_room(fields.get("room", self._default_room))
        origin = self.origins.get(room)
        epoch, last = (_new_epoch(), 0) if origin is None else origin.position[:2]
        self.origins[room] = Origin(Position(epoch, last + 1), None, has_authors=True)
        return Message(
            room,
            last + 1,
            check_username(fields.get("username")),
            check_text(fields.get("text")),
            _timestamp(fields.get("timestamp", self._now)),
            user="",
        )


def _load(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise _BadLine(f"The line is longer than {MAX_LINE_BYTES:,} bytes.")
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise _BadLine("The line is not valid JSON.") from None
    if type(fields) is not dict:
        raise _BadLine("The line is not a JSON object.")
    return fields


def _header(fields: dict[str, Any]) -> _Header:
    version = fields.get("version")
    if fields["format"] != FORMAT or version not in (_WITH_AUTHORS, VERSION):
        raise _BadLine(f"The header is not one of a fastchat export of version 1 or {VERSION}.")
    room = check_room(fields.get("room"))
    head, first = _offset(fields, "head"), _offset(fields, "first")
    if first > head + 1:
        raise _BadLine("`first` must be at most one above `head`.")
    epoch = fields.get("epoch")
    if epoch is None:  # removed by a person, so that no client recovers into the room
        epoch = _new_epoch()
    has_authors = version == _WITH_AUTHORS
    user_key = None if has_authors else _user_key(fields.get("user_key"))
    return _Header(room, check_epoch(epoch), first, head, user_key, has_authors)


def _user_key(text: Any) -> bytes | None:
    """The secret in a header; None if a person has removed it."""
    if text is None:
        return None
    with contextlib.suppress(ValueError, TypeError):
        key = bytes.fromhex(text)
        if len(key) == USER_KEY_BYTES:
            return key
    raise _BadLine(f"`user_key` must be {USER_KEY_BYTES} bytes in hexadecimal.")


def _publication(fields: dict[str, Any], header: _Header, offset: int) -> Publication:
    """The publication in a line of an export; values obey the same rules as in commands."""
    kind = _kind(fields)
    user = _author(fields) if header.has_authors else check_user(fields.get("user"))
    if kind is Kind.MESSAGE:
        return _message(fields, header, offset, user)
    return _change(fields, header.room, offset, user, kind)


def _message(fields: dict[str, Any], header: _Header, offset: int, user: str) -> Message:
    id, edited, reactions = (fields.get(name) for name in ("id", "edited", "reactions"))
    text, deleted = fields.get("text"), _flag(fields, "deleted")
    if deleted and text != "":
        raise _BadLine("The message is deleted, so `text` must be empty.")
    return Message(
        header.room,
        offset,
        check_username(fields.get("username")),
        "" if deleted else check_text(text),
        _timestamp(fields.get("timestamp")),
        user,
        None if id is None else check_id(id),
        None if edited is None else _timestamp(edited),
        deleted,
        None if reactions is None else _reactions(reactions, header),
    )


def _change(fields: dict[str, Any], room: str, offset: int, user: str, kind: Kind) -> Change:
    text = fields.get("text") if kind is Kind.EDIT else ""
    is_reaction = kind is Kind.REACT
    return Change(
        room,
        offset,
        check_username(fields.get("username")),
        "" if text == "" else check_text(text),  # an edit of a deleted message has no text
        _timestamp(fields.get("timestamp")),
        user,
        kind,
        _target(fields, offset),
        check_emoji(fields.get("emoji")) if is_reaction else "",
        is_reaction and _flag(fields, "remove"),
    )


def _kind(fields: dict[str, Any]) -> Kind:
    try:
        return Kind(fields["type"])
    except (KeyError, ValueError):
        raise _BadLine("`type` must be message, edit, delete or react.") from None


def _target(fields: dict[str, Any], offset: int) -> int:
    target = fields.get("target")
    if type(target) is int and 1 <= target < offset:
        return target
    raise _BadLine("`target` must be an offset below the line's own.")


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if type(value) is bool:
        return value
    raise _BadLine(f"`{name}` must be true or false.")


def _reactions(reactions: Any, header: _Header) -> dict[str, tuple[Reactor, ...]]:
    if type(reactions) is not dict or not all(type(each) is list for each in reactions.values()):
        raise _BadLine("`reactions` must be an object with a list of users for each emoji.")
    reactor = _named_reactor if header.has_authors else _reactor
    return {check_emoji(emoji): tuple(map(reactor, users)) for emoji, users in reactions.items()}


def _reactor(fields: Any) -> Reactor:
    if type(fields) is not dict:
        raise _BadLine("A reaction must have a `user` and a `username`.")
    return Reactor(check_user(fields.get("user")), check_username(fields.get("username")))


def _named_reactor(name: Any) -> Reactor:
    """The user of a reaction of version 1, of whom only the name is known so far."""
    return Reactor("", check_username(name))


def _author(fields: dict[str, Any]) -> str:
    """The author in a line of version 1, which takes the place of the user for now."""
    author = fields.get("author", "")
    if type(author) is str and len(author) <= _MAX_AUTHOR_CHARS:
        return author
    raise _BadLine(f"`author` must be a string of at most {_MAX_AUTHOR_CHARS} characters.")


def _offset(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    # Less than OFFSET_MASK, because `first` can be one above the head.
    if type(value) is int and 1 <= value < OFFSET_MASK:
        return value
    raise _BadLine(f"`{name}` must be a whole number from 1.")


_STAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _timestamp(stamp: Any) -> str:
    """A time in RFC 3339 in any zone, as the history stores it: in UTC with milliseconds."""
    if type(stamp) is str and _STAMP.fullmatch(stamp):
        with contextlib.suppress(ValueError, OverflowError):
            moment = datetime.fromisoformat(stamp).astimezone(UTC)
            return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    raise _BadLine("A timestamp must have a form like 2025-01-18T10:30:00.123Z.")
