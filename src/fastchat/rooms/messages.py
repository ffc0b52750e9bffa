"""Messages that fit into a reply."""

from __future__ import annotations

from collections.abc import Iterable

from fastchat.history import Page
from fastchat.protocol import MAX_REPLY_BYTES, Publication, encode
from fastchat.rooms import Messages

__all__ = ["fitting", "page_of"]


def fitting(publications: Iterable[Publication], *, newest_first: bool) -> Messages:
    """As many publications as fit, beginning with the newest or the oldest; `more` if not all.

    They stay in their order either way.
    """
    payloads = [encode(each) for each in publications]
    size = 0
    for count, payload in enumerate(reversed(payloads) if newest_first else payloads):
        size += len(payload)
        if size > MAX_REPLY_BYTES:
            kept = payloads[len(payloads) - count :] if newest_first else payloads[:count]
            return Messages(kept, True)
    return Messages(payloads, False)


def page_of(page: Page, *, newest_first: bool) -> Messages:
    """As much of a page of the history as fits."""
    payloads, more = fitting(page.publications, newest_first=newest_first)
    return Messages(payloads, more or page.more)
