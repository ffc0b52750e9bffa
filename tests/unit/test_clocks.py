"""The clock by which ages are judged, while somebody sets the wall clock."""

from __future__ import annotations

import random

import pytest

from fastchat.clocks import AgeClock, steady

HOUR_S = 3600.0


class Machine:
    """A machine whose wall clock can be wrong; an age clock is asked once a second."""

    def __init__(self, window_s: float = HOUR_S, lead_s: float = 0.0) -> None:
        self.booted_s = 1_750_000_000.0
        self.uptime_s = 1000.0
        self.lead_s = lead_s
        self.steps: list[float] = []
        self.window_s = window_s
        self.ages = self.new_clock()
        self.ages()

    def new_clock(self) -> AgeClock:
        return AgeClock(
            self.window_s, wall=self.wall, steady=lambda: self.uptime_s, on_step=self.steps.append
        )

    def restart(self, *, boot: bool = False) -> None:
        """Start the process again, and perhaps the machine, which takes a minute."""
        leads, self.ages = self.ages.leads, self.new_clock()
        if boot:
            self.booted_s, self.uptime_s = self.booted_s + self.uptime_s + 57, 3.0
        self.ages.resume(leads, is_same_boot=not boot)
        self.ages()

    def wall(self) -> float:
        return self.booted_s + self.uptime_s + self.lead_s

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.uptime_s += 1
            self.ages()

    def age(self, record: float) -> float:
        return self.ages() - record


def test_age_is_exact_under_a_right_clock() -> None:
    machine = Machine()
    record = machine.wall()
    machine.run(1800)
    assert machine.age(record) == 1800


@pytest.mark.parametrize("lead_s", [3 * HOUR_S, -3 * HOUR_S, 86_400 * 365 * 20, -86_400 * 365 * 20])
def test_record_is_not_older_than_it_is_after_the_clock_was_set(lead_s: float) -> None:
    """A record from before, or from after, the clock was set right is not taken for an old one."""
    machine = Machine(lead_s=lead_s)
    machine.run(10)
    before = machine.wall()
    machine.run(10)
    machine.lead_s = 0.0
    after = machine.wall()
    machine.run(10)
    assert machine.age(before) <= 20
    assert machine.age(after) <= 10


@pytest.mark.parametrize("boot", [False, True], ids=["restart", "reboot"])
@pytest.mark.parametrize("lead_s", [3 * HOUR_S, -3 * HOUR_S])
def test_step_is_known_after_a_restart(lead_s: float, boot: bool) -> None:
    """A record from before the step is not taken for an old one, and is old in the end."""
    machine = Machine(lead_s=lead_s)
    machine.run(10)
    record = machine.wall()
    machine.lead_s = 0.0
    machine.run(10)
    machine.restart(boot=boot)
    machine.restart(boot=boot)
    assert len(machine.steps) == 1
    assert machine.age(record) <= 10 + 60 * 2
    assert machine.age(machine.wall()) <= 0
    machine.run(int(HOUR_S))
    assert machine.age(machine.wall()) == 0
    assert machine.age(record) == pytest.approx(HOUR_S + 10 + 120 * boot - lead_s)


@pytest.mark.parametrize("lead_s", [3 * HOUR_S, -3 * HOUR_S])
def test_step_while_no_process_runs_is_noticed(lead_s: float) -> None:
    """The time since the boot shows it."""
    machine = Machine()
    machine.run(10)
    record = machine.wall()
    machine.lead_s = lead_s
    machine.uptime_s += 100
    machine.restart()
    assert machine.steps == [lead_s]
    assert machine.age(record) <= 100


def test_each_step_is_reported_once() -> None:
    """Also a step back to a time that the clock had before."""
    machine = Machine()
    for lead_s in (0.0, 0.5, 3 * HOUR_S, 3 * HOUR_S, 0.0):
        machine.lead_s = lead_s
        machine.run(10)
    assert machine.steps == [3 * HOUR_S, -3 * HOUR_S]


def test_age_is_exact_again_after_the_window() -> None:
    """Then no record is left that was made under the wrong clock."""
    machine = Machine(lead_s=-20 * 365 * 86_400)
    machine.lead_s = 0.0
    machine.run(int(HOUR_S) + 2)
    record = machine.wall()
    machine.run(100)
    assert machine.age(record) == pytest.approx(100, abs=1)


def test_clock_that_was_wrong_for_a_while_ages_nothing_early() -> None:
    """Set back and forward again: what was said meanwhile keeps its time."""
    machine = Machine()
    machine.run(10)
    machine.lead_s = -3 * HOUR_S
    machine.run(5)
    record = machine.wall()
    machine.run(5)
    machine.lead_s = 0.0
    machine.run(600)
    assert machine.age(record) == pytest.approx(605, abs=1)


@pytest.mark.parametrize("seed", range(20))
def test_no_record_of_the_window_ever_looks_older_than_it_is(seed: int) -> None:
    """Whatever somebody does to the clock."""
    chance = random.Random(seed)
    machine = Machine(window_s=300.0)
    records: list[tuple[float, float]] = []
    for _ in range(400):
        if chance.random() < 0.05:
            machine.lead_s = chance.uniform(-1e6, 1e6)
        machine.run(chance.randint(1, 20))
        records.append((machine.uptime_s, machine.wall()))
        for made_s, record in records:
            if machine.uptime_s - made_s <= 300:
                assert machine.age(record) <= machine.uptime_s - made_s + 1


def test_steady_clock_moves_forward() -> None:
    assert steady() <= steady()
