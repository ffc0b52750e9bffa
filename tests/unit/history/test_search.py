"""Tests of the search: matching texts, hostile queries, and a lost index."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.history import GENERATION, add, draft, reactions
from fastchat.history import History
from fastchat.history.memory import MemoryHistory
from fastchat.history.search import MAX_TERMS, to_match
from fastchat.history.sqlite import SqliteHistory
from fastchat.protocol import ChangeDraft, Kind, Message, timestamp_of
from fastchat.protocol.parsing import MAX_QUERY_CHARS
from support.sqlite_history import connected

NOW_S = 1_750_000_000.0


def in_file(
    directory: Path, *, max_messages: int = 1_000_000, max_age_s: float = 0
) -> SqliteHistory:
    return SqliteHistory(
        directory,
        max_messages=max_messages,
        max_age_s=max_age_s,
        sync_commits=False,
        clock=lambda: NOW_S,
    )


def in_memory(*, max_messages: int = 1000) -> MemoryHistory:
    return MemoryHistory(max_messages=max_messages, new_generation=lambda: GENERATION)


@pytest.fixture(params=["sqlite", "memory"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    """A history of each kind; SQLite's stores 20 messages, and a few more."""
    kind = in_file(tmp_path, max_messages=20) if request.param == "sqlite" else in_memory()
    yield kind
    kind.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqliteHistory]:
    history = in_file(tmp_path)
    yield history
    history.close()


def search(history: History, query: str, *, room: str = "a", limit: int = 300) -> list[str]:
    return [each.text for each in asyncio.run(history.search(room, query, limit))]


def change(kind: Kind, target: int, text: str = "") -> ChangeDraft:
    room, username, text, timestamp, user, _ = draft(text)
    return ChangeDraft(room, username, text, timestamp, user, kind, target)


# Matching

TEXTS = (
    "The quick brown fox",
    "A brown, quick one",
    "quickly done",
    "Crème brûlée für Åsa",
    "ΑΘΗΝΑ calling",
    "snake_case and kebab-case",
    "C++ is not C",
    "мир и Война",
    "price: 10.50 EUR",
    "今天天气很好，去买iPhone手机",
    "학교에서 만나요",
    "วันนี้อากาศดีมาก",
    "مُحَمَّد في المدرسة",
    "ＡＢＣ Straße",
)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("quick", {0, 1}),
        ("QUICK Brown", {0, 1}),
        ('"quick brown"', {0}),
        ('"brown quick"', {1}),
        ("quick*", {0, 1, 2}),
        ("qui", set()),
        ('"quick bro"*', {0}),
        ("brown fox", {0}),
        ("fox wolf", set()),
        ("creme brulee", {3}),
        ("CRÈME FÜR", {3}),
        ("asa", {3}),
        ("αθηνα", {4}),
        ("case", {5}),
        ("snake_case", {5}),
        ("kebab-case", {5}),
        ("c", {6}),
        ("война", {7}),
        ("МИР", {7}),
        ("10.50", {8}),
        ("10 EUR", {8}),
        ("天气", {9}),
        ('"天气很"', {9}),
        ('"天很"', set()),
        ("天很", set()),
        ("iphone手", {9}),
        ("IPH*", {9}),
        ("今天 手机", {9}),
        ("학교", {10}),
        ("อากาศ", {11}),
        ("محمد المدرسه", {12}),
        ("abc strasse", {13}),
        ("STRASSE", {13}),
        ("", set()),
        ("   ", set()),
        ("* ** -- ()", set()),
        ("👍", set()),
    ],
)
def test_query_matches_words_phrases_and_prefixes(
    history: History, query: str, found: set[int]
) -> None:
    """A text matches if it has all terms, in any order, whatever their case and diacritics."""
    add(history, *TEXTS)
    assert {*search(history, query)} == {TEXTS[number] for number in found}


@pytest.mark.parametrize(
    "query",
    [
        "brown AND",
        "NOT brown",
        "brown OR",
        "NEAR(brown fox, 2)",
        "text: brown",
        "{text} : brown",
        "-text : brown",
        "^brown",
        "brown + fox",
        '"',
        '""',
        '"""',
        'brown"',
        '"brown',
        'br"own',
        "brown'; DROP TABLE texts; --",
        "*",
        "*brown",
        "(brown",
        "brown)",
        "\0",
        "bro\0wn",
        "\ufeffbrown",
        "brown\n\tfox",
        "%",
        "_",
        "\\",
        "?1",
        ":text",
        "@x",
        "$x",
        "x" * MAX_QUERY_CHARS,
        "x " * (MAX_QUERY_CHARS // 2),
        '"x" ' * (MAX_QUERY_CHARS // 4),
        "*" * MAX_QUERY_CHARS,
        "a" * 100_000,
        "a " * 50_000,
    ],
)
def test_fts5_syntax_in_a_query_is_taken_as_text(history: History, query: str) -> None:
    """Operators, quotes, columns and very long queries are text, and raise no error."""
    add(history, *TEXTS)
    assert {*search(history, query)} <= {*TEXTS}
    assert search(history, "fox") == [TEXTS[0]]


def test_fts5_operators_are_searched_as_words(history: History) -> None:
    """A search for AND, OR, NOT or NEAR finds texts that have the word."""
    add(history, "this and that", "this or that", "not this", "near that", "this that")
    assert search(history, "this AND that") == ["this and that"]
    assert search(history, "this OR that") == ["this or that"]
    assert search(history, "NOT this") == ["not this"]
    assert search(history, "NEAR that") == ["near that"]


def test_terms_beyond_max_terms_are_ignored() -> None:
    """A query has at most `MAX_TERMS` terms."""
    assert to_match(" ".join(map(str, range(100)))).count(" ") == MAX_TERMS - 1


def test_search_stays_in_its_room_and_within_its_limit(history: History) -> None:
    """Messages of other rooms are not found, and at most `limit` messages are returned."""
    add(history, "apple one", "apple two", "apple three")
    add(history, "apple elsewhere", room="b")
    assert len(search(history, "apple")) == 3
    assert len(search(history, "apple", limit=2)) == 2
    assert search(history, "apple", room="b") == ["apple elsewhere"]
    assert search(history, "apple", room="nowhere") == []


@given(st.text(max_size=40), st.text(max_size=40))
@example("İ", "i̇")
@example("ß", "SS")
@example("ﬁne", "fine")
@example("e\u0301t\u0327e", "été")
@example("_", "_")
@example("नमस्ते", "नमस्ते")
@example("a\0b", "a b")
@example("ǅ", "ǆ")
@example("今天天气", "天气")
@example("ｱｲ́", "アイ")
@example("ㄱㅏ", "가")
@settings(max_examples=150)
def test_both_histories_find_the_same_texts(text: str, query: str) -> None:
    """For any text and query, SQLite and memory find the same texts and raise no error."""
    queries = (query, text[:20], f'"{text[:10]}"*', f"{query}*")
    memory = in_memory()
    with tempfile.TemporaryDirectory() as directory:
        file = in_file(Path(directory))
        try:
            for history in (memory, file):
                add(history, text, "something else")
            for each in queries:
                assert {*search(file, each)} == {*search(memory, each)}, each
        finally:
            file.close()


# Changed messages


def test_edited_message_is_found_by_its_new_text_only(history: History) -> None:
    """An edit before or after the first search changes the text that is found."""
    add(history, "apple", "banana")
    history.append([change(Kind.EDIT, 1, "cherry")])
    assert (search(history, "apple"), search(history, "cherry")) == ([], ["cherry"])
    history.append([change(Kind.EDIT, 2, "date"), change(Kind.EDIT, 1, "elder")])
    assert search(history, "cherry") == search(history, "banana") == []
    assert search(history, "elder") == ["elder"]
    assert search(history, "date") == ["date"]


def test_deleted_message_is_not_found(history: History) -> None:
    """Neither the text of a deleted message nor the texts of its edits are found."""
    add(history, "apple one", "apple two")
    assert len(search(history, "apple")) == 2
    history.append([change(Kind.EDIT, 1, "apple edited"), change(Kind.DELETE, 1)])
    assert search(history, "apple") == ["apple two"]
    assert search(history, "edited") == []


def test_search_result_has_the_messages_reactions(history: History) -> None:
    """A reaction does not change the searchable text, but the result contains it."""
    add(history, "apple")
    assert search(history, "apple") == ["apple"]
    history.append([change(Kind.REACT, 1)._replace(emoji="👍")])
    (found,) = asyncio.run(history.search("a", "apple", 9))
    assert reactions(found) == {"👍": ["Alice"]}


def test_dropped_messages_are_not_found(tmp_path: Path) -> None:
    """Messages beyond the room's limit are not found, whether they were indexed or not."""
    for history in (in_file(tmp_path, max_messages=10), in_memory(max_messages=10)):
        for number in range(30):
            add(history, f"apple {number}")
            if number in (5, 29):
                kept = [each.text for each in history.before("a", None, 300).publications]
                assert sorted(search(history, "apple")) == sorted(kept)
        history.close()


def test_pruning_by_age_removes_texts_from_the_index(tmp_path: Path) -> None:
    """The texts also leave the index's file, without another search."""
    history = in_file(tmp_path, max_age_s=60)
    history.append([draft("apple 73415")._replace(timestamp=timestamp_of(NOW_S - 3600))])
    assert search(history, "apple") == ["apple 73415"]
    history.prune()
    history.close()
    assert b"73415" not in (tmp_path / "search.db").read_bytes()
    assert b"73415" not in (tmp_path / "history.db").read_bytes()


def test_deletion_removes_the_text_from_the_index(tmp_path: Path) -> None:
    """No byte of a deleted text is left in the index's file, without another search."""
    history = in_file(tmp_path)
    add(history, "apple 73415", "banana")
    assert search(history, "apple") == ["apple 73415"]
    history.append([change(Kind.DELETE, 1)])
    history.close()
    assert b"73415" not in (tmp_path / "search.db").read_bytes()


def test_rolled_back_deletion_does_not_change_the_index(tmp_path: Path) -> None:
    """A message whose deletion was rolled back is still found."""
    history = in_file(tmp_path)
    add(history, "apple", "banana")
    assert search(history, "apple") == ["apple"]
    with pytest.raises(UnicodeEncodeError):
        history.append([change(Kind.DELETE, 1), draft("\ud800")])
    assert search(history, "apple") == ["apple"]
    history.close()


# Loss of the index


def test_index_catches_up_after_reopening(tmp_path: Path) -> None:
    """New, changed and deleted messages between two searches are indexed after a restart."""
    history = in_file(tmp_path)
    add(history, "apple one", "apple two", *map(str, range(1200)))
    assert len(search(history, "apple")) == 2
    history.append([change(Kind.EDIT, 1, "pear one"), draft("apple three")])
    history.close()
    history = in_file(tmp_path)
    add(history, "apple four")
    assert sorted(search(history, "apple")) == ["apple four", "apple three", "apple two"]
    history.close()


@pytest.mark.parametrize("damage", ["removed", "garbage", "truncated", "overwritten", "empty"])
@pytest.mark.parametrize("running", [False, True])
def test_lost_index_is_rebuilt(tmp_path: Path, damage: str, *, running: bool) -> None:
    """A removed or damaged index is rebuilt, whether the history was open or not."""
    history = in_file(tmp_path)
    add(history, *(f"apple {number} " + "x" * number for number in range(300)))
    assert len(search(history, "apple")) == 300
    if not running:
        history.close()
    file = tmp_path / "search.db"
    content = file.read_bytes()
    assert len(content) > 20_000
    if damage == "removed":
        file.unlink()
    elif damage == "garbage":
        file.write_bytes(b"garbage " * 5000)
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "overwritten":
        file.write_bytes(content[:4096] + b"\x5a" * (len(content) - 4096))
    else:
        file.write_bytes(b"")
    if not running:
        history = in_file(tmp_path)
    add(history, "apple again")
    assert len(search(history, "apple")) == 300
    assert search(history, "again") == ["apple again"]
    history.append([change(Kind.DELETE, 301)])
    assert search(history, "again") == []
    history.close()


def old_index(file: Path, texts: dict[int, str], rooms: dict[int, tuple[str, int]]) -> None:
    """Write an index as it was before the search folded texts itself."""
    with contextlib.closing(apsw.Connection(str(file))) as index:
        index.execute(
            "CREATE TABLE indexed (room INTEGER PRIMARY KEY, epoch TEXT NOT NULL, "
            "offset INTEGER NOT NULL) STRICT; CREATE VIRTUAL TABLE texts USING fts5 "
            "(text, tokenize = 'unicode61 remove_diacritics 2');"
        )
        index.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", texts.items())
        index.executemany(
            "INSERT INTO indexed VALUES (?, ?, ?)", [(room, *at) for room, at in rooms.items()]
        )


def indexed(file: Path) -> dict[int, int]:
    """The offset up to which the index has each room."""
    with contextlib.closing(apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)) as index:
        index.set_busy_timeout(2000)
        return dict(index.execute("SELECT room, offset FROM indexed").fetchall())


def test_index_of_older_rules_is_built_again(tmp_path: Path) -> None:
    """A search finds what the old index did not, and nothing that only the old index had."""
    history = in_file(tmp_path)
    add(history, "今天天气很好", "Καλημέρα", "plain")
    epoch = history.position("a").epoch
    history.close()
    old_index(
        tmp_path / "search.db",
        {1 << 40 | 1: "今天天气很好", 1 << 40 | 2: "gone", 1 << 40 | 3: "plain"},
        {1: (epoch, 3)},
    )
    history = in_file(tmp_path)
    assert search(history, "天气") == ["今天天气很好"]
    assert search(history, "καλημερα") == ["Καλημέρα"]
    assert search(history, "plain") == ["plain"]
    assert search(history, "gone") == []
    history.close()


def test_old_index_is_built_again_in_the_background(tmp_path: Path) -> None:
    """Without any search, the rooms of the old index are indexed, and no other rooms."""
    history = in_file(tmp_path)
    for room in ("a", "b", "c"):
        add(history, *(f"{number} 天气" for number in range(1200)), room=room)
    epochs = {room: history.position(room).epoch for room in ("a", "b")}
    history.close()
    file = tmp_path / "search.db"
    old_index(file, {}, {1: (epochs["a"], 1200), 2: (epochs["b"], 7)})
    history = in_file(tmp_path)
    deadline = time.monotonic() + 30
    while indexed(file) != {1: 1200, 2: 1200}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(search(history, "天气", room="b")) == 300
    history.close()


def test_closed_index_continues_at_the_next_start(tmp_path: Path) -> None:
    """A history that is closed while its index is built can be opened again, as often as needed."""
    history = in_file(tmp_path)
    add(history, *(f"{number} 天气" for number in range(3000)))
    epoch = history.position("a").epoch
    history.close()
    file = tmp_path / "search.db"
    old_index(file, {}, {1: (epoch, 3000)})
    for _ in range(30):
        history = in_file(tmp_path)
        time.sleep(0.01)
        history.close()
    assert indexed(file) == {1: 3000}


def test_index_without_its_rooms_is_left_to_the_searches(tmp_path: Path) -> None:
    """An old index of a history that was replaced by an empty one does no harm."""
    old_index(tmp_path / "search.db", {1 << 40 | 1: "ghost"}, {1: ("other", 9), 2: ("x", 3)})
    history = in_file(tmp_path)
    add(history, "天气")
    assert search(history, "天气") == ["天气"]
    assert search(history, "ghost") == []
    history.close()


def test_index_of_another_history_is_not_used(tmp_path: Path) -> None:
    """If the history was removed, none of its texts is found in the new history."""
    history = in_file(tmp_path)
    add(history, "apple of old")
    assert search(history, "apple") == ["apple of old"]
    history.close()
    (tmp_path / "history.db").unlink()
    history = SqliteHistory(
        tmp_path,
        max_messages=1000,
        max_age_s=0,
        sync_commits=False,
        clock=lambda: NOW_S,
    )
    add(history, "banana", "apple of today")
    assert search(history, "apple") == ["apple of today"]
    history.close()


def test_index_that_is_ahead_of_the_history_is_built_again(tmp_path: Path) -> None:
    """An older snapshot of the history was restored, but not of the index: what is said at offsets
    that were used before is found."""
    history = in_file(tmp_path)
    add(history, "apple", "banana")
    assert search(history, "banana") == ["banana"]
    history.close()
    with connected(tmp_path / "search.db") as index:
        index.execute("UPDATE indexed SET offset = 9")
    history = in_file(tmp_path)
    assert search(history, "cherry") == []
    add(history, "cherry")
    assert search(history, "cherry") == ["cherry"]
    history.close()


def test_concurrent_searches_are_all_answered(file: SqliteHistory) -> None:
    """Fifty searches at once are answered, while messages are appended."""
    add(file, *TEXTS)

    async def many() -> list[list[Message]]:
        searches = [asyncio.create_task(file.search("a", "brown", 9)) for _ in range(50)]
        while not all(task.done() for task in searches):
            add(file, "and so on")
            await asyncio.sleep(0)
        return [task.result() for task in searches]

    assert [len(found) for found in asyncio.run(many())] == [2] * 50
