"""Tests of the kinds of characters, and of the table that they are read from."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import apsw.unicode
import pytest

from fastchat.protocol import characters
from fastchat.protocol.characters import (
    CharacterKind,
    has_hidden,
    is_folded_everywhere,
    kind_of,
)

TABLE = Path(characters.__file__).with_name("characters.txt")
#: The Unicode of the table, and that of the oldest supported Python (3.11).
UNICODE, OLDEST_UNICODE = 17.0, 14.0
#: Extended_Pictographic (UTS #51) has all of these blocks, with their unassigned code points.
PICTURES = (range(0x1F000, 0x1FB00), range(0x1FC00, 0x1FFFE))
#: Ideographs are never decomposed or folded, so new ones are the same in every Python.
NEW_IDEOGRAPHS = (range(0x2EBF0, 0x2EE5E), range(0x31350, 0x3347A))
#: Planes 0 to 3, and the selectors and tags in plane 14. The rest is private use or not assigned.
CODES = (*range(0x40000), *range(0xE0000, 0xE0200))
KINDS = {
    **dict.fromkeys(("Lu", "Ll", "Lt", "Lm", "Lo"), "letter"),
    **dict.fromkeys(("Mn", "Mc"), "mark"),
    "Nd": "digit",
    **dict.fromkeys(("Nl", "No"), "number"),
    "Me": "enclosing",
    **dict.fromkeys(("So", "Sk"), "symbol"),
    **dict.fromkeys(("Sm", "Po"), "sign"),
    **dict.fromkeys(("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Sc"), "punctuation"),
    "Zs": "space",
}


def age_of(code: int) -> float:
    return float(apsw.unicode.version_added(code) or 0)


def expected_kind(code: int) -> str:
    """The kind of a code point in Unicode 17, whatever the Unicode of apsw."""
    category = apsw.unicode.category(code)
    if age_of(code) > UNICODE:
        category = "Cn"
    if category == "Cn" and any(code in block for block in PICTURES):
        category = "So"
    return KINDS.get(category, "hidden")


def expected_newer(code: int) -> bool:
    named = expected_kind(code) in ("letter", "mark", "digit")
    is_ideograph = any(code in block for block in NEW_IDEOGRAPHS)
    return named and age_of(code) > OLDEST_UNICODE and not is_ideograph


def lines_of(name: str, codes: list[int]) -> Iterator[str]:
    """The lines of the table with these code points, each at most 100 characters long."""
    members = []
    for _, run in groupby(enumerate(codes), lambda pair: pair[1] - pair[0]):
        group = [code for _, code in run]
        members.append(f"{group[0]:X}" + (f"-{group[-1]:X}" if len(group) > 1 else ""))
    line = name + "\t"
    for member in members:
        if len(line) + len(member) > 100:
            yield line.rstrip()
            line = name + "\t"
        line += member + " "
    yield line.rstrip()


def table() -> str:
    """The table as it should be, without its head."""
    kinds = {code: expected_kind(code) for code in CODES}
    lines = [
        line
        for kind in CharacterKind
        if kind is not CharacterKind.HIDDEN
        for line in lines_of(kind, [code for code in CODES if kinds[code] == kind])
    ]
    lines += lines_of("newer", [code for code in CODES if expected_newer(code)])
    return "\n".join(lines) + "\n"


def test_table_is_that_of_its_unicode() -> None:
    """To make the table for another Unicode, change UNICODE and write `table()` to the file."""
    if float(apsw.unicode.unicode_version) < UNICODE:
        pytest.skip(f"apsw has Unicode {apsw.unicode.unicode_version}")
    head, _, rest = TABLE.read_text("ascii").partition("letter\t")
    assert f"Unicode {UNICODE}" in head
    assert "letter\t" + rest == table()


@pytest.mark.parametrize(
    ("char", "kind"),
    [
        ("a", "letter"),
        ("Ж", "letter"),
        ("天", "letter"),
        ("\u0301", "mark"),
        ("\u0e31", "mark"),
        ("٣", "digit"),
        ("Ⅷ", "number"),
        ("\U0001fa77", "symbol"),  # the pink heart of Unicode 15
        ("\U0001fae9", "symbol"),  # of Unicode 16
        ("\U0001faff", "symbol"),  # not assigned yet
        ("\U0001f8ff", "symbol"),
        ("\u20dd", "enclosing"),
        ("!", "sign"),
        ("_", "punctuation"),
        ("\u3000", "space"),
        ("\u200d", "hidden"),
        ("\ue000", "hidden"),
        ("\ud800", "hidden"),
        ("\u2028", "hidden"),
        ("\uffff", "hidden"),
        ("\U000e0041", "hidden"),
        ("\U0010ffff", "hidden"),
        ("\x00", "hidden"),
    ],
    ids=ascii,
)
def test_kind_of_character(char: str, kind: str) -> None:
    """The kind is that of the general category; reserved pictures are symbols."""
    assert kind_of(char) == kind
    assert has_hidden(f"a{char}") is (kind == "hidden")


def test_characters_of_the_running_python_have_the_same_kind() -> None:
    """Python's tables and the file agree about every character that Python knows."""
    for code in CODES:
        category = unicodedata.category(chr(code))
        if category != "Cn" and age_of(code) <= UNICODE:
            assert kind_of(chr(code)) == KINDS.get(category, "hidden"), f"{code:X}"


def test_only_characters_of_the_oldest_python_are_folded_everywhere() -> None:
    """Newer letters, marks and digits are marked; new ideographs need no folding."""
    assert all(map(is_folded_everywhere, "aÄЖ٣天\u0301\U0002ebf0\U00031350"))
    assert not is_folded_everywhere("\U00016d68")  # of Unicode 16, with a decomposition
