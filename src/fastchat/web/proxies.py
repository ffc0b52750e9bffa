"""The address that limits count a client by, also behind trusted proxies.

An IPv6 client is counted by its /64, because any customer of a provider has at least that many
addresses.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Sequence

__all__ = ["TrustedProxies", "parse_network"]

logger = logging.getLogger("fastchat.http")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Headers = Sequence[tuple[bytes, bytes]]

#: Headers that proxies add to a request, besides `X-Forwarded-For`.
_ADDED = {b"forwarded", b"via", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
_NO_ADDRESSES = (
    "a proxy at %s sends no X-Forwarded-For, so its clients share the limits of one address; have "
    "it send the header"
)
_ONE_ADDRESS = (
    "all connections come from %s: is that a proxy? Its clients share the limits of one address; "
    "have it send X-Forwarded-For"
)
_AND_TRUST = ", and add it to --trusted-proxy"
#: Connections from one address are many if they are a sixteenth of what its limit allows, and more
#: than the tabs of a person.
SHARE, MIN_MANY = 16, 8
#: Longer entries of `X-Forwarded-For` are not parsed. An IPv6 address in brackets and with a port
#: has at most 47 characters.
MAX_HOP_CHARS = 64


def parse_network(text: str) -> Network:
    """Parse an address, or a range in CIDR notation. Raises ValueError."""
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    # `_parse` turns mapped addresses into IPv4 addresses, so a mapped network needs the same.
    return network if mapped is None else ipaddress.ip_network((mapped, network.prefixlen - 96))


class TrustedProxies:
    """The proxies in front of the server whose `X-Forwarded-For` is used.

    `trusted` are their addresses, or ranges of these. The limits allow `max_address_connections`
    from one address; 0 means no limit, and then no warning about hidden addresses. Raises
    ValueError for a text that is neither an address nor a range.
    """

    def __init__(self, trusted: Iterable[str], *, max_address_connections: int = 0) -> None:
        self._trusted = [parse_network(text) for text in trusted]
        self._has_warned = False
        self._many = max(MIN_MANY, max_address_connections // SHARE)
        self._is_watching = max_address_connections > 0
        self._first: _Address | None = None  # the address of the first handshake
        self._is_alone = True  # whether all handshakes have come from it

    def client_of(self, peer: str | None, forwarded: Sequence[bytes]) -> str:
        """The address that limits count a client by; empty if its socket has none.

        `forwarded` are the values of `X-Forwarded-For`. Each proxy appends the address that
        connected to it, so the client is the last hop that is not one of our proxies. The hops
        before that one are ignored, because the client can invent them.
        """
        address = None if peer is None else _parse(peer)
        if address is None:
            return ""
        if forwarded and not self._trusts(address):
            self._warn(address)
        elif forwarded:
            hops = b",".join(forwarded).decode("latin-1").split(",")
            while hops and self._trusts(address):
                hop = _parse_hop(hops.pop())
                if hop is None:
                    break
                address = hop
        return _key(address)

    def visitor(self, peer: str | None) -> str:
        """The address of a connection before its first request; empty for a trusted proxy.

        A proxy's connections belong to many clients, so its address is not limited.
        """
        address = None if peer is None else _parse(peer)
        return "" if address is None or self._trusts(address) else _key(address)

    def watch(
        self, peer: str | None, headers: Headers, *, encrypted: bool, connections: int
    ) -> None:
        """Warn once if an accepted handshake shows that a proxy hides the addresses of its clients.

        They share the limits of one address then. Either the handshake has come through a proxy of
        this network without `X-Forwarded-For`, or all handshakes come from one address of this
        network, and there are many `connections`. `headers` have names in lower case.
        """
        address = None if peer is None else _parse(peer)
        if not self._is_watching or address is None:
            return
        if address.is_global or any(name == b"x-forwarded-for" for name, _ in headers):
            self._is_watching = False  # clients have addresses of their own
            return
        self._first = self._first or address
        self._is_alone = self._is_alone and address == self._first
        if _came_through_proxy(address, headers, encrypted=encrypted):
            text = _NO_ADDRESSES
        elif self._is_alone and connections >= self._many:
            text = _ONE_ADDRESS
        else:
            return
        self._is_watching = False
        logger.warning(text if self._trusts(address) else text + _AND_TRUST, address)

    def _warn(self, address: _Address) -> None:
        """Warn once: clients behind a proxy that is not trusted share its address and limits."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "ignored X-Forwarded-For from %s; if this is your proxy, add it to --trusted-proxy",
                address,
            )

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])  # without a zone
    except ValueError:
        return None
    # A socket for IPv4 and IPv6 shows an IPv4 address as ::ffff:192.0.2.1.
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _parse_hop(text: str) -> _Address | None:
    """Parse an address as proxies write it; some append a port, and put IPv6 in brackets."""
    text = text.strip()
    if len(text) > MAX_HOP_CHARS:
        return None
    if text.startswith("["):
        return _parse(text[1:].partition("]")[0])
    if text.count(":") == 1:
        text = text.partition(":")[0]
    return _parse(text)


def _came_through_proxy(address: _Address, headers: Headers, *, encrypted: bool) -> bool:
    for name, value in headers:
        # A page of https has opened a connection that is not encrypted here.
        is_decrypted = name == b"origin" and value.lower().startswith(b"https:") and not encrypted
        if name in _ADDED or is_decrypted:
            return True
        # A client of this machine that names it as other machines do.
        if name == b"host" and address.is_loopback and _is_domain(value):
            return True
    return False


def _is_domain(host: bytes) -> bool:
    """Whether a `Host` names a domain, and neither an address nor a name of this network."""
    name = host.partition(b":")[0].rstrip(b".").lower()
    _, dot, last = name.rpartition(b".")
    return bool(dot) and not last.isdigit() and last != b"localhost"


def _key(address: _Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)
