"""The publications of a reply, encoded and truncated to the largest size of a reply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastchat.history import Page
from fastchat.protocol import MAX_REPLY_BYTES, Publication, encode
from fastchat.rooms import Messages

__all__ = ["oldest_of", "page_of", "truncated"]


def truncated(publications: Iterable[Publication], *, newest_first: bool) -> Messages:
    """Encode publications, and keep as many as fit into a reply (`MAX_REPLY_BYTES`).

    With `newest_first`, the newest ones are kept, otherwise the oldest ones. They stay in their
    order. `more` says whether some were left out.
    """
    payloads = [encode(each) for each in publications]
    size = 0
    for count, payload in enumerate(reversed(payloads) if newest_first else payloads):
        size += len(payload)
        if size > MAX_REPLY_BYTES:
            kept = payloads[len(payloads) - count :] if newest_first else payloads[:count]
            return Messages(kept, True)
    return Messages(payloads, False)


def oldest_of(publications: Sequence[Publication]) -> Sequence[bytes]:
    """Encode the oldest publications, as many as fit into a reply, and at least one."""
    payloads = truncated(publications, newest_first=False).payloads
    return payloads or list(map(encode, publications[:1]))


def page_of(page: Page, *, newest_first: bool) -> Messages:
    """A page of the history, encoded and truncated.

    `more` says whether the history or the page has further messages.
    """
    payloads, more = truncated(page.publications, newest_first=newest_first)
    return Messages(payloads, more or page.more)
