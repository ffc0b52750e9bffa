"""What a room and a user may be called, and when two names are the same.

Source: docs/protocol.md, "Names and sizes"; Unicode categories from UAX #44, what looks
alike from UTS #39.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

from fastchat.errors import CommandError, ErrorCode

__all__ = [
    "DEFAULT_ROOM",
    "INVISIBLE",
    "MAX_USERNAME_CHARS",
    "check_room",
    "check_username",
    "name_key",
]

DEFAULT_ROOM = "lobby"
MAX_USERNAME_CHARS = 32

#: Package data; the file's first lines say where it comes from.
_CONFUSABLES = Path(__file__).with_name("confusables.txt")
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")

_ROOM = re.compile(r"[a-z0-9._-]{1,64}", re.ASCII)

# Control, format (zero-width and bidirectional among them), surrogate, private use,
# unassigned, line and paragraph separators.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters, marks and symbols that show nothing: the Hangul and Khitan fillers, the Braille
# blank, the null notehead, the grapheme joiner, the Khmer inherent vowels, the variation
# selectors (Mongolian ones too) but U+FE0F (emoji).
INVISIBLE = re.compile(
    "[\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5\u180b-\u180d\u180f"
    "\ufe00-\ufe0e\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)


def check_room(name: object) -> str:
    """A room's name as it is, or CommandError `bad_room`."""
    if type(name) is str and _ROOM.fullmatch(name):
        return name
    raise CommandError(
        ErrorCode.BAD_ROOM,
        "A room's name must have 1 to 64 characters, each one of a-z, 0-9, '-', '_' and '.'.",
    )


def check_username(name: object) -> str:
    """A user's name in NFC, or CommandError `bad_username` that says what is wrong."""
    if type(name) is not str:
        raise _bad_username("`username` must be a string.")
    if len(name) > 4 * MAX_USERNAME_CHARS:  # before normalising, which costs more
        raise _bad_username(f"A name can have at most {MAX_USERNAME_CHARS} characters.")
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= MAX_USERNAME_CHARS:
        raise _bad_username(f"A name must have 1 to {MAX_USERNAME_CHARS} characters.")
    if name != name.strip():
        raise _bad_username("A name cannot begin or end with a space.")
    if not (name.isascii() and name.isprintable()) and (
        INVISIBLE.search(name)
        or not name_key(name)  # U+FE0F and nothing else
        or any(unicodedata.category(char) in _FORBIDDEN_CATEGORIES for char in name)
    ):
        raise _bad_username(
            "A name cannot have invisible, control or direction-changing characters."
        )
    return name


# What looks alike in ASCII, after case-folding. `i` is here for the sake of `I` and `l`.
_ASCII_LOOKS = {"0": "o", "1": "l", "i": "l", "|": "l", "m": "rn", "w": "vv", "`": "'", '"': "''"}
_ASCII_SKELETON = str.maketrans(_ASCII_LOOKS)
#: Rounds after which a skeleton no longer changes; no character needs more than three.
_ROUNDS = 6


def name_key(name: str) -> str:
    """What two names that look alike have in common: neither case nor script tells them apart.

    The skeleton of UTS #39, of the name after NFKC and case-folding and with single spaces.
    """
    if name.isascii():
        return " ".join(name.lower().translate(_ASCII_SKELETON).split())
    name = _fold(name.replace("\ufe0f", ""))
    for _ in range(_ROUNDS):
        before, name = name, _skeleton(name)
        if name == before:
            break
    return " ".join(name.split())


def _skeleton(name: str) -> str:
    """One round: what a character looks like may look like another."""
    name = unicodedata.normalize("NFD", name).translate(_skeletons()).translate(_ASCII_SKELETON)
    # A dot on top of what has one shows nothing.
    return _fold(name.replace("l\u0307", "l").replace("j\u0307", "j"))


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


@lru_cache(maxsize=1)
def _skeletons() -> dict[int, str]:
    """The prototype of each character that looks like others.

    The table is read when the first name needs it, which takes some 2 ms; importing this
    module reads nothing.
    """
    text = _ESCAPE.sub(
        lambda found: chr(int(found[1] or found[2], 16)), _CONFUSABLES.read_text("utf-8")
    )
    return {
        ord(char): prototype
        for line in text.splitlines()
        if not line.startswith("#")
        for prototype, _, chars in [line.partition("\t")]
        for char in chars
    }


def _bad_username(message: str) -> CommandError:
    return CommandError(ErrorCode.BAD_USERNAME, message)
