"""The headers of every answer over HTTP, and those of the page."""

from __future__ import annotations

import email.utils
from collections.abc import Iterable

from fastchat.web.origins import ANY_ORIGIN, parse_origin

__all__ = ["SECURITY_HEADERS", "common_headers", "page_headers"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors "
)
#: The headers of every answer that does not set them itself.
SECURITY_HEADERS = [
    ("content-security-policy", _POLICY + "'none'"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
]


def common_headers() -> list[tuple[str, str]]:
    """The headers of an answer that is made now: the security headers, and the date.

    RFC 9110 §6.6.1: "An origin server with a clock MUST generate a Date header field in all 2xx
    (Successful), 3xx (Redirection), and 4xx (Client Error) responses".
    """
    return [*SECURITY_HEADERS, ("date", email.utils.formatdate(usegmt=True))]


def page_headers(frames: Iterable[str]) -> dict[str, str]:
    """The headers that let pages of these origins embed ours; `*` allows all, an empty list none.

    Raises ValueError for a text that is not an origin, and for an IPv6 address, which a policy
    cannot name (CSP Level 3 §2.3.1).
    """
    sources = [_source_of(text) for text in frames]
    if not sources:
        return {}
    return {
        "content-security-policy": f"{_POLICY}'self' {' '.join(sources)}",
        # A page that is isolated (COEP: require-corp) can embed only pages with both headers.
        "cross-origin-resource-policy": "cross-origin",
        "cross-origin-embedder-policy": "require-corp",
    }


def _source_of(text: str) -> str:
    if text == ANY_ORIGIN:
        return text
    origin = parse_origin(text)
    if origin is None or ":" in origin.host:
        raise ValueError("not an origin")
    port = "" if origin.port is None else f":{origin.port}"
    return f"{origin.scheme}://{origin.host}{port}"
