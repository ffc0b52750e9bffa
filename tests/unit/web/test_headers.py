"""What a browser is told about safety, and who may show the page in a frame."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastchat.errors import SettingError
from fastchat.settings import Settings, load_settings
from fastchat.web.headers import SECURITY_HEADERS, page_headers


def test_nobody_frames_unless_he_is_named() -> None:
    """Without an origin the page has what everything has."""
    assert page_headers(()) == {}
    assert dict(SECURITY_HEADERS)["content-security-policy"].endswith("frame-ancestors 'none'")


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ("https://www.example", "https://www.example:443"),
        ("HTTPS://WWW.Example:8443", "https://www.example:8443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("*", "*"),
    ],
)
def test_origin_becomes_a_source(origin: str, source: str) -> None:
    """As a policy writes it; nothing else of the policy changes."""
    policy = page_headers([origin])["content-security-policy"]
    everywhere = dict(SECURITY_HEADERS)["content-security-policy"]
    assert policy.removesuffix(f" 'self' {source}") == everywhere.removesuffix(" 'none'")


@pytest.mark.parametrize(
    "wrong",
    [
        "www.example",
        "https://www.example/",
        "https://*.example",
        "https://a.example; script-src *",
        "https://a.example b.example",
        "'self'",
        "null",
        "http://[::1]:3000",
        "",
    ],
)
def test_wrong_origin_is_named(wrong: str) -> None:
    """One sentence with the setting and what it wants; nothing else gets into a policy."""
    with pytest.raises(SettingError, match="--allow-frame must be"):
        Settings(allow_frame=("https://b.example", wrong))


def test_origins_come_from_every_source(tmp_path: Path) -> None:
    """A flag again and again, commas in the environment, a list in the file."""
    both = ("https://a.example", "http://b.example:81")
    assert load_settings({"allow_frame": list(both)}, {}, None).allow_frame == both
    variables = {"FASTCHAT_ALLOW_FRAME": " https://a.example, http://b.example:81,"}
    assert load_settings({}, variables, None).allow_frame == both
    file = tmp_path / "fastchat.toml"
    file.write_text("allow-frame = ['https://a.example', 'http://b.example:81']", "utf-8")
    assert load_settings({}, {}, file).allow_frame == both
