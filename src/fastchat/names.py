"""What a room and a user may be called, and when two names are the same.

Source: docs/protocol.md, "Names and sizes"; Unicode categories from UAX #44.
"""

from __future__ import annotations

import re
import unicodedata

from fastchat.errors import CommandError, ErrorCode

__all__ = ["DEFAULT_ROOM", "MAX_USERNAME_CHARS", "check_room", "check_username", "name_key"]

DEFAULT_ROOM = "lobby"
MAX_USERNAME_CHARS = 32

_ROOM = re.compile(r"[a-z0-9._-]{1,64}", re.ASCII)

# Control, format (zero-width and bidirectional among them), surrogate, private use,
# unassigned, line and paragraph separators.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters and marks that show nothing: the Hangul fillers, the Braille blank, the
# grapheme joiner, the Khmer inherent vowels, the variation selectors (Mongolian ones
# too) but U+FE0F (emoji).
_INVISIBLE = re.compile(
    "[\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5\u180b-\u180d\u180f"
    "\ufe00-\ufe0e\U000e0100-\U000e01ef]"
)


def check_room(name: object) -> str:
    """A room's name as it is, or CommandError `bad_room`."""
    if type(name) is str and _ROOM.fullmatch(name):
        return name
    raise CommandError(
        ErrorCode.BAD_ROOM,
        "A room's name is 1 to 64 of the characters a-z, 0-9, '-', '_' and '.'.",
    )


def check_username(name: object) -> str:
    """A user's name in NFC, or CommandError `bad_username` that says what is wrong."""
    if type(name) is not str:
        raise _bad_username("A name is needed: `username`, a string.")
    if len(name) > 4 * MAX_USERNAME_CHARS:  # before normalising, which costs more
        raise _bad_username(f"A name has at most {MAX_USERNAME_CHARS} characters.")
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= MAX_USERNAME_CHARS:
        raise _bad_username(f"A name has 1 to {MAX_USERNAME_CHARS} characters.")
    if name != name.strip():
        raise _bad_username("A name neither begins nor ends with a space.")
    if not (name.isascii() and name.isprintable()) and (
        _INVISIBLE.search(name)
        or not name_key(name)  # U+FE0F and nothing else
        or any(unicodedata.category(char) in _FORBIDDEN_CATEGORIES for char in name)
    ):
        raise _bad_username("A name has no invisible, control or direction-changing characters.")
    return name


def name_key(name: str) -> str:
    """What two names that look alike have in common (NFKC, case-folding, single spaces)."""
    name = unicodedata.normalize("NFKC", name.replace("\ufe0f", ""))
    return " ".join(unicodedata.normalize("NFKC", name.casefold()).split())


def _bad_username(message: str) -> CommandError:
    return CommandError(ErrorCode.BAD_USERNAME, message)
