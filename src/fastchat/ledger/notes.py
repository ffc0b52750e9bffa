"""The notifications by which a machine tells the others what it has committed.

A note is `p`, a line of JSON, and on further lines the publications, as clients get them: so the
other machines need not encode them again. The first line has the machine's number, the number of
the commit, the room, the offset of the first publication, and how many they are. If they are too
large, the lines with them are left out. Notes can get lost. Numbers of commits show that, and the
ledger has the publications.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import orjson

__all__ = ["MAX_NOTE_BYTES", "PREFIX", "Note", "machine_of", "note_of", "note_of_head", "notes_of"]

PREFIX = "p"
#: PostgreSQL accepts payloads of less than 8,000 bytes.
MAX_NOTE_BYTES = 7500
#: The number of no machine.
_NOBODY = 0


class Note(NamedTuple):
    """A part of a commit: `size` publications of a room whose offsets follow each other.

    `payloads` has the encoded publications. It is empty if they have to be read.
    """

    machine: int
    commit: int
    room: str
    first: int
    size: int
    payloads: Sequence[bytes]


def notes_of(
    machine: int, commit: int, runs: Mapping[str, tuple[int, Sequence[bytes]]]
) -> list[str]:
    """The notes of a commit. There is at least one.

    For each room, `runs` has the offset of the first publication, and the encoded publications.
    """
    notes = [
        note
        for room, (first, payloads) in runs.items()
        for note in _notes(machine, commit, room, first, payloads)
    ]
    return notes or [_note(machine, commit, "", 0, 0)]


def note_of_head(room: str, head: int) -> str:
    """A note of something that no machine has committed: the room has to be read up to `head`."""
    return _note(_NOBODY, 0, room, head, 1)


def _notes(
    machine: int, commit: int, room: str, first: int, payloads: Sequence[bytes]
) -> Iterator[str]:
    space = MAX_NOTE_BYTES - len(orjson.dumps(room)) - 64  # for the numbers in the first line
    start = size = 0
    for index, payload in enumerate(payloads):
        if index > start and size + len(payload) >= space:
            yield _note(machine, commit, room, first + start, index - start, payloads[start:index])
            start, size = index, 0
        if len(payload) >= space:
            yield _note(machine, commit, room, first + index, 1)
            start = index + 1
        else:
            size += len(payload) + 1
    if start < len(payloads):
        yield _note(machine, commit, room, first + start, len(payloads) - start, payloads[start:])


def _note(
    machine: int, commit: int, room: str, first: int, size: int, payloads: Sequence[bytes] = ()
) -> str:
    line = orjson.dumps((machine, commit, room, first, size))
    return PREFIX + b"\n".join((line, *payloads)).decode()


def machine_of(payload: str) -> int:
    """The machine of a note. Raises ValueError if it is none."""
    return int(payload[len(PREFIX) + 1 : payload.index(",")])


def note_of(payload: str) -> Note:
    """The note in a payload. Raises ValueError or TypeError if it is none."""
    line, *payloads = payload.removeprefix(PREFIX).encode().split(b"\n")
    machine, commit, room, first, size = orjson.loads(line)
    if payloads and len(payloads) != size:
        raise ValueError("a note has other publications than it says")
    return Note(machine, commit, room, first, size, payloads)
