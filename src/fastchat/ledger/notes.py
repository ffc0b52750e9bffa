"""The notifications by which a machine tells the others what it has committed.

A note is `p` and JSON: the ledger's token, the machine's number, the number of the commit, the
room, the offset of the first publication, and the publications, or how many they are if they are
too large. Notes can get lost. Numbers of commits show that, and the ledger has the publications.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import orjson

from fastchat.ledger.rows import KINDS, NUMBER_OF_KIND
from fastchat.protocol import Change, Message, Publication

__all__ = ["MAX_NOTE_BYTES", "PREFIX", "Note", "note_of", "note_of_head", "notes_of"]

PREFIX = "p"
#: PostgreSQL accepts payloads of less than 8,000 bytes.
MAX_NOTE_BYTES = 7500
_MESSAGE_FIELDS = 5
#: The number of no machine.
_NOBODY = 0


class Note(NamedTuple):
    """A part of a commit: `size` publications of a room whose offsets follow each other.

    `publications` is empty if they have to be read.
    """

    token: str
    machine: int
    commit: int
    room: str
    first: int
    size: int
    publications: Sequence[Publication]


def notes_of(
    token: str, machine: int, commit: int, runs: Mapping[str, Sequence[Publication]]
) -> list[str]:
    """The notes of a commit, with the publications of each room. There is at least one."""
    head = b"%s%b," % (PREFIX.encode(), orjson.dumps([token, machine, commit])[:-1])
    notes = [note for room, run in runs.items() for note in _notes(head, room, run)]
    return notes or [(head + b'"",0,0]').decode()]


def note_of_head(token: str, room: str, head: int) -> str:
    """A note of something that no machine has committed: the room has to be read up to `head`."""
    return PREFIX + orjson.dumps([token, _NOBODY, 0, room, head, 1]).decode()


def _notes(head: bytes, room: str, run: Sequence[Publication]) -> Iterator[str]:
    start = head + orjson.dumps(room) + b","
    space = MAX_NOTE_BYTES - len(start) - 32  # for the offset and the brackets
    items: list[bytes] = []
    size = 0
    for publication in run:
        item = orjson.dumps(_item(publication))
        if items and size + len(item) >= space:
            yield _note(start, publication.offset - len(items), items)
            items, size = [], 0
        if len(item) >= space:
            yield (start + b"%d,1]" % publication.offset).decode()
            continue
        items.append(item)
        size += len(item) + 1
    if items:
        yield _note(start, run[-1].offset + 1 - len(items), items)


def _note(start: bytes, first: int, items: Sequence[bytes]) -> str:
    return (start + b"%d,[%b]]" % (first, b",".join(items))).decode()


def note_of(payload: str) -> Note:
    """The note in a payload. Raises ValueError, TypeError or LookupError if it is none."""
    token, machine, commit, room, first, items = orjson.loads(payload.removeprefix(PREFIX))
    if isinstance(items, int):
        return Note(token, machine, commit, room, first, items, ())
    publications = [_publication(room, offset, item) for offset, item in enumerate(items, first)]
    return Note(token, machine, commit, room, first, len(items), publications)


def _item(publication: Publication) -> Sequence[object]:
    start = publication.username, publication.text, publication.timestamp, publication.user
    if isinstance(publication, Message):
        return (*start, publication.id)
    _, _, _, _, _, _, kind, target, emoji, remove = publication
    return (*start, NUMBER_OF_KIND[kind], target, emoji, remove)


def _publication(room: str, offset: int, item: Sequence[object]) -> Publication:
    username, text, timestamp, user, *rest = item
    if len(item) == _MESSAGE_FIELDS:
        return Message(room, offset, username, text, timestamp, user, *rest)  # type: ignore[arg-type]
    kind, target, emoji, remove = rest
    assert isinstance(kind, int)
    change = (room, offset, username, text, timestamp, user, KINDS[kind], target, emoji, remove)
    return Change(*change)  # type: ignore[arg-type]
