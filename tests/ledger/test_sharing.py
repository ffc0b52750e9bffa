"""Tests of ledgers that share the rooms of one chat: which has what, and which belong together."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence

import asyncpg
import pytest

from contracts.history import draft
from fastchat.errors import SettingError
from fastchat.ledger import LedgerError, WrongLedgerError, sharing
from fastchat.ledger.appending import Limits
from fastchat.ledger.connecting import fetch
from fastchat.ledger.identity import Identity
from fastchat.ledger.sharing import Found, agree, discover, owner_of, settle
from fastchat.ledger.url import EngineUrl, parse_url
from support.ledger import Machine, execute, in_loop, observer, until
from support.machines import chat_url
from support.postgresql import PostgreSQL
from support.server import PATIENCE_S

LIMITS = Limits(stored=100, slack=10)
IDS = ("one", "two")


@pytest.fixture
def fresh(server: PostgreSQL) -> Iterator[list[EngineUrl]]:
    """The URLs of two ledgers that do not exist yet."""
    urls = [parse_url(chat_url(server)) for _ in range(2)]
    yield urls
    server.query("; ".join(f"DROP SCHEMA IF EXISTS {each.schema} CASCADE" for each in urls))


def url_of(name: str) -> EngineUrl:
    return parse_url(f"postgresql://chat:secret@{name}/chat")


def found(id: str, *ledgers: str, at: str = "") -> Found:
    """What is at a URL: a ledger with these ids stored in it."""
    identity = Identity(id, "", "", b"", b"", "", "", 0, 0, 0, "", "", 0, 0, ledgers or (id,))
    return Found(url_of(at or id), identity)


def missing(name: str) -> Found:
    return Found(url_of(name), None, LedgerError("PostgreSQL does not answer"))


def test_each_room_has_one_ledger() -> None:
    """It follows from the ids, in any order, and all have about as many rooms."""
    rooms = [f"room-{number}" for number in range(3000)]
    owners = [owner_of(room, ("a", "b", "c")) for room in rooms]
    assert owners == [owner_of(room, ("c", "a", "b")) for room in rooms]
    assert min(Counter(owners).values()) > 850


def test_rooms_do_not_move_by_an_update() -> None:
    """The rule is a part of the stored data: machines of two versions have to agree on it."""
    ledgers = [f"{number:016x}" for number in range(4)]
    rooms = ("lobby", "b", "c", "d", "чат", "Ünïcode 2")
    assert [ledgers.index(owner_of(room, ledgers)) for room in rooms] == [3, 0, 3, 3, 0, 2]


@pytest.mark.parametrize(("one", "two"), [("paypal", "pаypal"), ("groß", "gross"), ("o0", "oo")])
def test_names_that_look_alike_meet(one: str, two: str) -> None:
    """Only one ledger has to know of rooms whose names look alike."""
    for number in range(20):
        ledgers = [f"{number}-{each}" for each in range(4)]
        assert owner_of(one, ledgers) == owner_of(two, ledgers)


def test_ledgers_agree() -> None:
    """New ones, those of which one has stored the ids, and those of which one is missing."""
    assert agree([found("two"), found("one")]) == IDS
    assert agree([found("two"), found("one", *IDS)]) == IDS
    assert agree([found("two", *IDS), missing("x")]) == IDS


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (
            [found("one", at="db1"), found("one", at="db2")],
            "postgresql://chat:…@db1/chat and postgresql://chat:…@db2/chat are the same ledger; "
            "give each one once.",
        ),
        (
            [found("one", *IDS), found("two", "two", "x")],
            "belong to different chats; export one of them, and import it into the other.",
        ),
        (
            [found("one", *IDS), found("three")],
            "@three/chat is not one of the 2 that share the chat of postgresql://chat:…@one/chat; ",
        ),
        (
            [found("one", *IDS), found("two", *IDS), found("three")],
            "@three/chat is not one of the 2",
        ),
        ([found("one", "one", "two", "x"), found("two", "one", "two", "x")], "3 ledgers share"),
        ([found("one", *IDS), found("two", *IDS), missing("x")], "2 ledgers share the chat"),
    ],
)
def test_wrong_ledgers_are_refused(places: Sequence[Found], words: str) -> None:
    """Each sentence says which ledger does not belong here, whatever the order of the URLs is."""
    for order in (places, places[::-1]):
        with pytest.raises(SettingError) as refused:
            agree(order)
        if order is places:
            assert words in str(refused.value)
        assert "secret" not in str(refused.value)


def test_new_ledgers_have_to_be_there_all() -> None:
    """Otherwise the one that is missing could be of another chat, or the wrong one."""
    for places in ([found("one"), missing("two")], [missing("two"), missing("one")]):
        with pytest.raises(LedgerError, match="@two/chat: PostgreSQL does not answer; when"):
            agree(places)


async def stored(url: EngineUrl) -> tuple[list[str], bytes, str]:
    async with observer(url) as db:
        return tuple(await db.fetchrow("SELECT ledgers, user_key, token FROM identity"))


@in_loop
async def test_machines_store_the_ids_once(fresh: list[EngineUrl]) -> None:
    """Machines that start at the same moment, with the URLs in any order, store the same."""
    orders = [fresh, fresh[::-1], fresh]
    settled = await asyncio.gather(*(settle(order) for order in orders))
    shares = [dict(each) for each in settled]
    assert shares[0] == shares[1] == shares[2]
    kept = [await stored(url) for url in fresh]
    ids = shares[0][fresh[0]].ledgers
    assert list(ids) == sorted(ids)
    assert [each[0] for each in kept] == [list(ids)] * 2
    assert len({each[1] for each in kept}) == 1, "guests have one id in all rooms"
    tokens = [each[2] for each in kept]
    await settle(fresh)
    assert [(await stored(url))[2] for url in fresh] == tokens


@in_loop
async def test_interrupted_start_is_completed(
    fresh: list[EngineUrl], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the first start ends between two ledgers, the next one goes on, and refuses others."""
    commits = 0

    async def interrupted(db: asyncpg.Connection, query: str, *arguments: object) -> object:
        nonlocal commits
        commits += query == "COMMIT"
        if commits == 2:
            raise OSError("the process ends here")
        return await fetch(db, query, *arguments)

    monkeypatch.setattr(sharing, "fetch", interrupted)
    with pytest.raises(LedgerError, match="the process ends here"):
        await settle(fresh)
    monkeypatch.undo()
    counts = {url: len((await stored(url))[0]) for url in fresh}
    assert sorted(counts.values()) == [1, 2]
    other = parse_url(f"{fresh[0].shown}_other")
    laid = max(fresh, key=lambda url: counts[url])
    with pytest.raises(SettingError, match="is not one of the 2"):
        await settle([laid, other])
    await settle(fresh[::-1])
    kept = [await stored(url) for url in fresh]
    assert len({(tuple(ids), key) for ids, key, _ in kept}) == 1


@in_loop
async def test_ledger_that_was_used_alone_is_refused(fresh: list[EngineUrl]) -> None:
    """Its rooms could belong to another ledger. The sentence says the way out."""
    await discover(fresh[0])
    machine = Machine(fresh[0], LIMITS)
    await machine.session.open()
    await machine.append(draft("Hello"))
    await machine.session.close()
    with pytest.raises(SettingError, match=r"has rooms that were made without .* import them with"):
        await settle(fresh)
    kept = [await stored(url) for url in fresh]
    assert [len(ids) for ids, *_ in kept] == [1, 1], "nothing was stored"


@in_loop
async def test_machine_that_knows_of_one_ledger_can_do_nothing_any_more(
    fresh: list[EngineUrl],
) -> None:
    """It was connected when the ids were stored. It would store rooms of other ledgers."""
    await discover(fresh[0])
    machine = Machine(fresh[0], LIMITS)
    await machine.session.open()
    await settle(fresh)
    with pytest.raises(LedgerError):
        async with asyncio.timeout(PATIENCE_S):
            await machine.append(draft("Hello"))
    await until(lambda: "one of 2 ledgers" in machine.session.health.failure)
    await machine.session.close()
    async with observer(fresh[0]) as db:
        assert await db.fetchval("SELECT count(*) FROM rooms") == 0


@in_loop
async def test_role_that_owns_nothing_can_store_the_ids(
    server: PostgreSQL, fresh: list[EngineUrl]
) -> None:
    """The rights that docs/machines.md grants are enough for the first start of the machines."""
    await asyncio.gather(*(discover(url) for url in fresh))
    role = f"role_{secrets.token_hex(4)}"
    await execute(fresh[0], f"CREATE ROLE {role} LOGIN")
    for url in fresh:
        grants = (
            f"GRANT USAGE ON SCHEMA {url.schema} TO {role}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA {url.schema} "
            f"TO {role}",
        )
        await execute(url, "; ".join(grants))
    try:
        await settle([parse_url(url.shown.replace("postgres@", f"{role}@")) for url in fresh])
        assert {len((await stored(url))[0]) for url in fresh} == {2}
    finally:
        await execute(fresh[0], f"DROP OWNED BY {role}; DROP ROLE {role}")


@in_loop
async def test_each_connection_compares_the_ids(fresh: list[EngineUrl]) -> None:
    """A machine without the others, or with other ids than those that are stored, is refused."""
    shares = dict(await settle(fresh))
    share = shares[fresh[0]]
    wrong = (
        None,
        shares[fresh[1]],
        share._replace(ledgers=share.ledgers[:1]),
        share._replace(ledgers=share.ledgers[::-1]),
    )
    for each in wrong:
        with pytest.raises(WrongLedgerError):
            await Machine(fresh[0], LIMITS, share=each).session.open()
    machine = Machine(fresh[0], LIMITS, share=share)
    await machine.session.open()
    await machine.session.close()
