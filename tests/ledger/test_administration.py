"""Tests of `fastchat engine init`, `accept` and `renew`."""

from __future__ import annotations

import asyncio
import io
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.history import draft, edit
from fastchat.cli import main
from fastchat.ledger import administration, schema, transfer
from fastchat.ledger.appending import Limits
from fastchat.ledger.attendance import Attendance, Times
from fastchat.ledger.erasing import Eraser, new_erasure, purge
from fastchat.ledger.listing import Listing
from fastchat.ledger.options import store_options
from fastchat.ledger.schema import Migration
from fastchat.ledger.upkeep import Upkeep
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.metrics import Metrics
from fastchat.rooms import Member, Removal
from support.ledger import Machine, in_loop, observer
from support.machines import chat_url
from support.postgresql import PostgreSQL
from support.server import PATIENCE_S

LIMITS = Limits(stored=100, slack=10)


def engine(action: str, url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The exit status of a command, its output, and its complaint."""
    status = main(["engine", action, "--engine", url])
    return status, *capsys.readouterr()


def test_init_says_what_it_did(
    server: PostgreSQL, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes the schema, then leaves it alone, then migrates it."""
    url = chat_url(server)
    name = url.partition("schema=")[2]
    assert engine("init", url, capsys) == (0, f"made the schema '{name}', version 1\n", "")
    again = f"the schema '{name}' is there already, with version 1\n"
    assert engine("init", url, capsys) == (0, again, "")
    migrations = (Migration(2, 1, "CREATE TABLE more (a text)"),)
    monkeypatch.setattr(schema, "MIGRATIONS", migrations)
    migrated = f"migrated the schema '{name}' from version 1 to version 2\n"
    assert engine("init", url, capsys) == (0, migrated, "")


def test_init_lets_ledgers_share_rooms(
    server: PostgreSQL, capsys: pytest.CaptureFixture[str]
) -> None:
    """With several URLs, it makes the schemas, and stores which of them belong together. The other
    commands are about each of the URLs."""
    urls = [chat_url(server) for _ in range(2)]
    engines = [argument for url in urls for argument in ("--engine", url)]
    assert main(["engine", "init", *engines]) == 0
    made, also, together = capsys.readouterr().out.splitlines()
    for url, line in zip(urls, (made, also), strict=True):
        schema = url.partition("schema=")[2]
        assert line == f"{url}: made the schema '{schema}', version 1"
    assert together == "2 ledgers share the rooms of one chat"
    assert engine("renew", urls[0], capsys)[0] == 0
    assert main(["engine", "renew", *engines]) == 0
    assert capsys.readouterr().out.count("renewed the ledger's token") == 2
    assert main(["files", *engines]) == 0
    assert capsys.readouterr().out == "0 shared files (0 bytes)\n"
    assert main(["engine", "init", "--engine", chat_url(server), *engines]) == 2
    assert "is not one of the 2 that share the chat" in capsys.readouterr().err


def test_command_needs_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a URL, the command says so; without a server too, with another status."""
    assert main(["engine", "renew"]) == 2
    assert "--engine is missing" in capsys.readouterr().err
    status, _, complaint = engine("accept", "postgresql://127.0.0.1:9/chat", capsys)
    assert (status, complaint.count("\n")) == (1, 1)
    assert "PostgreSQL cannot be reached" in complaint


def test_renew_gives_other_epochs(server: PostgreSQL, capsys: pytest.CaptureFixture[str]) -> None:
    """Each call draws another token. Without a schema there is nothing to renew."""
    url = chat_url(server)
    name = url.partition("schema=")[2]
    assert engine("renew", url, capsys)[0] == 2
    engine("init", url, capsys)
    tokens = set()
    for _ in range(2):
        status, report, complaint = engine("renew", url, capsys)
        assert (status, report.count("\n"), complaint) == (0, 1, "")
        assert report.startswith("renewed the ledger's token: all rooms have new epochs")
        tokens.add(server.query(f"SELECT token FROM {name}.identity"))  # noqa: S608
    assert len(tokens) == 2


@in_loop
async def test_renew_reaches_running_machines(url: EngineUrl) -> None:
    """A machine that runs connects anew, and nobody recovers over what may be missing."""
    machine = Machine(url, LIMITS)
    await machine.session.open()
    try:
        await machine.append(draft("one"))
        old = await machine.reader.position("a")
        token = machine.session.identity.token

        def is_renewed() -> bool:
            return machine.session.identity.token != token and machine.session.is_connected

        await administration.renew(url)
        async with asyncio.timeout(PATIENCE_S):
            while not is_renewed():  # noqa: ASYNC110 there is no event to wait for
                await asyncio.sleep(0.02)
        await machine.append(draft("two"))
        assert (await machine.reader.position("a")).epoch != old.epoch
        assert await machine.reader.since("a", old, 10) is None
    finally:
        await machine.session.close()


def recipe(role: str, name: str) -> str:
    """The statements of docs/machines.md that give a role its rights in a schema."""
    text = (Path(__file__).parents[2] / "docs" / "machines.md").read_text("utf-8")
    (statements,) = re.findall(r"```sql\n(GRANT .*?)```", text, re.DOTALL)
    assert isinstance(statements, str)
    return statements.replace("SCHEMA fastchat", f"SCHEMA {name}").replace("TO chat", f"TO {role}")


@pytest.fixture
def role(server: PostgreSQL) -> Iterator[str]:
    name = f"role_{secrets.token_hex(4)}"
    server.query(f"CREATE ROLE {name} LOGIN")
    yield name
    server.query(f"DROP OWNED BY {name}; DROP ROLE {name}")


@in_loop
async def test_role_that_owns_nothing(server: PostgreSQL, url: EngineUrl, role: str) -> None:
    """With the rights of the documentation, a machine does all that a machine does, also in tables
    that a later version adds."""
    server.query(recipe(role, url.schema))
    migrations = (Migration(2, 1, "CREATE TABLE more (number bigserial)"),)
    async with observer(url) as db:
        await schema.prepare_schema(db, url.schema, migrations)
    plain = parse_url(url.shown.replace("postgres@", f"{role}@"))
    assert (await schema.prepare_ledger(plain)) == (2, 2)
    machine = Machine(plain, LIMITS)
    await machine.session.open()
    try:
        await machine.append(*(draft(f"number {n}", id=str(n)) for n in range(120)), edit(1))
        assert (await machine.reader.load(["a"], 1))["a"].first > 1, "nothing was pruned"
        assert len(await machine.search.search("a", "number", 5)) == 5
        await Upkeep(
            machine.session, clock=time.time, max_age_s=1.0, metrics=Metrics(), remember_ids_s=0.0
        ).tick()
        assert await machine.session.fetch("INSERT INTO more DEFAULT VALUES RETURNING 1")
        attendance = Attendance(machine.session, Times())
        attendance.connected()
        assert (await attendance.enter("a", Member("Ann", "u_1"))).is_in
        await attendance.say_spectators()
        removal = Removal("a", "u_1", None, 10, "Mod")
        assert await attendance.remove(removal) is not None
        await attendance.tick()
        await attendance.keep_out("a", "u_2", 10.0)
        assert await attendance.lift("a", "u_2")
        await attendance.close()
        await store_options(machine.session, "a", {"slow_s": 1})
        await machine.append(draft("to be erased"))
        eraser = Eraser(machine.session)
        async with machine.session.storing() as store:
            step = await eraser.erase(store, "user Alice", new_erasure(), None)
        assert step[0].messages == 1
        deletion = await eraser.delete_room("a")
        assert deletion.number is not None
        await eraser.release(deletion.number)
        await purge(machine.session)
        assert [each.head for each in await Listing(machine.session).rooms("", "", 10)] == [0]
        await machine.append(draft("another room of this name"))
        await administration.renew(plain)
        await administration.accept(plain)
    finally:
        await machine.session.close()
    out = io.BytesIO()
    await asyncio.to_thread(transfer.export_rooms, [plain], None, out)
    foreign = io.BytesIO(b'{"username":"Ann","text":"one"}')
    await asyncio.to_thread(transfer.import_rooms, [plain], foreign, "a file", "lobby")
