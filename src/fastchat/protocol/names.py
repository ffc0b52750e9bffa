"""Rules for the names of rooms and users, and when two names count as the same.

Source: docs/protocol.md, "Names and sizes". Characters that look alike ("confusables") are
those of UTS #39.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol.characters import (
    CharacterKind,
    has_hidden,
    is_folded_everywhere,
    kind_of,
)

__all__ = [
    "DEFAULT_ROOM",
    "INVISIBLE",
    "MAX_ROOM_BYTES",
    "MAX_ROOM_CHARS",
    "MAX_USERNAME_CHARS",
    "check_room",
    "check_username",
    "clean_username",
    "name_key",
    "room_key",
]

DEFAULT_ROOM = "lobby"
#: A room's name has at most so many characters, and bytes of UTF-8. Three bytes for each character
#: are enough for all scripts of the basic plane.
MAX_ROOM_CHARS, MAX_ROOM_BYTES = 64, 192
MAX_USERNAME_CHARS = 32
#: A name of more characters is cut before it is cleaned, because normalising it would be slow.
_MAX_CLEANED_CHARS = 1000

#: Package data. The first lines of the file state its source.
_CONFUSABLES = Path(__file__).with_name("confusables.txt")
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")

_ASCII_ROOM = re.compile(rf"[a-z0-9._-]{{1,{MAX_ROOM_CHARS}}}", re.ASCII)
#: What a room's name in another script can have besides the characters in `_ASCII_ROOM`.
_ROOM_KINDS = frozenset({CharacterKind.LETTER, CharacterKind.MARK, CharacterKind.DIGIT})

# Letters, marks and symbols without a visible shape: the Hangul and Khitan fillers, the Braille
# blank, the null notehead, the grapheme joiner, the Khmer inherent vowels, and the variation
# selectors, Mongolian ones too. U+FE0F is allowed, because emoji need it.
INVISIBLE = re.compile(
    "[\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5\u180b-\u180d\u180f"
    "\ufe00-\ufe0e\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)


_EMOJI_SELECTOR = "\ufe0f"


def check_room(name: object) -> str:
    """Return the key of a room's name (`room_key`).

    Raises CommandError `bad_room`, whose message says what is wrong with the name.
    """
    if type(name) is not str:
        raise _bad_room("`room` must be a string.")
    if _ASCII_ROOM.fullmatch(name):
        return name
    # A very long name is refused before it is folded, which would be slow.
    key = room_key(name) if len(name) <= 4 * MAX_ROOM_CHARS else ""
    if not 1 <= len(key) <= MAX_ROOM_CHARS:
        raise _bad_room(f"A room's name must have 1 to {MAX_ROOM_CHARS} characters.")
    if not all(map(_is_of_room, key)) or kind_of(key[0]) is CharacterKind.MARK:
        raise _bad_room(
            "A room's name can have only letters and digits of any script, '-', '_' and '.'. "
            "If it has only ASCII characters, its letters must be small."
        )
    if len(key.encode()) > MAX_ROOM_BYTES:
        raise _bad_room(f"A room's name can have at most {MAX_ROOM_BYTES} bytes of UTF-8.")
    return key


def room_key(name: str) -> str:
    """The key of a room, which all names of the room share: the name in NFC, case-folded.

    The names of rooms in tokens, commands and addresses are compared by their keys. A name of ASCII
    characters is its own key, even if it has capital letters; no room has such a name.
    """
    if name.isascii():
        return name
    for _ in range(_ROUNDS):
        before, name = name, unicodedata.normalize("NFD", name).casefold()
        name = unicodedata.normalize("NFC", name)
        if name == before:
            break
    return name


def _is_of_room(char: str) -> bool:
    """Whether a key of a room can have this character."""
    if char.isascii():
        return _ASCII_ROOM.fullmatch(char) is not None
    # Characters that some Pythons do not fold would give a room another key on another Python.
    return (
        kind_of(char) in _ROOM_KINDS
        and is_folded_everywhere(char)
        and not INVISIBLE.match(char)
        and char != _EMOJI_SELECTOR
    )


def check_username(name: object) -> str:
    """Return a user's name in NFC.

    Raises CommandError `bad_username`, whose message says what is wrong with the name.
    """
    if type(name) is not str:
        raise _bad_username("`username` must be a string.")
    # The length counts after normalising, which can shorten a name. A very long name is refused
    # before that, because normalising it would be slow.
    if len(name) > 4 * MAX_USERNAME_CHARS:
        raise _bad_username(f"A name can have at most {MAX_USERNAME_CHARS} characters.")
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= MAX_USERNAME_CHARS:
        raise _bad_username(f"A name must have 1 to {MAX_USERNAME_CHARS} characters.")
    if name != name.strip():
        raise _bad_username("A name cannot begin or end with a space.")
    if not (name.isascii() and name.isprintable()) and (
        INVISIBLE.search(name)
        or not name_key(name)  # the name has only U+FE0F, or only tatweel
        or has_hidden(name)  # zero-width and bidirectional characters among them
    ):
        raise _bad_username(
            "A name cannot have invisible, control or direction-changing characters."
        )
    return name


def clean_username(name: str) -> str | None:
    """A valid name made of one that somebody else has chosen, such as an identity provider.

    Characters that are not allowed are removed, white space becomes single spaces, and a long name
    is cut. The result is None if nothing is left.
    """
    name = " ".join(name[:_MAX_CLEANED_CHARS].split())
    name = INVISIBLE.sub("", "".join(char for char in name if not has_hidden(char)))
    try:
        return check_username(
            unicodedata.normalize("NFC", name.strip())[:MAX_USERNAME_CHARS].strip()
        )
    except CommandError:
        return None


# ASCII characters that look alike, after case-folding. `i` stands here for `I`, which looks
# like `l`.
_ASCII_LOOKS = {"0": "o", "1": "l", "i": "l", "|": "l", "m": "rn", "w": "vv", "`": "'", '"': "''"}
_ASCII_SKELETON = str.maketrans(_ASCII_LOOKS)
# The selector, and tatweel.
_SHAPELESS = re.compile(f"[{_EMOJI_SELECTOR}\u0640\u07fa]")
#: The limit of rounds in `name_key` and `room_key`. No character needs more than three.
_ROUNDS = 6


def name_key(name: str) -> str:
    """The key that names which look alike share, whatever their case or script.

    It is the skeleton (UTS #39) of the name after NFKC and case-folding, with single spaces and
    without tatweel, which only makes an Arabic word longer.

    A history stores the keys of its rooms (`fastchat.history.schema`). After a change of this
    function or of its data, they must be computed again by a migration.
    """
    if name.isascii():
        return " ".join(name.lower().translate(_ASCII_SKELETON).split())
    name = _fold(_SHAPELESS.sub("", name))
    for _ in range(_ROUNDS):
        before, name = name, _skeleton(name)
        if name == before:
            break
    return " ".join(name.split())


def _skeleton(name: str) -> str:
    """One round of replacement; a replacement can itself look like another character."""
    name = unicodedata.normalize("NFD", name).translate(_skeletons()).translate(_ASCII_SKELETON)
    # A combining dot on a letter that has a dot is not visible.
    return _fold(name.replace("l\u0307", "l").replace("j\u0307", "j"))


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


@lru_cache(maxsize=1)
def _skeletons() -> dict[int, str]:
    """The prototype of each character that looks like another.

    The file is read for the first name that is not ASCII, which takes some 2 ms. Importing
    this module reads nothing.
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


def _bad_room(message: str) -> CommandError:
    return CommandError(ErrorCode.BAD_ROOM, message)


def _bad_username(message: str) -> CommandError:
    return CommandError(ErrorCode.BAD_USERNAME, message)
