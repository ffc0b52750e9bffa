"""Tests of `fastchat export` and `fastchat import` with a ledger, from and to SQLite."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from contracts.history import delete, draft, edit, react
from fastchat.cli import main
from fastchat.errors import SettingError
from fastchat.history import Duplicate, transfer
from fastchat.history.exports import Imported
from fastchat.history.users import UserIds
from fastchat.ledger import LedgerError, NotCommittedError, administration
from fastchat.ledger import transfer as ledger
from fastchat.ledger.appending import Limits
from fastchat.ledger.identity import epoch_under
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.protocol import Draft, Message, Position, check_epoch, timestamp_of
from fastchat.protocol.users import guest_of, import_of
from support.ledger import Machine, execute, in_loop, make_ledger, observer
from support.machines import chat_url, running_machine
from support.postgresql import PostgreSQL
from support.raw_websocket import Client, connected
from support.server import PATIENCE_S, running_server
from support.sqlite_history import opened

LIMITS = Limits(stored=100_000, slack=100)
#: The secret of the history that the tests' exports come from.
KEY = bytes.fromhex("5e" * 32)


def owned(made: Draft) -> Draft:
    """A draft whose user has an id as servers make them."""
    return made._replace(user=f"u_{made.username}")


def header(room: str = "a", head: int = 2, **more: object) -> dict[str, object]:
    fields = {"format": "fastchat", "version": 2, "room": room, "epoch": "E1"}
    return {**fields, "first": 1, "head": head, "user_key": KEY.hex(), **more}


def message(offset: int, room: str = "a", **more: object) -> dict[str, object]:
    stamp = "2025-01-18T10:30:00.123Z"
    fields = {"type": "message", "room": room, "offset": offset, "user": "u_1"}
    return {**fields, "username": "Ann", "text": f"number {offset}", "timestamp": stamp, **more}


def encoded(*lines: object) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def imported(url: EngineUrl, *lines: object) -> Imported:
    return ledger.import_rooms([url], io.BytesIO(encoded(*lines)), "a file", "lobby")


async def import_beside(url: EngineUrl, *lines: object) -> Imported:
    """Import while the loop of the test goes on."""
    return await asyncio.to_thread(imported, url, *lines)


def exported(url: EngineUrl, room: str | None = None) -> bytes:
    out = io.BytesIO()
    ledger.export_rooms([url], room, out)
    return out.getvalue()


def from_directory(directory: Path) -> bytes:
    out = io.BytesIO()
    transfer.export_rooms(directory, None, out)
    return out.getvalue()


def header_of(url: EngineUrl, room: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(exported(url, room).splitlines()[0])
    return found


@pytest.fixture
def fresh(server: PostgreSQL) -> Callable[[], EngineUrl]:
    """Makes URLs of ledgers that do not exist yet."""
    return lambda: parse_url(chat_url(server))


def publish_everything(directory: Path) -> None:
    """A history with everything that a history can have."""
    gone = encoded(header("gone", 42, first=43))
    transfer.import_rooms(directory, io.BytesIO(gone), "lines", "lobby")
    drafts = [
        draft("Hello", id="one"),
        draft("Secret", by="Bob", id="two\0\1\2"),
        draft("Grüße\nan 👋 alle"),
        edit(1, "Hello, everybody"),
        edit(2, "More secret", by="Bob"),
        react(3, by="Bob"),
        react(3, "🎉", by="Ann"),
        react(3, by="Ann"),
        react(3, by="Bob", remove=True),
        delete(2, by="Bob"),
        edit(1, "Hello, all"),
        draft("the last one", id="one", by="Ann"),
        *(draft(f"number {number}", room="long") for number in range(60)),
        edit(60, "better", room="long"),
        draft("in Zürich", room="zürich"),
        draft("in another room", room="0"),
    ]
    with opened(directory, max_messages=40) as history:
        for each in drafts:
            (outcome,) = history.append([owned(each)])
            assert not isinstance(outcome, Exception), outcome


def test_circle_changes_no_byte(fresh: Callable[[], EngineUrl], tmp_path: Path) -> None:
    """From SQLite to a ledger, back, and to another ledger, every export is the same."""
    publish_everything(tmp_path / "old")
    before = from_directory(tmp_path / "old")
    headers = [json.loads(line) for line in before.splitlines() if b'"format"' in line]
    assert [(each["room"], each["first"], each["head"]) for each in headers] == [
        ("0", 1, 1), ("a", 1, 12), ("gone", 43, 42), ("long", 22, 61), ("zürich", 1, 1),
    ]  # fmt: skip
    one, two = fresh(), fresh()
    result = ledger.import_rooms([one], io.BytesIO(before), "a file", "x")
    assert result == (5, before.count(b"\n") - 5, False)
    assert exported(one) == before
    transfer.import_rooms(tmp_path / "new", io.BytesIO(exported(one)), "a file", "x")
    assert from_directory(tmp_path / "new") == before
    ledger.import_rooms([two], io.BytesIO(from_directory(tmp_path / "new")), "a file", "x")
    assert exported(two) == before
    assert exported(two, "a") in before
    asyncio.run(check_use(two))


def test_rooms_move_between_one_ledger_and_several(
    fresh: Callable[[], EngineUrl], caplog: pytest.LogCaptureFixture
) -> None:
    """Each room comes to its ledger, with its epoch and the secret of the users, and back again."""
    rooms = [f"room-{number}" for number in range(20)]
    lines = [line for room in rooms for line in (header(room), message(1, room), message(2, room))]
    one, spread = fresh(), [fresh(), fresh()]
    imported(one, *lines)
    before = exported(one)
    result = ledger.import_rooms(spread, io.BytesIO(before), "a file", "x")
    assert result == (20, 40, False)
    counts = [asyncio.run(rooms_in(url)) for url in spread]
    assert set(counts[0]) | set(counts[1]) == set(rooms)
    assert not set(counts[0]) & set(counts[1])
    assert min(map(len, counts)) > 0
    out = io.BytesIO()
    ledger.export_rooms(spread[::-1], None, out)
    assert sorted(out.getvalue().splitlines()) == sorted(before.splitlines())
    for room in rooms[:4]:
        out = io.BytesIO()
        ledger.export_rooms(spread, room, out)
        assert out.getvalue() == exported(one, room)
    with pytest.raises(SettingError, match="there is no room “nowhere”"):
        ledger.export_rooms(spread, "nowhere", io.BytesIO())
    with pytest.raises(SettingError, match=r"has a room “room-1?[0-9]” already"):
        ledger.import_rooms(spread, io.BytesIO(before), "a file", "x")
    own = counts[0][0]
    assert exported(spread[0], own) == exported(one, own)
    assert exported(spread[0]).count(b'"format"') == len(counts[0])
    assert "only its rooms are exported" in caplog.text
    with pytest.raises(LedgerError, match="it is one of 2 ledgers"):
        imported(spread[0], header("new", 0))


async def rooms_in(url: EngineUrl) -> list[str]:
    async with observer(url) as db:
        return [name for (name,) in await db.fetch("SELECT name FROM rooms")]


def test_several_ledgers_adopt_users_only_together(fresh: Callable[[], EngineUrl]) -> None:
    """If something was published in one of them, its guests keep their ids in all rooms."""
    urls = [fresh(), fresh()]
    foreign = encoded({"username": "Ann", "text": "Hello"})
    assert ledger.import_rooms(urls, io.BytesIO(foreign), "a file", "lobby") == (1, 1, False)
    rooms = [f"room-{number}" for number in range(30)]
    lines = encoded(*(line for room in rooms for line in (header(room, 1), message(1, room))))
    assert ledger.import_rooms(urls, io.BytesIO(lines), "a file", "x") == (30, 30, True)
    assert len({asyncio.run(key_of(url)) for url in urls} - {KEY}) == 1


async def key_of(url: EngineUrl) -> bytes:
    async with observer(url) as db:
        return bytes(await db.fetchval("SELECT user_key FROM identity"))


def test_import_says_which_ledger_has_failed(
    fresh: Callable[[], EngineUrl], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledgers commit one after the other. What was committed is named if another one fails."""
    urls = [fresh(), fresh()]
    commits = 0

    async def failing(db: asyncpg.Connection) -> None:
        nonlocal commits
        commits += 1
        if commits == 2:
            raise NotCommittedError("the disk is full", "53100")
        await db.execute("COMMIT")

    monkeypatch.setattr(ledger, "_commit", failing)
    rooms = [f"room-{number}" for number in range(30)]
    lines = encoded(*(line for room in rooms for line in (header(room, 1), message(1, room))))
    with pytest.raises(LedgerError) as failed:
        ledger.import_rooms(urls, io.BytesIO(lines), "a file", "x")
    words = f"the disk is full; only the rooms of {urls[0].shown} were imported"
    assert str(failed.value) == f"--engine {urls[1].shown}: {words}"
    assert asyncio.run(rooms_in(urls[0]))
    assert not asyncio.run(rooms_in(urls[1]))


async def check_use(url: EngineUrl) -> None:
    """An imported room can be searched and changed, and knows the state of each message."""
    machine = Machine(url, LIMITS)
    await machine.session.open()
    try:
        (found,) = await machine.search.search("a", "everybody OR all", 10) or (None,)
        assert found is None
        (found,) = await machine.search.search("a", "hello all", 10)
        assert found.offset == 1
        assert await machine.search.search("a", "secret", 10) == []
        loaded = (await machine.reader.load(["a"], 100))["a"]
        changed = {each.offset: at for at, each in loaded.publications if at}
        assert changed == {1: 11, 2: 10, 3: 9}
        await machine.append(owned(edit(1, "Hello again")), owned(react(3, "🎉")))
        hello, _, greeting, *_ = await machine.stored("a")
        assert isinstance(greeting, Message)
        assert greeting.reactions is not None
        assert hello.text == "Hello again"
        assert [user for user, _ in greeting.reactions["🎉"]] == ["u_Ann", "u_Bob"]
    finally:
        await machine.session.close()


def ask(client: Client, command: dict[str, Any]) -> dict[str, Any]:
    """Send a command, and return the next event."""
    client.send(command)
    return client.receive()


def test_clients_keep_their_positions(server: PostgreSQL, tmp_path: Path) -> None:
    """A client that comes back after the move gets exactly what it missed; and back again."""
    url, old, new = chat_url(server), str(tmp_path / "old"), str(tmp_path / "new")
    export = str(tmp_path / "export.jsonl")
    with running_server("--data", old) as machine, connected(machine.port) as ann:
        joined = ann.join(username="Ann")
        assert ask(ann, {"text": "one", "id": "1"})["user"] == joined["user"]
        assert ask(ann, {"text": "two"})["offset"] == 2

    def come_back(port: int, since: int, head: int) -> None:
        position = {"epoch": joined["epoch"], "offset": since}
        with connected(port) as ann:
            again = ann.join(username="Ann", session=joined["session"], since=position)
            assert again["recovered"]
            assert [each["offset"] for each in again["messages"]] == list(
                range(since + 1, head + 1)
            )
            assert (again["epoch"], again["user"]) == (joined["epoch"], joined["user"])
            ack = ask(ann, {"text": "one", "id": "1"})
            assert (ack["type"], ack["offset"]) == ("ack", 1)
            assert ask(ann, {"text": "more"})["offset"] == head + 1
            assert ask(ann, {"type": "edit", "offset": 1, "text": "mine"})["offset"] == head + 2

    assert main(["export", "--data", old, "--output", export]) == 0
    assert main(["import", "--engine", url, export]) == 0
    with running_machine(url, "one", tmp_path) as running:
        come_back(running.port, 1, 2)
        come_back(running.port, 2, 4)
        assert main(["export", "--engine", url, "--output", export]) == 0
    assert main(["import", "--data", new, export]) == 0
    with running_server("--data", new) as back:
        come_back(back.port, 3, 6)


# Epochs and users


def test_epoch_stays_until_the_token_changes(fresh: Callable[[], EngineUrl]) -> None:
    """An imported room has its epoch, whatever the ledger's token is; later it gets another one."""
    url = fresh()
    imported(url, header(head=1), message(1))
    assert header_of(url, "a")["epoch"] == "E1"
    asyncio.run(administration.renew(url))
    renewed = header_of(url, "a")["epoch"]
    assert renewed not in ("E1", "")
    imported(url, header("b", head=1), message(1, "b"))
    assert header_of(url, "b")["epoch"] == "E1"
    assert header_of(url, "a")["epoch"] == renewed
    asyncio.run(administration.renew(url))
    assert len({header_of(url, "a")["epoch"], renewed, "E1"}) == 3
    assert header_of(url, "b")["epoch"] not in (renewed, "E1")
    other = fresh()
    ledger.import_rooms([other], io.BytesIO(exported(url)), "a file", "x")
    assert exported(other) == exported(url)


def test_epochs_stay_short() -> None:
    """However often a room moves, clients can send its epoch; two epochs never become one."""
    epochs = ["x" * 64, "y" * 64, "E1"]
    for number in range(5):
        epochs = [epoch_under(f"token-{number:02}", check_epoch(each), "") for each in epochs]
        assert len(set(epochs)) == 3


@in_loop
async def test_imported_room_is_followed_under_its_epoch(url: EngineUrl) -> None:
    """Reads say the epoch of the import, and an old position gets what it missed."""
    await import_beside(url, header(), message(1), message(2))
    machine = Machine(url, LIMITS)
    await machine.session.open()
    try:
        for epoch in [
            (await machine.reader.position("a")).epoch,
            (await machine.reader.load(["a"], 10))["a"].epoch,
            (await machine.reader.missed("a", 1, 10)).epoch,
        ]:
            assert epoch == "E1"
        missed = await machine.reader.since("a", Position("E1", 1), 10)
        assert missed is not None
        assert [each.offset for each in missed] == [2]
        assert (await machine.reader.position("never")).epoch.endswith(
            machine.session.identity.token
        )
    finally:
        await machine.session.close()


@in_loop
async def test_empty_ledger_adopts_the_users(url: EngineUrl) -> None:
    """A running machine connects anew, and makes the ids of the export. Later secrets are kept
    out, and the import says so."""
    machine = Machine(url, LIMITS)
    await machine.session.open()
    try:
        assert machine.session.identity.user_key != KEY
        first = await import_beside(url, header(head=1), message(1))
        assert not first.has_strangers
        async with asyncio.timeout(PATIENCE_S):
            while machine.session.identity.user_key != KEY:  # noqa: ASYNC110 there is no event
                await asyncio.sleep(0.02)
        other = header("b", head=1, user_key="00" * 32)
        assert (await import_beside(url, other, message(1, "b"))).has_strangers
        same = header("c", head=1)
        assert not (await import_beside(url, same, message(1, "c"))).has_strangers
        assert (await asyncio.to_thread(header_of, url, "b"))["user_key"] == KEY.hex()
        assert len(machine.losses) == 1
    finally:
        await machine.session.close()


def test_foreign_lines_are_imported(fresh: Callable[[], EngineUrl]) -> None:
    """Messages of another program are numbered; their users are made of their names, with the
    secret of an export that follows them."""
    url = fresh()
    foreign = {"username": "Ann", "text": "one"}, {"username": "Bob", "text": "two", "room": "b"}
    assert imported(url, *foreign, header(head=1), message(1)) == (3, 3, False)
    (line,) = map(json.loads, exported(url, "lobby").splitlines()[1:])
    assert line["user"] == UserIds(KEY).user_of(import_of("Ann"))
    assert header_of(url, "b")["head"] == 1


def test_export_of_the_first_version_needs_a_detour(fresh: Callable[[], EngineUrl]) -> None:
    """The error says how to import it."""
    lines = [{**header(head=1), "version": 1}, {**message(1), "author": guest_of("session")}]
    with pytest.raises(
        SettingError, match=r"line 1: .* version 1\. Import it into a new directory"
    ):
        imported(fresh(), *lines)


# Ids and sizes


@in_loop
async def test_recent_ids_are_remembered(url: EngineUrl) -> None:
    """A message that was sent shortly before the move is not published twice, by its user."""
    now = timestamp_of(time.time())
    lines = [
        message(1, id="old", user="u_Ann"),
        message(2, id="new", user="u_Ann", timestamp=now),
        message(3, id="new", user="u_Ann", timestamp=now),
    ]
    await import_beside(url, header(head=3), *lines)
    machine = Machine(url, LIMITS)
    await machine.session.open()
    try:
        again = [
            owned(draft("again", id=id, by=by))
            for id, by in (("new", "Ann"), ("old", "Ann"), ("new", "Bob"))
        ]
        known, *others = await machine.append(*again)
        assert known == Duplicate("a", "new", 2)
        assert [each.offset for each in others if isinstance(each, Message)] == [4, 5]
    finally:
        await machine.session.close()


@in_loop
async def test_late_change_is_known(url: EngineUrl) -> None:
    """Of a message that is changed much later in the file, the ledger knows the last change."""
    edits = [message(n, type="edit", target=1, text="new") for n in (2, 1502)]
    messages = [message(n) for n in range(3, 1502)]
    lines = message(1, text="new"), edits[0], *messages, edits[1]
    await import_beside(url, header(head=1502), *lines)
    async with observer(url) as db:
        query = 'SELECT "offset", changed FROM publications WHERE changed > 0'
        assert [tuple(row) for row in await db.fetch(query)] == [(1, 1502)]


@in_loop
async def test_long_room_is_shortened_in_steps(url: EngineUrl) -> None:
    """A room with far more publications than are kept stays usable, and gets shorter."""
    count = 10_000
    await import_beside(url, header(head=count), *(message(each + 1) for each in range(count)))
    machine = Machine(url, Limits(stored=100, slack=10))
    await machine.session.open()
    try:
        firsts = []
        for _ in range(4):
            await machine.append(draft("more"))
            firsts.append((await machine.reader.load(["a"], 1))["a"].first)
        assert firsts == [4001, 8001, count + 3 - 99, count + 3 - 99]
    finally:
        await machine.session.close()


# Beside running machines


class Slow(io.BytesIO):
    """Lines of an import; `reached` is called once when half of them were read."""

    def __init__(self, lines: list[bytes], reached: Callable[[], None]) -> None:
        super().__init__(b"".join(lines))
        self._half = len(self.getvalue()) // 2
        self._reached = reached
        self._is_reached = False

    def readline(self, size: int | None = -1, /) -> bytes:
        if not self._is_reached and self.tell() > self._half:
            self._is_reached = True
            self._reached()
        return super().readline(size)


def many(room: str = "a", count: int = 3000) -> list[bytes]:
    return [encoded(header(room, count)), *(encoded(message(n, room)) for n in range(1, count + 1))]


@in_loop
async def test_machines_publish_during_an_import(url: EngineUrl) -> None:
    """They wait for nothing. If somebody has begun the same room meanwhile, nothing is imported."""
    loop = asyncio.get_running_loop()
    machine = Machine(url, LIMITS)
    await machine.session.open()
    try:
        await machine.append(draft("before", room="c"))

        def publish(room: str) -> Callable[[], None]:
            publishing = machine.append(draft("meanwhile", room=room))
            return lambda: asyncio.run_coroutine_threadsafe(publishing, loop).result(PATIENCE_S)

        def run(lines: io.BytesIO) -> Imported:
            return ledger.import_rooms([url], lines, "a file", "lobby")

        with pytest.raises(SettingError, match="has a room “a” already"):
            await asyncio.to_thread(run, Slow(many(), publish("a")))
        assert [each.text for each in await machine.stored()] == ["meanwhile"]
        result = await asyncio.to_thread(run, Slow(many("b"), publish("c")))
        assert (result.publications, len(await machine.stored("b"))) == (3000, 3000)
        assert len(await machine.stored("c")) == 2
        assert machine.losses == []
    finally:
        await machine.session.close()


def test_import_reaches_clients_who_wait_in_the_room(server: PostgreSQL, tmp_path: Path) -> None:
    """Members of a room in which nothing was said are sent back, and have the messages then."""
    url = chat_url(server)
    with running_machine(url, "one", tmp_path) as machine, connected(machine.port) as ann:
        ann.join(username="Ann", room="other")
        assert ask(ann, {"text": "so that the secret of the users stays"})["offset"] == 1
        with connected(machine.port) as bob:
            silent = bob.join(username="Bob", room="a")
            imported(parse_url(url), header(), message(1), message(2))
            assert bob.receive_close() == 4010
        with connected(machine.port) as bob:
            again = bob.join(username="Bob", session=silent["session"], room="a")
            assert (again["epoch"], len(again["messages"])) == ("E1", 2)
        assert ask(ann, {"text": "still here"})["offset"] == 2


@in_loop
async def test_export_is_a_snapshot(url: EngineUrl) -> None:
    """What is published during an export is not in it."""
    loop = asyncio.get_running_loop()
    await import_beside(url, *map(json.loads, many(count=600)))
    machine = Machine(url, LIMITS)
    await machine.session.open()
    try:

        class Publishing(io.BytesIO):
            def write(self, data: Any, /) -> int:
                publishing = machine.append(draft("later"))
                asyncio.run_coroutine_threadsafe(publishing, loop).result(PATIENCE_S)
                return super().write(data)

        before = await asyncio.to_thread(exported, url)
        out = Publishing()
        await asyncio.to_thread(ledger.export_rooms, [url], None, out)
        assert out.getvalue() == before
        assert len(await machine.stored()) == 601
    finally:
        await machine.session.close()


# What can be wrong


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with an export of one room."""
    file = tmp_path / "export.jsonl"
    file.write_bytes(encoded(header(), message(1), message(2)))
    return file


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """The exit status of a command, and its only line on standard error."""
    status = main(list(map(str, arguments)))
    (line,) = capsys.readouterr().err.splitlines()
    return status, line


def test_damaged_line_in_the_middle(
    url: EngineUrl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of the file is in any table, and the corrected file can be imported."""
    file, lines = tmp_path / "export.jsonl", many("b")
    whole = [*many("a"), *lines]
    file.write_bytes(b"".join([*many("a"), *lines[:2000], b"{", *lines[2000:]]))
    status, line = complaint(capsys, "import", "--engine", url.shown, file)
    assert status == 2
    assert line == f"fastchat: {file}, line 5002: The line is not valid JSON. Nothing was imported."
    assert exported(url) == b""
    assert count(url, "publications") == count(url, "rooms") == 0
    file.write_bytes(b"".join(whole))
    assert main(["import", "--engine", url.shown, str(file)]) == 0
    assert count(url, "publications") == 6000


def count(url: EngineUrl, table: str) -> int:
    async def ask() -> int:
        async with observer(url) as db:
            found: int = await db.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608
            return found

    return asyncio.run(ask())


def test_room_that_exists(url: EngineUrl, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A room with messages is neither replaced nor mixed, and no other room of the file comes."""
    assert main(["import", "--engine", url.shown, str(file)]) == 0
    assert "imported 2 publications in 1 room into postgresql://" in capsys.readouterr().out
    before = exported(url)
    file.write_bytes(encoded(header("0", head=1), message(1, "0")) + file.read_bytes())
    status, line = complaint(capsys, "import", "--engine", url.shown, file)
    assert (status, line.count("has a room “a” already")) == (2, 1)
    file.write_bytes(encoded(header("0", head=1), message(1, "0"), header(head=4, first=5)))
    status, line = complaint(capsys, "import", "--engine", url.shown, file)
    assert (status, line.count("has a room “a” already")) == (2, 1)
    assert exported(url) == before


def test_server_that_cannot_be_used(
    server: PostgreSQL, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong URL has status 2, a server that does not answer status 1; each has a sentence."""
    assert complaint(capsys, "import", "--engine", "mysql://db/chat", file)[0] == 2
    nobody = "postgresql://127.0.0.1:9/chat"
    for command in (["export"], ["import", file]):
        status, line = complaint(capsys, *command, "--engine", nobody)
        assert status == 1
        assert line.startswith(f"fastchat: --engine {nobody}: PostgreSQL cannot be reached: ")
    missing = f"{server.url}?schema=missing"
    status, line = complaint(capsys, "export", "--engine", missing)
    assert (status, "the database has no schema 'missing'" in line) == (2, True)
    assert complaint(capsys, "export", "--engine", missing, "--data", ".")[0] == 2


def test_schema_of_another_version(
    url: EngineUrl, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A schema that this program does not know is neither read nor written."""
    asyncio.run(execute(url, "UPDATE identity SET version = 9, readable_from = 9"))
    for command in (["export"], ["import", file], ["engine", "init"], ["engine", "renew"]):
        status, line = complaint(capsys, *command, "--engine", url.shown)
        assert (status, "needs a newer fastchat" in line) == (2, True)


def test_export_of_a_missing_room(url: EngineUrl, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing room is an error, but a ledger without rooms gives an empty export."""
    status, line = complaint(capsys, "export", "--engine", url.shown, "--room", "nowhere")
    assert (status, "there is no room “nowhere” in postgresql://" in line) == (2, True)
    assert main(["export", "--engine", url.shown]) == 0
    assert capsys.readouterr().out == ""


def test_data_overrides_the_environment(
    url: EngineUrl, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --data as a flag, a command is about the directory, even if the variable has a URL."""
    monkeypatch.setenv("FASTCHAT_ENGINE", url.shown)
    assert main(["import", "--data", str(tmp_path / "data"), str(file)]) == 0
    assert exported(url) == b""
    assert main(["import", str(file)]) == 0
    assert exported(url) == from_directory(tmp_path / "data")


def test_killed_server_has_nothing(own_server: PostgreSQL) -> None:
    """If PostgreSQL is killed during an import, nothing is there afterwards; the error says so."""
    url = parse_url(own_server.url)
    asyncio.run(make_ledger(url))
    with pytest.raises(LedgerError, match=r"PostgreSQL .*; nothing was imported"):
        ledger.import_rooms([url], Slow(many(), own_server.crash), "a file", "lobby")
    own_server.start()
    assert exported(url) == b""
    assert count(url, "publications") == 0
    own_server.crash()
    with pytest.raises(LedgerError, match="nothing was imported"):
        ledger.import_rooms([url], io.BytesIO(b"".join(many())), "a file", "lobby")


@in_loop
async def test_commit_in_doubt(own_server: PostgreSQL) -> None:
    """If the connection is lost while the server commits, the error does not say what it cannot
    know."""
    url = await make_ledger(parse_url(own_server.url))
    own_server.configure_now("synchronous_standby_names = 'nobody'")
    async with observer(url) as db:
        importing = asyncio.create_task(import_beside(url, header(head=1), message(1)))
        async with asyncio.timeout(PATIENCE_S):
            waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')"
            while not await db.fetchval(waiting):
                await db.execute("SELECT pg_sleep(0.01)")
    own_server.crash()
    with pytest.raises(LedgerError, match="nobody knows whether the rooms were imported"):
        await importing
