"""The notifications by which a machine tells the others what it has committed.

A note is `p`, a line of JSON, and a line for each publication (`protocol.publications.packed`). The
first line has the machine's number, the number of the commit, the room, the offset of the first
publication, and how many they are. If they are too large, the lines with them are left out. Notes
can get lost. Numbers of commits show that, and the ledger has the publications.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import orjson

from fastchat.protocol import Publication
from fastchat.protocol.publications import packed, unpacked

__all__ = ["MAX_NOTE_BYTES", "PREFIX", "Note", "machine_of", "note_of", "note_of_head", "notes_of"]

PREFIX = "p"
#: PostgreSQL accepts payloads of less than 8,000 bytes.
MAX_NOTE_BYTES = 7500
#: The number of no machine.
_NOBODY = 0


class Note(NamedTuple):
    """A part of a commit: `size` publications of a room whose offsets follow each other.

    `lines` is empty if they have to be read.
    """

    machine: int
    commit: int
    room: str
    first: int
    size: int
    lines: Sequence[bytes]

    @property
    def publications(self) -> list[Publication]:
        """The publications. Raises ValueError, TypeError or LookupError if a line has none."""
        lines = enumerate(self.lines, self.first)
        return [unpacked(line, self.room, offset) for offset, line in lines]


def notes_of(machine: int, commit: int, runs: Mapping[str, Sequence[Publication]]) -> list[str]:
    """The notes of a commit, with the publications of each room. There is at least one."""
    notes = [note for room, run in runs.items() for note in _notes(machine, commit, room, run)]
    return notes or [_note(machine, commit, "", 0, 0)]


def note_of_head(room: str, head: int) -> str:
    """A note of something that no machine has committed: the room has to be read up to `head`."""
    return _note(_NOBODY, 0, room, head, 1)


def _notes(machine: int, commit: int, room: str, run: Sequence[Publication]) -> Iterator[str]:
    space = MAX_NOTE_BYTES - len(orjson.dumps(room)) - 64  # for the numbers in the first line
    lines: list[bytes] = []
    size = 0
    first = run[0].offset
    for offset, line in enumerate(map(packed, run), first):
        if lines and size + len(line) >= space:
            yield _note(machine, commit, room, first, len(lines), lines)
            first, lines, size = offset, [], 0
        if len(line) >= space:
            yield _note(machine, commit, room, offset, 1)
            first = offset + 1
        else:
            lines.append(line)
            size += len(line) + 1
    if lines:
        yield _note(machine, commit, room, first, len(lines), lines)


def _note(
    machine: int, commit: int, room: str, first: int, size: int, lines: Sequence[bytes] = ()
) -> str:
    head = orjson.dumps((machine, commit, room, first, size))
    return PREFIX + b"\n".join((head, *lines)).decode()


def machine_of(payload: str) -> int:
    """The machine of a note. Raises ValueError if it is none."""
    return int(payload[len(PREFIX) + 1 : payload.index(",")])


def note_of(payload: str) -> Note:
    """The note in a payload. Raises ValueError or TypeError if it is none."""
    head, *lines = payload.removeprefix(PREFIX).encode().split(b"\n")
    machine, commit, room, first, size = orjson.loads(head)
    if lines and len(lines) != size:
        raise ValueError("a note has other publications than it says")
    return Note(machine, commit, room, first, size, lines)
