"""Replies: a text that begins with a quote of another message, as on the chat's page.

docs/protocol.md knows no replies. A reply is an ordinary text, whose first lines are the quote:

    > @Alice #42
    > What Alice wrote.

    The answer.
"""

from __future__ import annotations

import re

__all__ = ["mentions", "quote_of", "without_quote"]

#: How much of a message its quote has, as on the page.
QUOTED_LINES = 3
QUOTED_CHARS = 240

_QUOTE = re.compile(r"^>(?: |$)")
_REPLY = re.compile(r"> @(?P<name>.+) #\d{1,15}\n(?:>.*(?:\n|$))*\n*")
_LINK = re.compile(r"(?<!\S)/files/[a-z2-7]{32}/([^\s/?#]+)\?\S*")


def quote_of(username: str, offset: int, text: str) -> str:
    """The lines with which a reply to a message begins."""
    lines = [line for line in text.split("\n") if line.strip() and not _QUOTE.match(line)]
    quoted = _LINK.sub(r"\1", "\n".join(lines[:QUOTED_LINES]))
    is_cut = len(quoted) > QUOTED_CHARS or len(lines) > QUOTED_LINES
    quoted = quoted[:QUOTED_CHARS].rstrip() + ("…" if is_cut else "")
    whole = f"@{username} #{offset}\n{quoted}"
    return "".join(f"> {line}\n" for line in whole.split("\n")) + "\n"


def without_quote(text: str) -> str:
    """A text without the quote of a reply."""
    found = _REPLY.match(text)
    return text[found.end() :] if found else text


def mentions(text: str, username: str) -> bool:
    """Whether a text has `@username` outside of quotes, or is a reply to that name."""
    answered = _REPLY.match(text)
    if answered and answered["name"].casefold() == username.casefold():
        return True
    own = "\n".join(line for line in text.split("\n") if not _QUOTE.match(line))
    name = re.escape(username.casefold())
    return re.search(rf"(?<![\w@/])@{name}(?!\w)", own.casefold()) is not None
