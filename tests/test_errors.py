"""Errors and close codes: one table in the server, one in the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastchat.errors import (
    CloseCode,
    CommandError,
    ErrorCode,
    FastchatError,
    SettingError,
    Violation,
)

PAGE_TABLE = Path(__file__).parent.parent / "static" / "close-codes.js"
ENTRY = re.compile(r'^ *(\d+): \{ name: "(\w+)", reconnect: (true|false), text: "[^"]+\." \},$')


def test_close_codes_of_page_and_server_are_one_table() -> None:
    """Each code has the same name, and the same answer to whether to come back, in both."""
    lines = PAGE_TABLE.read_text("utf-8").splitlines()
    entries = [found.groups() for line in lines if (found := ENTRY.match(line))]
    page = {int(code): (name, reconnect == "true") for code, name, reconnect in entries}
    assert len(entries) == len(page)
    assert page == {code.value: (code.name.lower(), code.reconnect) for code in CloseCode}


@pytest.mark.parametrize("code", CloseCode)
def test_range_of_a_close_code_says_whether_to_come_back(code: CloseCode) -> None:
    """Of our own codes 4000-4499 ask to reconnect and 4500-4999 do not."""
    if code >= 4000:
        assert code.reconnect == (code < 4500)
    else:
        assert code.reconnect == (code in (1000, 1001, 1011, 1012, 1013))


def test_error_codes_are_written_in_lower_case() -> None:
    """A code is a word for programs, its name in small letters."""
    assert all(code.value == code.name.lower() for code in ErrorCode)


def test_errors_have_one_root() -> None:
    """Whatever the package raises on purpose can be caught as one."""
    for error in (SettingError, CommandError, Violation):
        assert issubclass(error, FastchatError)
    refusal = CommandError(ErrorCode.BAD_ROOM, "No.")
    assert (refusal.temporary, refusal.ref, refusal.id) == (False, None, None)
    violation = Violation(CloseCode.TOO_BIG, "too big")
    assert (violation.close_code, violation.reason, str(violation)) == (1009, "too big", "too big")
