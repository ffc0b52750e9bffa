"""Text from other people, made safe for a terminal."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["escape_json", "safe"]

# C0 except tab, DEL, C1; invisible and bidirectional controls except the joiner of emoji; line
# separators; lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb]"
)


def safe(text: Any) -> str:
    """A text of another person, in which characters that a terminal might obey are escaped."""
    if type(text) is not str:
        raise TypeError
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def escape_json(line: str) -> str:
    """A line of JSON with the same meaning, in which the same characters are JSON escapes.

    Unsafe characters occur in JSON strings only, and all of them are in the basic plane.
    """
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line)
