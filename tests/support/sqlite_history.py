"""A SQLite history in a directory of a test, and its tables as another program reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from fastchat.history.sqlite import SqliteHistory

START_S = 1_750_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START_S

    def __call__(self) -> float:
        return self.now


def new_history(directory: Path, **options: Any) -> SqliteHistory:
    defaults: dict[str, Any] = {
        "max_messages": 1000,
        "max_age_s": 0.0,
        "sync_commits": False,
        "clock": Clock(),
    }
    return SqliteHistory(directory, **defaults | options)


@contextlib.contextmanager
def opened(directory: Path, **options: Any) -> Iterator[SqliteHistory]:
    history = new_history(directory, **options)
    try:
        yield history
    finally:
        history.close()


@contextlib.contextmanager
def connected(file: Path) -> Iterator[apsw.Connection]:
    """A connection of apsw's SQLite.

    Python's own SQLite in the same process would release the locks of apsw's when it closes the
    file.
    """
    connection = apsw.Connection(str(file))
    try:
        yield connection
    finally:
        connection.close()


def count(directory: Path, query: str) -> int:
    with connected(directory / "history.db") as connection:
        ((number,),) = connection.execute(query)
        return int(number)
