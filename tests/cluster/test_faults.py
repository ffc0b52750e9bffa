"""Three machines on one PostgreSQL, while everything that can happen to either happens.

The short runs are part of every test run; environment variables make them longer (`make soak`):
SOAK_MACHINE_CLIENTS, _MACHINE_ROOMS, _MACHINE_FAULTS, _LOSSY_FAULTS, _SPREAD_FAULTS, _DISCONNECTS
(a second) and _SEED.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from checker import check
from checker.cluster import ClusterPlan, Outcome, run_machines, without_tokens
from checker.machines import LOSSY
from support.namespaces import in_own_network, why_no_networks
from support.postgresql import find_programs

pytestmark = pytest.mark.skipif(
    find_programs() is None, reason="no PostgreSQL: apt-get install postgresql (as root)"
)

#: Faults that take little time, of each kind of thing that fails.
QUICK = (
    "crash",
    "frozen commit",
    "full disk",
    "killed relay",
    "lost answers",
    "lost note",
    "synchronous promotion",
    "terminated backends",
)
#: All faults after which nothing may be missing that anybody has seen.
SAFE = (
    *QUICK,
    "absent standby",
    "ended machine",
    "exhausted connections",
    "frozen backend",
    "killed backend",
    "killed machine",
    "lost questions",
    "open snapshot",
    "partition",
    "slow sync",
    "stopped machine",
    "terminated backend",
)


def setting(name: str, default: int) -> int:
    return int(os.environ.get(f"SOAK_{name}", default))


def drawn(kinds: Sequence[str], count: int, chance: random.Random) -> list[str]:
    """So many faults, of all kinds equally often."""
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += chance.sample(kinds, len(kinds))
    return drawn[:count]


def run(
    name: str, quick: Sequence[str], kinds: Sequence[str], folder: Path, *, spread: bool = False
) -> Outcome:
    """Run faults of these kinds, as many as the environment says, or each of the quick ones."""
    seed = setting("SEED", random.randrange(1 << 32))
    print(f"SOAK_SEED={seed}")
    count = setting(name, 0)
    clients = setting("MACHINE_CLIENTS", 30)
    plan = ClusterPlan(
        seed=seed,
        clients=clients,
        # Of so many rooms, each ledger has some.
        rooms=setting("MACHINE_ROOMS", 12 if spread else 6),
        faults=drawn(kinds, count, random.Random(seed)) if count else quick,
        disconnects_per_s=setting("DISCONNECTS", 5),
        uptime_s=(0.2, 2.0) if count else (0.2, 0.8),
        longest_s=20.0 if count else 7.0,
        # The checker shares the machine with the servers, so each client pauses longer if there
        # are many.
        interval_s=max(0.3, clients / 200),
        spread=spread,
    )
    outcomes: list[Outcome] = []

    def run() -> None:
        outcomes.append(asyncio.run(run_machines(plan, folder)))

    if why_no_networks():
        run()
    else:
        in_own_network((), run)
    (outcome,) = outcomes
    print(outcome.summary)
    anomalies = check(outcome.records)
    assert not anomalies, "\n".join(map(str, anomalies[:20]))
    for log in outcome.logs:
        assert "Traceback" not in log, log
        assert "internal error" not in log, log
    return outcome


def test_no_anomaly_on_several_machines(tmp_path: Path) -> None:
    """Whatever happens to machines and to PostgreSQL causes no anomaly, and costs nothing that
    anybody has seen, as long as each server that takes over has all commits."""
    outcome = run("MACHINE_FAULTS", QUICK, SAFE, tmp_path)
    anomalies = check(without_tokens(outcome.records))
    assert not anomalies, "\n".join(map(str, anomalies[:20]))


def test_no_anomaly_when_publications_are_lost(tmp_path: Path) -> None:
    """If a standby that lacks commits takes over, or a backup is put back, nobody is told that
    they have recovered what is gone."""
    lossy = sorted(LOSSY)
    outcome = run("LOSSY_FAULTS", lossy, lossy, tmp_path)
    assert outcome.lost > 0


def test_no_anomaly_with_two_ledgers(tmp_path: Path) -> None:
    """If the rooms are spread over two PostgreSQLs, and one of them and machines have faults,
    nothing is missing in the rooms of either."""
    quick = ("crash", "killed relay", "lost note", "synchronous promotion")
    outcome = run("SPREAD_FAULTS", quick, SAFE, tmp_path, spread=True)
    anomalies = check(without_tokens(outcome.records))
    assert not anomalies, "\n".join(map(str, anomalies[:20]))
