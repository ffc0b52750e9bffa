"""The table in docs/security.md has a row for each threat, and names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "security.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOCUMENT.read_text("utf-8").splitlines()
    if re.match(r"\| T\d+ \|", line)
]


def test_table_has_a_row_for_every_threat() -> None:
    assert [row[0] for row in ROWS] == [f"T{number}" for number in range(1, 47)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_row_names_tests_that_mention_its_threat(row: list[str]) -> None:
    """Each file that a row names exists, and each file in `threats/` mentions the row's threat."""
    number, _, _, shown = row
    files = re.findall(r"`([^`]+)`", shown)
    assert files
    for file in files:
        assert (TESTS / file).exists(), file
        if file.startswith("threats/"):
            words = (TESTS / file).read_text("utf-8")
            assert re.search(rf"\b{number}\b[^\n]*\.", words), (number, file)
