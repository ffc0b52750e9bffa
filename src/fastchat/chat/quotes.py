"""The quote with which a reply to a message begins. The page makes the same (`text/markup.js`)."""

from __future__ import annotations

import re

__all__ = ["quote_of"]

#: A quote has at most so many lines of the message, and so many characters.
MAX_LINES, MAX_CHARS = 3, 240
_QUOTED = re.compile(r">(?: |$)")
_FILE = re.compile(r"/files/[a-z2-7]{32}/(\S+)")


def quote_of(username: str, offset: int, text: str) -> str:
    """The quote of a message, without the quotes in the message itself."""
    lines = [line for line in text.split("\n") if line.strip() and not _QUOTED.match(line)]
    quoted = _FILE.sub(r"\1", "\n".join(lines[:MAX_LINES]))
    is_cut = len(quoted) > MAX_CHARS or len(lines) > MAX_LINES
    quoted = quoted[:MAX_CHARS].rstrip() + ("…" if is_cut else "")
    whole = f"@{username} #{offset}\n{quoted}"
    return "\n".join(f"> {line}" for line in whole.split("\n")) + "\n\n"
