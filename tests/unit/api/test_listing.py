"""The rooms that a key can see."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from fastchat.api.keys import check_patterns
from fastchat.api.listing import ListedRooms
from fastchat.rooms.administration import StoredRoom

NAMES = st.text("ab-", min_size=1, max_size=4)
PATTERNS = st.lists(
    NAMES | NAMES.map(lambda name: name + "*") | st.just("*"), min_size=1, max_size=5
)


class Rooms:
    """Records nothing, and lists some rooms as `Administration.rooms` does."""

    def __init__(self, names: set[str]) -> None:
        self._names = sorted(names)

    async def rooms(self, prefix: str, after: str, limit: int) -> Sequence[StoredRoom]:
        found = [each for each in self._names if each.startswith(prefix) and each > after]
        return [StoredRoom(each, "e", 1, 0, None, 0) for each in found[:limit]]


@given(st.sets(NAMES, max_size=12), PATTERNS, st.text("ab-", max_size=2), NAMES, st.integers(1, 5))
def test_rooms_of_patterns(
    names: set[str], given_patterns: list[str], prefix: str, after: str, limit: int
) -> None:
    """A page has the first rooms that match, in order, each once, whatever patterns overlap."""
    patterns = check_patterns(given_patterns)

    def matches(name: str) -> bool:
        return any(
            name.startswith(each[:-1]) if each.endswith("*") else name == each for each in patterns
        )

    listed = ListedRooms(cast(Any, SimpleNamespace(rooms=Rooms(names).rooms)))
    page = asyncio.run(listed.page(patterns, prefix, after, limit))
    expected = [each for each in sorted(names) if matches(each) and each.startswith(prefix)]
    assert [room.room for room in page] == [each for each in expected if each > after][:limit]
