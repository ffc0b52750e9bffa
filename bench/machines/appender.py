"""A machine that only publishes: it commits one batch of messages after the other.

    python bench/machines/appender.py URLS NAME SECONDS ROOMS BATCH SHARE PAUSE

It makes the ledger if there is none, prints a line when it is connected, and begins when it reads
one. If several URLs are given, separated by white space, each ledger has its part of the ROOMS, and
the machine commits in all of them side by side. SHARE of the messages, from 0 to 1, have an id.
There are PAUSE seconds between two commits. At the end it prints a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import uvloop

from fastchat.ledger import LedgerError
from fastchat.ledger.appending import Batch, Limits
from fastchat.ledger.identity import Share, Witness
from fastchat.ledger.notes import notes_of
from fastchat.ledger.schema import prepare_ledger
from fastchat.ledger.session import Session
from fastchat.ledger.sharing import owner_of, settle
from fastchat.ledger.upkeep import Upkeep
from fastchat.ledger.url import parse_url
from fastchat.metrics import Metrics
from fastchat.protocol import MessageDraft
from fastchat.protocol.publications import timestamps

#: What rooms store by default; what is older is deleted.
LIMITS = Limits(stored=10_000, slack=1250)
TEXT = "x" * 100
USERS = 50
#: A commit can begin in the last second and take this long.
PATIENCE_S = 10


class Appender:
    """The user of a session that hears what all machines tell, and does nothing with it."""

    heard_bytes = 0

    def connected(self) -> None:
        """Do nothing."""

    def disconnected(self, why: LedgerError) -> None:
        raise SystemExit(f"the connections are lost: {why}")

    def heard(self, payload: str) -> None:
        self.heard_bytes += len(payload)

    def beaten(self, machines: Sequence[Sequence[Any]]) -> None:
        """Do nothing."""


def rooms_of(share: Share | None, count: int) -> list[str]:
    """The names of a ledger's part of so many rooms."""
    names = (f"room-{number}" for number in range(1_000_000))
    if share is None:
        return list(islice(names, count))
    own = (name for name in names if owner_of(name, share.ledgers) == share.ledger)
    return list(islice(own, count // len(share.ledgers)))


def drafts(name: str, rooms: Sequence[str], share: float) -> Iterator[MessageDraft]:
    """Messages for the rooms in turn; of `share` of them, each id is another one."""
    number, with_id = 0, 0.0
    now = timestamps(time.time)
    while True:
        number += 1
        with_id += share
        id = None
        if with_id >= 1:
            with_id -= 1
            id = f"{name}-{number}"
        user = f"u_{number % USERS}"
        yield MessageDraft(rooms[number % len(rooms)], "Somebody", TEXT, now(), user, id)


async def publish(
    session: Session, seconds: float, size: int, pause_s: float, waiting: Iterator[MessageDraft]
) -> dict[str, Any]:
    upkeep = Upkeep(session, clock=time.time, metrics=Metrics())
    started = due = time.monotonic()
    commits: list[float] = []
    counts: list[int] = [0] * (int(seconds) + PATIENCE_S)  # of each second
    while (now := time.monotonic()) < started + seconds:
        if now >= due:
            due += 1
            await upkeep.tick()
        batch = Batch([next(waiting) for _ in range(size)], session.identity.generation)
        arguments = batch.arguments({})
        assert arguments is not None
        begun = time.perf_counter()
        published = batch.settle(await session.commit(LIMITS, arguments))
        commits.append(time.perf_counter() - begun)
        runs = {room: each.publications for room, each in published.items()}
        counts[int(time.monotonic() - started)] += sum(map(len, runs.values()))
        session.tell(notes_of(session.machine, session.last_commit, runs))
        if pause_s:
            await asyncio.sleep(pause_s)
    return {"seconds": time.monotonic() - started, "counts": counts, "commits": commits}


async def main(urls: str, name: str, *numbers: str) -> None:
    seconds, rooms, size, share_of_ids, pause_s = map(float, numbers)
    sessions: list[tuple[Session, list[str]]] = []
    for url, share in await settle([parse_url(each) for each in urls.split()]):
        if share is None:
            await prepare_ledger(url)
        session = Session(url, name, secrets.token_hex(8), Appender(), Witness(), share)
        await session.open()
        sessions.append((session, rooms_of(share, int(rooms))))
    print("connected", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    told = await asyncio.gather(
        *(
            publish(session, seconds, int(size), pause_s, drafts(name, names, share_of_ids))
            for session, names in sessions
        )
    )
    print(json.dumps(_sum(told)), flush=True)
    for session, _ in sessions:
        await session.close()


def _sum(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was published in all ledgers."""
    return {
        "seconds": max(each["seconds"] for each in told),
        "counts": [sum(counts) for counts in zip(*(each["counts"] for each in told), strict=True)],
        "commits": [commit for each in told for commit in each["commits"]],
    }


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
