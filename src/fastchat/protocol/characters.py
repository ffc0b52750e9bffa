"""The kinds of characters: letters, marks, digits, symbols, and characters without a shape.

The tables of Python (`unicodedata`) are those of a different version of Unicode in each version of
Python. With them, an emoji of last year would be valid on one server and refused on another. So the
kinds are in a table of this package, which is made from the general categories of UAX #44.

Python normalises and folds texts. For characters that a Python knows, the result is the same in
each newer version (Unicode's stability policies). Characters that the oldest supported Python does
not know are marked in the table (`is_folded_everywhere`).
"""

from __future__ import annotations

from bisect import bisect_right
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

__all__ = ["CharacterKind", "has_hidden", "is_folded_everywhere", "kind_of"]

#: Package data. The first lines of the file state its source.
_FILE = Path(__file__).with_name("characters.txt")
#: The name of the lines in the file with the letters, marks and digits of newer scripts.
_NEWER = "newer"


class CharacterKind(StrEnum):
    """What a character is, by its general category (UAX #44 §5.7.1)."""

    LETTER = "letter"  # L
    MARK = "mark"  # Mn, Mc
    DIGIT = "digit"  # Nd
    NUMBER = "number"  # Nl, No
    ENCLOSING = "enclosing"  # Me
    #: So, Sk. All code points that Unicode reserves for pictures belong here, assigned or not: a
    #: future emoji is one of them.
    SYMBOL = "symbol"
    SIGN = "sign"  # Sm, Po: some emoji are among them
    PUNCTUATION = "punctuation"  # Pc, Pd, Ps, Pe, Pi, Pf, Sc
    SPACE = "space"  # Zs
    #: C, Zl, Zp: control, format, surrogate, private use, unassigned, and separators of lines.
    HIDDEN = "hidden"


def kind_of(char: str) -> CharacterKind:
    """The kind of a character."""
    starts, kinds, _ = _table()
    return kinds[bisect_right(starts, ord(char)) - 1]


def has_hidden(text: str) -> bool:
    """Whether a text has a character of the kind `HIDDEN`."""
    if text.isascii():
        return not text.isprintable()
    return any(kind_of(char) is CharacterKind.HIDDEN for char in text)


def is_folded_everywhere(char: str) -> bool:
    """Whether every supported Python normalises and folds a letter, mark or digit in the same way.

    The result is False if the character is newer than the Unicode of the oldest supported Python.
    """
    _, _, newer = _table()
    return bisect_right(newer, ord(char)) % 2 == 0


@lru_cache(maxsize=1)
def _table() -> tuple[list[int], list[CharacterKind], list[int]]:
    """The first code point of each range, the kind of each range, and the edges of newer ranges.

    The first call reads the file, which takes some 2 ms. Importing this module reads nothing, and
    neither do texts of ASCII characters.
    """
    ranges: list[tuple[int, int, CharacterKind]] = []
    newer: list[int] = []
    for line in _FILE.read_text("ascii").splitlines():
        if line.startswith("#"):
            continue
        name, _, members = line.partition("\t")
        for member in members.split():
            first, _, last = member.partition("-")
            low, high = int(first, 16), int(last or first, 16)
            if name == _NEWER:
                newer += (low, high + 1)
            else:
                ranges.append((low, high, CharacterKind(name)))
    ranges.sort()
    starts: list[int] = []
    kinds: list[CharacterKind] = []
    end = 0
    for low, high, kind in ranges:
        if low > end:
            starts.append(end)
            kinds.append(CharacterKind.HIDDEN)
        starts.append(low)
        kinds.append(kind)
        end = high + 1
    starts.append(end)
    kinds.append(CharacterKind.HIDDEN)
    return starts, kinds, newer
