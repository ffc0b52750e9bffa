"""Which hosts are private: those that only this machine, or its network, can reach."""

from __future__ import annotations

import ipaddress

__all__ = ["is_address", "is_private_name", "is_public"]

#: Names for private networks: RFC 6761 and 6762, ICANN's `internal`, RFC 8375, and `lan`, which
#: routers use.
_PRIVATE_NAMES = ("localhost", "local", "internal", "home.arpa", "lan")
#: Prefixes of IPv6 whose addresses contain one of IPv4 (RFC 6052 §2.1, RFC 8215).
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


def is_address(host: str) -> bool:
    """Whether a host is written as an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_private_name(host: str) -> bool:
    """Whether a host has a name that no public host can have."""
    name = host.rstrip(".").lower()
    if is_address(host):
        return False
    return "." not in name or name.endswith(tuple(f".{each}" for each in _PRIVATE_NAMES))


def is_public(host: str) -> bool:
    """Whether an address belongs to one host of the internet.

    An address of IPv6 that stands for one of IPv4 is judged by that one.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is None and any(address in network for network in _NAT64):
            embedded = ipaddress.IPv4Address(address.packed[-4:])
        if embedded is not None:
            address = embedded
        elif address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast
