"""Addresses of servers and of their pages."""

from __future__ import annotations

import pytest

from fastchat_client.address import api_url, http_origin, websocket_url


@pytest.mark.parametrize(
    ("address", "url", "origin", "api"),
    [
        ("ws://host:8080", "ws://host:8080/ws", "http://host:8080", "/api/v1"),
        ("https://host/#lobby", "wss://host/ws", "https://host", "/api/v1"),
        ("https://host/chat/", "wss://host/chat/ws", "https://host", "/chat/api/v1"),
        (
            "wss://[::1]:1/chat/socket",
            "wss://[::1]:1/chat/socket",
            "https://[::1]:1",
            "/chat/api/v1",
        ),
    ],
)
def test_address_gives_the_urls_of_a_server(address: str, url: str, origin: str, api: str) -> None:
    """An address of a page, or of a WebSocket, is enough."""
    assert api_url(address) == origin + api
    assert websocket_url(address) == url
    assert http_origin(url) == origin


@pytest.mark.parametrize("address", ["", "host", "ftp://host", "ws://host/?a=b", "ws://a@host"])
def test_invalid_address_is_a_value_error(address: str) -> None:
    """An address can name no user and no query."""
    with pytest.raises(ValueError, match="address"):
        websocket_url(address)
