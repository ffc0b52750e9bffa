"""What every answer over HTTP tells a browser about safety, and what the page tells it besides."""

from __future__ import annotations

from collections.abc import Iterable

from fastchat.web.origins import ANY_ORIGIN, parse_origin

__all__ = ["SECURITY_HEADERS", "page_headers"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors "
)
#: Of all answers that say nothing else.
SECURITY_HEADERS = [
    ("content-security-policy", _POLICY + "'none'"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
]


def page_headers(frames: Iterable[str]) -> dict[str, str]:
    """What lets the pages of these origins show ours in a frame; `*` is for all, none for nobody.

    Raises ValueError for what cannot be said in a policy (CSP Level 3 §2.3.1): what is no origin,
    and an IPv6 address.
    """
    sources = [_source_of(text) for text in frames]
    if not sources:
        return {}
    return {
        "content-security-policy": f"{_POLICY}'self' {' '.join(sources)}",
        # A page that is isolated (COEP: require-corp) has in its frames only what says both.
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
