"""The pages of a worker, which reads the history's file itself and asks the relay only to
search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.broker import at_once, offsets, texts
from contracts.history import NOW_S, draft
from fastchat.brokers.relay.pages import FilePages
from fastchat.errors import CommandError, ErrorCode
from fastchat.history.reader import HistoryReader
from fastchat.history.sqlite import SqliteHistory
from fastchat.rooms import Messages
from support.sqlite_history import opened


class Searching:
    """A relay for searches only; it answers with the question."""

    async def search(self, room: str, query: str, limit: int) -> Messages:
        return Messages([f"{room} {query} {limit}".encode()], more=True)

    async def before(self, room: str, offset: int | None, limit: int) -> Messages:
        raise AssertionError("the file is read")

    async def after(self, room: str, offset: int, limit: int) -> Messages:
        raise AssertionError("the file is read")


@pytest.fixture
def history(tmp_path: Path) -> Iterator[SqliteHistory]:
    with opened(tmp_path, clock=lambda: NOW_S) as history:
        yield history


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[HistoryReader]:
    reader = HistoryReader(tmp_path)
    yield reader
    reader.close()


@pytest.fixture
def pages(reader: HistoryReader) -> FilePages:
    return FilePages(reader, searching=Searching())


def test_pages_are_read_from_the_file(pages: FilePages, history: SqliteHistory) -> None:
    """Committed publications can be read without a relay."""
    history.append([draft(str(number)) for number in range(1, 6)])
    before = at_once(pages.before("a", 4, 2))
    assert (offsets(before), texts(before), before.more) == ([2, 3], ["2", "3"], True)
    after = at_once(pages.after("a", 3, 9))
    assert (offsets(after), after.more) == ([4, 5], False)


def test_search_is_sent_to_the_relay(pages: FilePages) -> None:
    """A search is sent to the relay, because only the process that writes the history has the
    index."""
    assert at_once(pages.search("a", "word", 9)) == Messages([b"a word 9"], more=True)


@pytest.mark.parametrize(
    "read",
    [lambda pages: pages.before("a", None, 9), lambda pages: pages.after("a", 0, 9)],
    ids=["before", "after"],
)
def test_unreadable_file_makes_pages_unavailable(
    pages: FilePages, read: Callable[[FilePages], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets a temporary error, and the log has the reason."""
    with pytest.raises(CommandError) as caught:
        at_once(read(pages))
    assert (caught.value.code, caught.value.temporary) == (ErrorCode.UNAVAILABLE, True)
    assert "cannot be read" in caplog.text
