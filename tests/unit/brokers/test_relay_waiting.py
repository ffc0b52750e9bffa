"""Requests that wait for the rooms: how they begin, wait side by side, fail and are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from contracts.broker import PATIENCE_S, run_in_loop
from fastchat.brokers.relay.waiting import Waiting, begin


class Log(list[str]):
    """What has happened, in order."""

    async def step(
        self, name: str, *awaited: Coroutine[Any, Any, Any] | asyncio.Future[Any]
    ) -> Any:
        """Note a begin and an end, with an `await` of each argument in between."""
        self.append(f"{name} begins")
        try:
            for each in awaited:
                self.append(f"{name} gets {await each}")
        except BaseException as error:
            self.append(f"{name} fails: {type(error).__name__}")
            raise
        self.append(f"{name} ends")


def run(test: Callable[[Log], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test(Log())

    run_in_loop(body())


def future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


# begin()


def test_coroutine_that_does_not_suspend_needs_no_task() -> None:
    """It has ended when `begin` returns, and an exception of it is raised."""

    async def test(log: Log) -> None:
        assert begin(log.step("a")) is None
        assert log == ["a begins", "a ends"]
        done = future()
        done.set_exception(KeyError())
        with pytest.raises(KeyError):
            begin(log.step("b", done))
        assert len(asyncio.all_tasks()) == 1

    run(test)


def test_rest_of_a_coroutine_runs_in_a_task() -> None:
    """Its first step has run when `begin` returns. It gets the results of what it awaits, in every
    later step, too."""

    async def test(log: Log) -> None:
        first, second = future(), future()
        task = begin(log.step("a", first, asyncio.sleep(0, "slept"), second, asyncio.sleep(0)))
        assert task is not None
        assert log == ["a begins"]
        first.set_result(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second.set_result(2)
        await task
        assert log == ["a begins", "a gets 1", "a gets slept", "a gets 2", "a gets None", "a ends"]

    run(test)


@pytest.mark.parametrize("turns", [0, 3])
def test_exception_of_the_awaited_future_reaches_the_coroutine(turns: int) -> None:
    """It does so whether the future fails before the first step of the task or after it."""

    async def test(log: Log) -> None:
        failing = future()
        task = begin(log.step("a", failing))
        assert task is not None
        for _ in range(turns):
            await asyncio.sleep(0)
        failing.set_exception(KeyError())
        with pytest.raises(KeyError):
            await task
        assert log == ["a begins", "a fails: KeyError"]

    run(test)


@pytest.mark.parametrize("turns", [0, 3])
def test_cancelled_task_cancels_the_coroutine_and_what_it_awaits(turns: int) -> None:
    """It does so whether the task is cancelled before its first step or after it."""

    async def test(log: Log) -> None:
        awaited = future()
        task = begin(log.step("a", awaited))
        assert task is not None
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert awaited.cancelled()
        assert log == ["a begins", "a fails: CancelledError"]

    run(test)


@pytest.mark.parametrize("turns", [0, 3])
def test_coroutine_can_await_further_when_it_is_cancelled(turns: int) -> None:
    """For example, it can wait for the end of what it has begun."""

    async def finish(log: Log, awaited: asyncio.Future[Any], end: asyncio.Future[Any]) -> None:
        try:
            await log.step("a", awaited)
        finally:
            await log.step("b", end)

    async def test(log: Log) -> None:
        end = future()
        task = begin(finish(log, future(), end))
        assert task is not None
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        while "b begins" not in log:  # noqa: ASYNC110 there is no event to wait for
            await asyncio.sleep(0)
        end.set_result("done")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log[-3:] == ["b begins", "b gets done", "b ends"]

    run(test)


def test_rest_of_a_coroutine_can_use_timeouts() -> None:
    """After its first step, the coroutine runs in its task, like any other."""

    async def wait() -> None:
        await asyncio.sleep(0)
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    async def test(log: Log) -> None:
        task = begin(wait())
        assert task is not None
        with pytest.raises(TimeoutError):
            await task

    run(test)


# Waiting


class Owner:
    """Records the calls of a `Waiting`."""

    def __init__(self, limit: int = 10) -> None:
        self.ends: list[bool] = []  # whether the limit was still reached
        self.failures: list[BaseException] = []
        self.waiting = Waiting(limit, ended=self.end, failed=self.failures.append)

    def end(self) -> None:
        self.ends.append(self.waiting.is_full)

    async def until(self, count: int) -> None:
        """Wait until so many requests wait."""
        while len(self.waiting) > count:  # noqa: ASYNC110 there is no event to wait for
            await asyncio.sleep(0)


def test_requests_wait_side_by_side() -> None:
    """They begin in order, and none waits for an earlier one."""

    async def test(log: Log) -> None:
        owner, first = Owner(), future()
        owner.waiting.begin(log.step("a", first))
        owner.waiting.begin(log.step("b", asyncio.sleep(0)))
        owner.waiting.begin(log.step("c"))
        assert log == ["a begins", "b begins", "c begins", "c ends"]
        assert len(owner.waiting) == 2
        await owner.until(1)
        assert log[-1] == "b ends"
        first.set_result(None)
        await owner.until(0)
        assert log[-1] == "a ends"

    run(test)


def test_owner_is_told_of_each_end() -> None:
    """Requests that read count as well. More than the limit can be begun."""

    async def test(log: Log) -> None:
        owner = Owner(limit=2)
        gates = [future() for _ in range(4)]
        for number, gate in enumerate(gates):
            owner.waiting.begin(log.step(str(number), gate), reads=number % 2 == 0)
            assert owner.waiting.is_full == (number >= 1)
        owner.waiting.begin(log.step("at once"))
        assert owner.ends == []
        for gate in gates[:3]:
            gate.set_result(None)
        await owner.until(1)
        assert owner.ends == [True, True, False]
        gates[3].set_exception(KeyError())
        await owner.until(0)
        assert owner.ends == [True, True, False, False]

    run(test)


def test_failure_of_a_request_is_reported_once() -> None:
    """The first step raises; a later step calls `failed`."""

    async def test(log: Log) -> None:
        owner, failing = Owner(), future()
        failing.set_exception(KeyError())
        with pytest.raises(KeyError):
            owner.waiting.begin(log.step("a", failing))
        owner.waiting.begin(log.step("b", asyncio.sleep(0), failing))
        await owner.until(0)
        assert [type(error) for error in owner.failures] == [KeyError]

    run(test)


def test_only_requests_that_read_are_cancelled() -> None:
    """The others run to their end, because nobody would know whether they took effect."""

    async def test(log: Log) -> None:
        owner, gate = Owner(), future()
        owner.waiting.begin(log.step("a", gate))
        owner.waiting.begin(log.step("b", future()), reads=True)
        owner.waiting.cancel_reads()
        await owner.until(1)
        assert log == ["a begins", "b begins", "b fails: CancelledError"]
        gate.set_result(None)
        await owner.until(0)
        assert log[-1] == "a ends"
        assert owner.failures == []

    run(test)
