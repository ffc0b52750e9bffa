"""Which hosts are private."""

from __future__ import annotations

import pytest

from fastchat.webhooks.addresses import is_private_name, is_public


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "255.255.255.255", "224.0.0.1", "239.1.1.1", "192.0.2.1", "198.18.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1"),
        *("2002:7f00:1::", "2001:0:1::1"),
    ],
)
def test_private_address_is_not_public(address: str) -> None:
    """This holds for addresses of IPv6 that stand for one of IPv4, too."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_other_addresses_are_public(address: str) -> None:
    """Hosts of the internet can be called."""
    assert is_public(address)


@pytest.mark.parametrize(
    ("name", "is_private"),
    [
        *[(name, True) for name in ("localhost", "shop", "shop.internal", "SHOP.Local.", "a.lan")],
        *[(name, False) for name in ("shop.example", "localhost.example", "127.0.0.1", "::1")],
    ],
)
def test_name_without_a_domain_is_private(name: str, is_private: bool) -> None:
    """So is a name below a domain for private networks."""
    assert is_private_name(name) == is_private
