"""The page's table of close codes and the server's are one table."""

from __future__ import annotations

import re
from pathlib import Path

from fastchat.errors import CloseCode

TABLE = Path(__file__).parents[2] / "static" / "close-codes.js"
ENTRY = re.compile(r'^  (\d+): \{ name: "(\w+)", reconnect: (true|false), text: "(.+)" \},$', re.M)


def test_page_and_server_agree() -> None:
    """Each code has the same name and the same answer to whether to come back."""
    page = {
        int(code): (name, again == "true")
        for code, name, again, _ in ENTRY.findall(TABLE.read_text())
    }
    assert page == {int(code): (code.name.lower(), code.reconnect) for code in CloseCode}
