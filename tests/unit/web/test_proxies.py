"""Whose connection it is, with and without proxies, and whatever is said of it."""

from __future__ import annotations

import logging

import pytest

from fastchat.web.proxies import Proxies, parse_network


@pytest.mark.parametrize(
    ("peer", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, ""),
        ("nonsense", ""),
    ],
)
def test_client_is_known_by_his_address(peer: str | None, key: str) -> None:
    """By a /64 if it is IPv6; who has none is not known, whatever he says."""
    assert Proxies([]).client_of(peer, [b"198.51.100.7"]) == key
    assert Proxies(["10.0.0.0/8"]).client_of(peer, [b"198.51.100.7"]) == key


@pytest.mark.parametrize(
    ("forwarded", "key"),
    [
        ([], "10.0.0.1"),
        ([b"198.51.100.7"], "198.51.100.7"),
        ([b" 198.51.100.7 "], "198.51.100.7"),
        # What the client has written himself stands to the left of what he is.
        ([b"203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ([b"203.0.113.9", b"198.51.100.7"], "198.51.100.7"),
        ([b"10.0.0.9, 198.51.100.7"], "198.51.100.7"),
        # Two proxies of ours, one behind the other.
        ([b"203.0.113.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ([b"203.0.113.9, 198.51.100.7", b"10.0.0.2,10.0.0.3"], "198.51.100.7"),
        # A client inside.
        ([b"10.0.0.5, 10.0.0.2"], "10.0.0.5"),
        # As some write it.
        ([b"198.51.100.7:4711"], "198.51.100.7"),
        ([b"[2001:db8::1]:4711"], "2001:db8::/64"),
        ([b"[2001:db8::1]"], "2001:db8::/64"),
        ([b"2001:db8::1"], "2001:db8::/64"),
        # What is no address ends the search at the proxy that said so.
        ([b"198.51.100.7, unknown"], "10.0.0.1"),
        ([b"198.51.100.7, "], "10.0.0.1"),
        ([b"198.51.100.7, _hidden, 10.0.0.2"], "10.0.0.2"),
        ([b""], "10.0.0.1"),
        ([b"198.51.100.7, " + b"1" * 100_000], "10.0.0.1"),
        ([b"\xff\x00"], "10.0.0.1"),
        ([b"198.51.100.7," * 5000 + b"198.51.100.8"], "198.51.100.8"),
    ],
)
def test_last_hop_that_is_no_proxy_of_ours_is_the_client(forwarded: list[bytes], key: str) -> None:
    """Each proxy appends whom it has it from; of the rest nobody knows who wrote it."""
    assert Proxies(["10.0.0.0/8", "192.0.2.80"]).client_of("10.0.0.1", forwarded) == key
    assert Proxies(["192.0.2.80"]).client_of("10.0.0.1", forwarded) == "10.0.0.1"


def test_proxies_may_be_trusted_by_ipv6_too() -> None:
    assert Proxies(["::1"]).client_of("::1", [b"198.51.100.7"]) == "198.51.100.7"
    assert Proxies(["127.0.0.1"]).client_of("::ffff:127.0.0.1", [b"198.51.100.7"]) == "198.51.100.7"


@pytest.mark.parametrize("text", ["", "proxy", "10.0.0.0/33", "10.0.0.1/8", "1.2.3"])
def test_what_is_no_address_is_no_proxy(text: str) -> None:
    """A range with bits beyond its length is a slip of the hand, and not guessed at."""
    with pytest.raises(ValueError, match=r".+"):
        parse_network(text)


def test_proxy_that_is_not_named_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Or its clients would run into the limits of one address, and nobody would know why."""
    proxies = Proxies(["10.0.0.0/8"])
    with caplog.at_level(logging.WARNING):
        proxies.client_of("10.0.0.1", [b"198.51.100.7"])
        proxies.client_of("192.0.2.1", [])
        assert not caplog.messages
        for _ in range(3):
            assert proxies.client_of("192.0.2.1", [b"198.51.100.7"]) == "192.0.2.1"
    assert caplog.messages == [
        "ignored X-Forwarded-For from 192.0.2.1; if this is your proxy, add it to --trusted-proxy"
    ]


@pytest.mark.parametrize("peer", ["10.0.0.1", "::ffff:10.0.0.1"])
def test_proxy_may_be_written_as_ipv4_in_ipv6(peer: str) -> None:
    """As a socket of both shows it."""
    proxies = Proxies(["::ffff:10.0.0.0/104"])
    assert proxies.client_of(peer, [b"198.51.100.7"]) == "198.51.100.7"


def test_visitor_is_known_before_he_says_anything() -> None:
    """A proxy is not: it brings many."""
    proxies = Proxies(["10.0.0.0/8"])
    visitors = [proxies.visitor(peer) for peer in ("192.0.2.1", "2001:db8::5", "10.0.0.1", None)]
    assert visitors == ["192.0.2.1", "2001:db8::/64", "", ""]
