"""The target of a request, and its host (RFC 9112 §3.2, RFC 3986 §3.2.2).

A client names a resource by its path (origin-form) and puts the host into `Host`. A client that
takes the server for a proxy sends the whole address instead (absolute-form). "A server MUST accept
the absolute-form in requests even though most HTTP/1.1 clients will only send the absolute-form in
requests to proxies" (RFC 9112 §3.2.2). `parse_target` turns both forms into a path and a host, so
the server's other code has to know only paths.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Target", "is_host", "parse_target"]

#: RFC 3986 §3.2.2 and §3.2.3. An address in brackets is not parsed: programs send addresses with a
#: zone, which the RFC's grammar does not have.
_NAME = rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"
_ADDRESS = rb"\[[A-Za-z0-9:._~%-]+\]"
_PORT = rb"(?::[0-9]*)?"
_HOST = re.compile(rb"(?:%b*|%b)%b" % (_NAME, _ADDRESS, _PORT))
#: RFC 9110 §4.2: an address without a host is invalid, and so is one with a user's name or password
#: ("a recipient SHOULD parse for userinfo and treat its presence as an error").
_ABSOLUTE = re.compile(
    rb"https?://((?:%b+|%b)%b)(/[^?#]*)?([?#].*)?" % (_NAME, _ADDRESS, _PORT),
    re.IGNORECASE | re.DOTALL,
)


class Target(NamedTuple):
    """The path and query of a request's target, and its host if the target names one."""

    path: bytes
    host: bytes | None = None


def parse_target(method: bytes, target: bytes) -> Target | None:
    """Parse the target of a request; None if the server does not accept its form.

    The path of a `Target` begins with a slash. `OPTIONS *`, which asks about the whole server, is
    parsed as `OPTIONS /`: the answer is the same.
    """
    if target.startswith(b"/"):
        return Target(target)
    # RFC 9112 §3.2.4: "The "asterisk-form" of request-target is only used for a server-wide OPTIONS
    # request".
    if target == b"*":
        return Target(b"/") if method == b"OPTIONS" else None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return None
    host, path, rest = absolute.groups()
    # RFC 9112 §3.2.1: "If the target URI's path component is empty, the client MUST send "/" as the
    # path within the origin-form of request-target."
    return Target((path or b"/") + (rest or b""), host)


def is_host(value: bytes) -> bool:
    """Whether `Host` can have this value. The value can be empty, for a target without a host."""
    return _HOST.fullmatch(value) is not None
