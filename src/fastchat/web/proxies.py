"""The address that limits count a client by, also behind trusted proxies.

An IPv6 client is counted by its /64, because any customer of a provider has at least that many
addresses.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Sequence

__all__ = ["Proxies", "parse_network"]

logger = logging.getLogger("fastchat.http")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Longer entries of `X-Forwarded-For` are not parsed. An IPv6 address in brackets and with a port
#: has at most 47 characters.
MAX_HOP_CHARS = 64


def parse_network(text: str) -> Network:
    """Parse an address, or a range in CIDR notation. Raises ValueError."""
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    # `_parse` turns mapped addresses into IPv4 addresses, so a mapped network needs the same.
    return network if mapped is None else ipaddress.ip_network((mapped, network.prefixlen - 96))


class Proxies:
    """The trusted proxies in front of the server, whose `X-Forwarded-For` is believed.

    Raises ValueError for a text that is neither an address nor a range.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = [parse_network(text) for text in trusted]
        self._has_warned = False

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


def _key(address: _Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)
