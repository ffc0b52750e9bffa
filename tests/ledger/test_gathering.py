"""Tests of questions that become one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fastchat.ledger import LedgerError, gathering
from fastchat.ledger.gathering import Gathering
from support.ledger import in_loop
from support.server import PATIENCE_S


class Answers:
    """Answers questions with their squares, and notes the calls; each takes a turn of the loop."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.fails = False

    async def __call__(self, keys: Sequence[int]) -> dict[int, int]:
        self.calls.append(list(keys))
        await asyncio.sleep(0)
        if self.fails:
            raise LedgerError("it is away")
        return {key: key * key for key in keys}


@in_loop
async def test_question_is_asked_at_once() -> None:
    """What is asked while a call is under way is in the next one, once, and no more than fit."""
    answers = Answers()
    asked = Gathering(answers, most=3, busy=1000)
    assert await asked.get(2) == 4
    assert await asyncio.gather(*map(asked.get, (1, 2, 3, 2, 4, 5))) == [1, 4, 9, 4, 16, 25]
    assert answers.calls == [[2], [1, 2, 3], [4, 5]]


@in_loop
async def test_very_many_questions_are_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """While many come, a call takes all of some time; afterwards questions are asked at once."""
    monkeypatch.setattr(gathering, "PACE_S", 0.1)
    answers = Answers()
    asked = Gathering(answers, most=1000, busy=5)
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    tasks = []
    for key in range(300):
        tasks.append(asyncio.create_task(asked.get(key)))
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    assert len(answers.calls) <= 5 + 2 + (loop.time() - begun_s) / 0.1
    await asyncio.sleep(0.2)
    number = len(answers.calls)
    for key in (1, 2):
        await asked.get(key)
    assert answers.calls[number:] == [[1], [2]]


@in_loop
async def test_full_calls_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """While many questions come, a call begins as soon as it has as many as fit."""
    monkeypatch.setattr(gathering, "PACE_S", 60.0)
    answers = Answers()
    asked = Gathering(answers, most=3, busy=2)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*map(asked.get, range(9)))
        assert answers.calls == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
        waiting = [asyncio.create_task(asked.get(key)) for key in (10, 11)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(answers.calls) == 3
        await asyncio.gather(asked.get(12), *waiting)
        assert answers.calls[3:] == [[10, 11, 12]]


@in_loop
async def test_error_is_raised_for_all_who_wait() -> None:
    """The next question is asked anew."""
    answers = Answers()
    answers.fails = True
    asked = Gathering(answers, most=10, busy=1000)
    for each in await asyncio.gather(*map(asked.get, (1, 2, 3)), return_exceptions=True):
        assert isinstance(each, LedgerError)
    answers.fails = False
    assert await asked.get(1) == 1


@in_loop
async def test_cancelled_question_takes_no_other_answer() -> None:
    """If one of two askers of the same is cancelled, the other gets the answer."""
    asked = Gathering(Answers(), most=10, busy=1000)
    one, two = (asyncio.create_task(asked.get(3)) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    assert await two == 9
    assert one.cancelled()
