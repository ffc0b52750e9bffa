"""Errors and close codes: the server's table and that of the client are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastchat.errors import (
    CloseCode,
    CloseReason,
    CommandError,
    ErrorCode,
    FastchatError,
    SettingError,
    Violation,
)

CLIENT = Path(__file__).parents[2] / "static" / "client.js"
WORDS = CLIENT.parent / "lang" / "en.js"
ENTRY = re.compile(r'^ *(\d+): "(\w+)",$', re.MULTILINE)
FINAL = re.compile(r"^const FINAL = \[([\d, ]+)\];$", re.MULTILINE)


def test_close_codes_of_client_and_server_are_one_table() -> None:
    """Each code has one name, one answer to whether to reconnect, and a sentence on the page."""
    source = CLIENT.read_text("utf-8")
    entries = ENTRY.findall(source)
    client = {int(code): name for code, name in entries}
    assert len(entries) == len(client)
    assert client == {code.value: code.name.lower() for code in CloseCode}
    found = FINAL.search(source)
    assert found is not None
    final = [int(code) for code in found[1].split(",")]
    assert final == [code for code in CloseCode if code < 4000 and not code.reconnect]
    english = WORDS.read_text("utf-8")
    assert [name for name in client.values() if f"  closed_{name}: " not in english] == []


@pytest.mark.parametrize("code", CloseCode)
def test_range_of_a_close_code_says_whether_to_reconnect(code: CloseCode) -> None:
    """Of fastchat's own codes 4000-4499 ask to reconnect and 4500-4999 do not."""
    if code >= 4000:
        assert code.reconnect == (code < 4500)
    else:
        assert code.reconnect == (code in (1000, 1001, 1011, 1012, 1013))


def test_error_codes_are_written_in_lower_case() -> None:
    """An error code is its name in lower case."""
    assert all(code.value == code.name.lower() for code in ErrorCode)


def test_errors_have_one_root() -> None:
    """Every exception that the package raises on purpose has one root class."""
    for error in (SettingError, CommandError, Violation):
        assert issubclass(error, FastchatError)
    refusal = CommandError(ErrorCode.BAD_ROOM, "No.")
    assert (refusal.temporary, refusal.ref, refusal.id) == (False, None, None)
    violation = Violation(CloseReason.MESSAGE_TOO_BIG)
    assert (violation.reason.code, str(violation)) == (1009, "the message is too big")


def test_every_close_reason_fits_into_a_close_frame() -> None:
    """A control frame has at most 125 bytes (RFC 6455 §5.5), two of which are the code."""
    assert all(len(reason.text.encode()) <= 123 for reason in CloseReason)
    assert len({reason.text for reason in CloseReason}) == len(CloseReason)
