"""Hooks: a service of the operator's is asked before a command runs, or before a client joins.

A command waits for the answer together with those that its client has sent behind it. Nobody else
waits. If the service does not answer in time, or not as it should, the command is allowed or
refused, as the operator has chosen (`on-failure`). A service that keeps failing is left alone for a
while by a circuit breaker, so that clients do not wait for it in vain.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import orjson

from fastchat.errors import CommandError, ErrorCode
from fastchat.metrics import Metrics
from fastchat.webhooks.answers import (
    BadAnswer,
    Disconnect,
    JoinAnswer,
    PublishAnswer,
    Refuse,
    parse_join,
    parse_publish,
)
from fastchat.webhooks.config import BEFORE_JOIN, BEFORE_PUBLISH, Config, Hook
from fastchat.webhooks.outcome import NotDeliveredError

__all__ = ["Ask", "Breaker", "Hooks"]

logger = logging.getLogger("fastchat.webhooks")

#: Questions of a process to a service at the same time. Further ones wait, within their time.
MAX_QUESTIONS = 64
#: The breaker opens after so many failures in a row, and then lets one question through every so
#: many seconds.
FAILURES, OPEN_S = 5, 5.0

Answer = TypeVar("Answer", PublishAnswer, JoinAnswer)


class Breaker:
    """A circuit breaker: it says whether a service is to be asked. Its states:

    * closed: every question is asked;
    * open, after FAILURES in a row: none is asked for OPEN_S;
    * half open, afterwards: one question is asked, whose success closes the breaker, and whose
      failure opens it again.

    `clock`: monotonic seconds. Each change is logged once.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._failures = 0
        self._until_s = 0.0
        self.is_open = False

    def allows(self) -> bool:
        """Whether to ask; if the breaker is half open, only the first caller may."""
        if not self.is_open:
            return True
        now = self._clock()
        if now < self._until_s:
            return False
        self._until_s = now + OPEN_S
        return True

    def retry_now(self) -> None:
        """Be half open now, if open."""
        self._until_s = self._clock()

    def succeed(self) -> None:
        self._failures = 0
        if self.is_open:
            self.is_open = False
            logger.info("%s: the service answers again", self._name)

    def fail(self, why: str, effect: str) -> None:
        """Count a failure; `effect` is what happens without an answer, for the log."""
        self._failures += 1
        if self.is_open:
            self._until_s = self._clock() + OPEN_S
        elif self._failures >= FAILURES:
            self.is_open = True
            self._until_s = self._clock() + OPEN_S
            logger.error(
                "%s: the service has failed %d times in a row (%s); %s until it answers",
                *(self._name, self._failures, why, effect),
            )


class Ask(Generic[Answer]):
    """One hook. A call asks. It must be built and called in one running loop.

    Returns what the service says. Without a valid answer, it returns `allowed`, or raises
    CommandError `unavailable` if the hook refuses then. Raises nothing else.
    """

    def __init__(
        self,
        name: str,
        hook: Hook,
        parse: Callable[[bytes], Answer | Refuse | Disconnect],
        allowed: Answer,
        counts: Counter[str],
        metrics: Metrics,
    ) -> None:
        self._name = name
        self.hook = hook
        self._parse: Callable[[bytes], Answer | Refuse | Disconnect] = parse
        self._allowed: Answer = allowed
        self._counts = counts
        self._metrics = metrics
        self.breaker = Breaker(name, time.monotonic)
        # Imported here: it takes 0.3 s, and most servers have no hook.
        from fastchat.webhooks.sending import Sender

        self._sender = Sender(hook.target, connections=MAX_QUESTIONS)
        self._questions = 0
        self._closed = False

    async def __call__(self, question: Mapping[str, Any]) -> Answer | Refuse | Disconnect:
        if not self.breaker.allows():
            return self._without_answer("skipped")
        begun = time.perf_counter()
        self._questions += 1
        try:
            answer = await self._ask(orjson.dumps(question))
        except BadAnswer as error:
            self.breaker.fail(
                str(error), "commands are refused" if self.hook.refuses else "commands are allowed"
            )
            return self._without_answer("failed")
        finally:
            self._questions -= 1
            self._metrics.hook_s.observe(time.perf_counter() - begun)
            if self._closed and not self._questions:
                await self._sender.close()
        self.breaker.succeed()
        self._counts[_outcome(answer)] += 1
        return answer

    async def _ask(self, body: bytes) -> Answer | Refuse | Disconnect:
        try:
            answer = await self._sender.post(
                f"ask_{secrets.token_hex(12)}", body, timeout_s=self.hook.timeout_s
            )
        except NotDeliveredError as error:
            raise BadAnswer(str(error)) from None
        if answer.status != 200:
            raise BadAnswer(f"it answered with status {answer.status}")
        if answer.body is None:
            raise BadAnswer("its answer is too long")
        return self._parse(answer.body)

    def _without_answer(self, outcome: str) -> Answer:
        self._counts[outcome] += 1
        if not self.hook.refuses:
            return self._allowed
        raise CommandError(
            ErrorCode.UNAVAILABLE,
            "The server cannot check this at the moment. Try again soon.",
            temporary=True,
        )

    async def close(self) -> None:
        """Close the connections, once the questions under way have been answered."""
        self._closed = True
        if not self._questions:
            await self._sender.close()


class Hooks:
    """The hooks of a process with clients. They can be replaced while it runs."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.before_publish: Ask[PublishAnswer] | None = None
        self.before_join: Ask[JoinAnswer] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def use(self, config: Config) -> None:
        """Ask the services of a configuration from now on; call it in the running loop.

        A hook that has not changed goes on, with its connections and its breaker.
        """
        metrics = self._metrics
        hook = config.before_publish
        if hook != (None if self.before_publish is None else self.before_publish.hook):
            self._retire(self.before_publish)
            self.before_publish = None
            if hook is not None:
                counts, allowed = metrics.before_publish, PublishAnswer()
                self.before_publish = Ask(
                    BEFORE_PUBLISH, hook, parse_publish, allowed, counts, metrics
                )
        hook = config.before_join
        if hook != (None if self.before_join is None else self.before_join.hook):
            self._retire(self.before_join)
            self.before_join = None
            if hook is not None:
                self.before_join = Ask(
                    BEFORE_JOIN, hook, parse_join, JoinAnswer(), metrics.before_join, metrics
                )

    def gauges(self) -> dict[str, Any]:
        """Which breakers are open, for the metrics; empty if no hook is set."""
        asks = {BEFORE_PUBLISH: self.before_publish, BEFORE_JOIN: self.before_join}
        open_ = {name: int(ask.breaker.is_open) for name, ask in asks.items() if ask is not None}
        return {"hooks_failing": open_} if open_ else {}

    async def close(self) -> None:
        """Close all connections."""
        for ask in (self.before_publish, self.before_join):
            self._retire(ask)
        self.before_publish = self.before_join = None
        await asyncio.gather(*self._closing)

    def _retire(self, ask: Ask[Any] | None) -> None:
        if ask is not None:
            task = asyncio.get_running_loop().create_task(ask.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _outcome(answer: PublishAnswer | JoinAnswer | Refuse | Disconnect) -> str:
    if isinstance(answer, Refuse):
        return "refused"
    if isinstance(answer, Disconnect):
        return "disconnected"
    return "changed" if any(each is not None for each in answer) else "allowed"
