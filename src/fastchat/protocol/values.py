"""Rules for the values in a command except names: texts, ids, epochs and emoji.

Each check returns the value as it is stored, or raises CommandError with a sentence that says
what is wrong with it. The import of a history uses the same checks.

Source: docs/protocol.md, "Names and sizes".
"""

from __future__ import annotations

import re

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol.characters import CharacterKind, kind_of

__all__ = [
    "MAX_EMOJI_CHARS",
    "MAX_OFFSET",
    "MAX_TEXT_CHARS",
    "MAX_TOKEN_BYTES",
    "check_emoji",
    "check_epoch",
    "check_id",
    "check_text",
]

MAX_TEXT_CHARS = 4000
#: The length of an `id`, a `ref`, a `session` or an epoch in UTF-8.
MAX_TOKEN_BYTES = 64
#: Code points of an emoji: a family of five has 9, the flag of a region 7.
MAX_EMOJI_CHARS = 16
#: The largest integer that JavaScript counts exactly.
MAX_OFFSET = 2**53 - 1

# C0 except tab and line feed, DEL, and C1. They are invisible, and can disturb terminals and logs.
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])

# Parts of an emoji that are invisible alone (the joiner, the variation selector, the tags in the
# flags of regions), and the character in a keycap.
_EMOJI_PARTS = re.compile("[\u200d\ufe0f\U000e0020-\U000e007f]|[0-9#*](?=\ufe0f?\u20e3)")
# Most emoji are symbols, \u203c is a sign, and the keycap encloses a digit.
_EMOJI_KINDS = (CharacterKind.SYMBOL, CharacterKind.SIGN, CharacterKind.ENCLOSING)
# These two emoji are a letter and a dash.
_EMOJI_LETTERS = frozenset("\u2139\u3030")


def check_text(text: object) -> str:
    """Return a message's text without control characters and without spaces at its end.

    Raises CommandError: `too_long` for more than MAX_TEXT_CHARS characters, otherwise
    `bad_command`.
    """
    if type(text) is not str:
        raise _bad_command("`text` must be a string.")
    text = text.rstrip()
    if not text.isprintable():
        text = text.replace("\r\n", "\n").translate(_CONTROLS).rstrip()
    if not text:
        raise _bad_command("A message must have at least one character.")
    if len(text) > MAX_TEXT_CHARS:
        raise CommandError(
            ErrorCode.TOO_LONG,
            f"The message has {len(text):,} characters; at most {MAX_TEXT_CHARS:,} are allowed.",
        )
    return text


def check_id(id: object, field: str = "id") -> str:
    """Return a message's `id`, or the value of another `field` with the same rule, unchanged."""
    if type(id) is str and id and len(id.encode()) <= MAX_TOKEN_BYTES:
        return id
    raise _bad_command(f"`{field}` must be a string of 1 to {MAX_TOKEN_BYTES} bytes.")


def check_epoch(epoch: object) -> str:
    """Return the epoch of a room's history unchanged."""
    return check_id(epoch, "epoch")


def check_emoji(emoji: object) -> str:
    """Return the emoji of a reaction unchanged.

    The check is rough, because Unicode adds emoji each year: an emoji consists of symbols and
    the characters that join them, and at least one is visible. Emoji that do not exist yet are
    accepted too. Letters, spaces and control characters are refused.
    """
    if type(emoji) is str and 1 <= len(emoji) <= MAX_EMOJI_CHARS:
        symbols = _EMOJI_PARTS.sub("", emoji)
        if symbols and all(map(_is_symbol, symbols)):
            return emoji
    raise _bad_command(f"`emoji` must be an emoji of at most {MAX_EMOJI_CHARS} characters.")


def _is_symbol(char: str) -> bool:
    return char in _EMOJI_LETTERS or (not char.isascii() and kind_of(char) in _EMOJI_KINDS)


def _bad_command(message: str) -> CommandError:
    return CommandError(ErrorCode.BAD_COMMAND, message)
