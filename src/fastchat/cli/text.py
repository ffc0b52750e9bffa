"""Text from other people, made safe for a terminal."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["escape_json", "safe"]

# C0 controls except tab, DEL, and C1 controls; invisible and bidirectional controls except the
# zero-width joiner, which emoji need; line separators; lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb]"
)


def safe(text: Any) -> str:
    """Escape the characters of a text that a terminal could interpret.

    Use it for text of other people. Raises TypeError if `text` is not a string.
    """
    if type(text) is not str:
        raise TypeError
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def escape_json(line: str) -> str:
    """Escape the same characters in a line of JSON, without changing its meaning.

    Unsafe characters occur only in JSON strings. All of them are in the basic plane, so an escape
    of four digits is enough.
    """
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line)
