"""Whose connection it is: the address of a client, also behind proxies that are trusted.

Limits count an IPv6 client by its /64, which is what a subscriber has at least.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Sequence

__all__ = ["Proxies", "parse_network"]

logger = logging.getLogger("fastchat.http")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Of an address in `X-Forwarded-For`, with a port and brackets.
MAX_HOP_CHARS = 64


def parse_network(text: str) -> Network:
    """An address, or a range in CIDR notation; raises ValueError."""
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    # Addresses that are so written are compared as IPv4: see `_parse`.
    return network if mapped is None else ipaddress.ip_network((mapped, network.prefixlen - 96))


class Proxies:
    """The proxies in front of the server that tell the truth in `X-Forwarded-For`.

    Raises ValueError for what is neither an address nor a range.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = [parse_network(text) for text in trusted]
        self._has_warned = False

    def client_of(self, peer: str | None, forwarded: Sequence[bytes]) -> str:
        """What limits know a client by; empty if his socket has no address.

        `forwarded` are the values of `X-Forwarded-For`. Each proxy appends whom it has it
        from: so it is the last hop that is no proxy of ours. What is behind that anybody
        may have written, and nobody looks at.
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
        """Whose connection it is before he has said anything; empty if a proxy brings many."""
        address = None if peer is None else _parse(peer)
        return "" if address is None or self._trusts(address) else _key(address)

    def _warn(self, address: _Address) -> None:
        """Once: behind a proxy that is not named all clients share its address, and its limits."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "X-Forwarded-For of %s is not believed; a proxy of yours needs --trusted-proxy",
                address,
            )

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])  # without a zone
    except ValueError:
        return None
    # What comes by IPv4 to a socket of both is written so.
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _parse_hop(text: str) -> _Address | None:
    """An address as proxies write it: some with a port, IPv6 then in brackets."""
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
