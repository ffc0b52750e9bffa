"""Whose connection it is, with and without proxies, and whatever is said of it."""

from __future__ import annotations

import logging

import pytest

from fastchat.web.proxies import TrustedProxies, parse_network


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
    assert TrustedProxies([]).client_of(peer, [b"198.51.100.7"]) == key
    assert TrustedProxies(["10.0.0.0/8"]).client_of(peer, [b"198.51.100.7"]) == key


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
    assert TrustedProxies(["10.0.0.0/8", "192.0.2.80"]).client_of("10.0.0.1", forwarded) == key
    assert TrustedProxies(["192.0.2.80"]).client_of("10.0.0.1", forwarded) == "10.0.0.1"


def test_proxies_may_be_trusted_by_ipv6_too() -> None:
    assert TrustedProxies(["::1"]).client_of("::1", [b"198.51.100.7"]) == "198.51.100.7"
    assert (
        TrustedProxies(["127.0.0.1"]).client_of("::ffff:127.0.0.1", [b"198.51.100.7"])
        == "198.51.100.7"
    )


@pytest.mark.parametrize("text", ["", "proxy", "10.0.0.0/33", "10.0.0.1/8", "1.2.3"])
def test_what_is_no_address_is_no_proxy(text: str) -> None:
    """A range with bits beyond its length is a slip of the hand, and not guessed at."""
    with pytest.raises(ValueError, match=r".+"):
        parse_network(text)


def test_proxy_that_is_not_named_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Or its clients would run into the limits of one address, and nobody would know why."""
    proxies = TrustedProxies(["10.0.0.0/8"])
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
    proxies = TrustedProxies(["::ffff:10.0.0.0/104"])
    assert proxies.client_of(peer, [b"198.51.100.7"]) == "198.51.100.7"


def test_visitor_is_known_before_he_says_anything() -> None:
    """A proxy is not: it brings many."""
    proxies = TrustedProxies(["10.0.0.0/8"])
    visitors = [proxies.visitor(peer) for peer in ("192.0.2.1", "2001:db8::5", "10.0.0.1", None)]
    assert visitors == ["192.0.2.1", "2001:db8::/64", "", ""]


NO_ADDRESSES = (
    "a proxy at {} sends no X-Forwarded-For, so its clients share the limits of one address; have "
    "it send the header, and add it to --trusted-proxy"
)
ONE_ADDRESS = (
    "all connections come from {}: is that a proxy? Its clients share the limits of one address; "
    "have it send X-Forwarded-For, and add it to --trusted-proxy"
)
LOCAL = ((b"host", b"localhost:8080"), (b"origin", b"http://localhost:8080"))


def watched(
    proxies: TrustedProxies,
    peer: str | None,
    *headers: tuple[bytes, bytes],
    encrypted: bool = False,
    connections: int = 1,
) -> None:
    proxies.watch(peer, headers or LOCAL, encrypted=encrypted, connections=connections)


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "fe80::1%x"])
def test_many_connections_of_one_local_address_are_noted_once(
    peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They can be a proxy's, whose clients would run into the limit of one address together."""
    proxies = TrustedProxies([], max_address_connections=256)
    for connections in range(1, 16):
        watched(proxies, peer, connections=connections)
    assert not caplog.messages
    for connections in (16, 17, 256):
        watched(proxies, peer, connections=connections)
    address = peer.removeprefix("::ffff:").partition("%")[0]
    assert caplog.messages == [ONE_ADDRESS.format(address)]


@pytest.mark.parametrize(
    ("first", "second"),
    [("127.0.0.1", "10.0.0.1"), ("10.0.0.2", "10.0.0.1"), ("198.51.100.7", "8.8.8.8")],
)
def test_connections_of_several_addresses_are_not_noted(
    first: str, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If clients have addresses of their own, none of them need be a proxy."""
    proxies = TrustedProxies([], max_address_connections=256)
    watched(proxies, first)
    for _ in range(3):
        watched(proxies, second, connections=100)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("127.0.0.1", ((b"x-real-ip", b"198.51.100.7"),)),
        ("10.0.0.1", ((b"via", b"1.1 proxy"),)),
        ("10.0.0.1", ((b"forwarded", b"for=198.51.100.7"),)),
        ("10.0.0.1", ((b"x-forwarded-proto", b"https"),)),
        ("10.0.0.1", ((b"origin", b"https://chat.example"),)),
        ("127.0.0.1", ((b"host", b"chat.example"),)),
        ("::1", ((b"host", b"Chat.Example.:8080"),)),
    ],
)
def test_proxy_that_names_no_clients_is_noted_at_once(
    peer: str, headers: tuple[tuple[bytes, bytes], ...], caplog: pytest.LogCaptureFixture
) -> None:
    """A header of proxies, a page of https on a plain connection, or a domain on loopback shows
    that there is a proxy."""
    proxies = TrustedProxies(["10.0.0.9"], max_address_connections=256)
    for _ in range(2):
        watched(proxies, peer, *headers, connections=100)
    assert caplog.messages == [NO_ADDRESSES.format(peer)]


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("127.0.0.1", ((b"host", b"127.0.0.1:8080"),)),
        ("127.0.0.1", ((b"host", b"[::1]:8080"),)),
        ("127.0.0.1", ((b"host", b"chat.localhost:8080"),)),
        ("127.0.0.1", ((b"host", b"machine:8080"),)),
        ("127.0.0.1", ((b"host", b""),)),
        ("10.0.0.1", ((b"host", b"chat.example"),)),
        ("8.8.8.8", ((b"via", b"1.1 proxy"),)),
        (None, ((b"via", b"1.1 proxy"),)),
    ],
)
def test_direct_client_is_not_noted(
    peer: str | None, headers: tuple[tuple[bytes, bytes], ...], caplog: pytest.LogCaptureFixture
) -> None:
    """A browser on this machine, on the local network or behind a proxy of its own is no sign."""
    watched(TrustedProxies([], max_address_connections=256), peer, *headers)
    assert not caplog.messages


def test_encrypted_page_is_no_sign_of_a_proxy(caplog: pytest.LogCaptureFixture) -> None:
    """Where the server itself ends TLS, every page is one of https."""
    page = (b"origin", b"https://chat.example")
    watched(TrustedProxies([], max_address_connections=256), "10.0.0.1", page, encrypted=True)
    assert not caplog.messages


def test_trusted_proxy_is_told_only_to_name_its_clients(caplog: pytest.LogCaptureFixture) -> None:
    """A proxy that is trusted need not be added again, and one that names its clients is fine."""
    forwarded = (b"x-forwarded-for", b"198.51.100.7")
    proxies = TrustedProxies(["127.0.0.1"], max_address_connections=256)
    watched(proxies, "127.0.0.1", forwarded, (b"via", b"x"), connections=100)
    assert not caplog.messages
    proxies = TrustedProxies(["127.0.0.1"], max_address_connections=256)
    watched(proxies, "127.0.0.1", (b"x-real-ip", b"198.51.100.7"))
    assert caplog.messages == [
        NO_ADDRESSES.format("127.0.0.1").removesuffix(", and add it to --trusted-proxy")
    ]


def test_nothing_is_noted_without_limits(caplog: pytest.LogCaptureFixture) -> None:
    """Where no limit counts addresses, it does not matter whose they are."""
    watched(TrustedProxies([]), "127.0.0.1", (b"via", b"1.1 proxy"), connections=1000)
    assert not caplog.messages
