"""Commits what a machine publishes: one commit at a time, each with all that has come meanwhile.

So batches grow by themselves under load, the order of each sender is kept, and only one batch can
be in doubt.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastchat.errors import CommandError, ErrorCode
from fastchat.history import Duplicate
from fastchat.ledger import LedgerError, NotCommittedError
from fastchat.ledger.appending import Batch, Committed, Limits, State, Target
from fastchat.ledger.reading import Reader
from fastchat.ledger.session import Session
from fastchat.protocol import Draft

__all__ = ["MAX_BATCH", "PATIENCE_S", "Publishing"]

#: A draft that waits longer is refused; one that is being committed can still be published.
PATIENCE_S = 2.0
#: Drafts of one commit, and drafts that can wait.
MAX_BATCH, MAX_WAITING = 1000, 20_000
#: The time before drafts of a room are tried again that somebody has locked.
LOCKED_S = 0.05
#: After this time without a draft it is not known any more whether commits would fail.
FORGET_S = 5.0
#: The time before a commit is tried again that the server has refused.
REFUSED_S = 0.2
#: The SQLSTATE of a lock that was not available in time, and of a statement that took too long, and
#: the class of errors in the data.
_LOCKED, _TOO_LONG, _BAD_DATA = "55P03", "57014", "22"


class _Waiting:
    """A draft that has no outcome yet.

    `sender` is None once it was answered. `decided` is set when there is an outcome, or none to be
    waited for.
    """

    __slots__ = ("deadline", "decided", "draft", "sender")

    def __init__(self, sender: Any, draft: Draft, deadline: float) -> None:
        self.sender = sender
        self.draft = draft
        self.deadline = deadline
        self.decided: asyncio.Future[None] | None = None

    def decide(self) -> None:
        if self.decided is not None and not self.decided.done():
            self.decided.set_result(None)


class Publishing:
    """Publishes drafts through `session`.

    * `known` returns the state of a message as far as this machine knows it, or None.
    * `committed` is called after each commit with its publications by room, and the senders of
      these, and with the seconds that it took. The sender of a draft that was refused because it
      took too long is None.
    * `answered` is called with the sender of a draft that became no publication.
    """

    def __init__(
        self,
        session: Session,
        reader: Reader,
        limits: Limits,
        *,
        known: Callable[[Target], State | None],
        committed: Callable[[Mapping[str, tuple[Committed, Sequence[Any]]], float], None],
        answered: Callable[[Any, Duplicate | CommandError], None],
    ) -> None:
        self._session = session
        self._reader = reader
        self._limits = limits
        self._known = known
        self._committed = committed
        self._answered = answered
        self._waiting: deque[_Waiting] = deque()
        self._flying: Sequence[_Waiting] = ()
        self._task: asyncio.Task[None] | None = None
        self._max_batch = MAX_BATCH
        self._skips_locked = False
        self._is_closed = False
        #: Why the last commit has failed; None if it has not.
        self.fault: str | None = None
        self.failures_total = 0
        self._failed_s = 0.0

    @property
    def count(self) -> int:
        """Drafts that have no outcome yet."""
        return len(self._waiting) + len(self._flying)

    def publish(self, sender: Any, draft: Draft) -> None:
        """Commit a draft; `sender` gets its outcome later."""
        if len(self._waiting) >= MAX_WAITING:
            self._answered(sender, _unavailable())
            return
        self._waiting.append(_Waiting(sender, draft, time.monotonic() + PATIENCE_S))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def flushed(self, room: str | None, patience_s: float = PATIENCE_S) -> None:
        """Wait until the drafts of a room, or of all rooms, have their outcome.

        These are the drafts that there are at this moment. This waits for `patience_s` at most.
        """
        drafts = (*self._flying, *self._waiting)
        last = next((each for each in reversed(drafts) if room in (None, each.draft.room)), None)
        if last is None:
            return
        if last.decided is None:
            last.decided = asyncio.get_running_loop().create_future()
        await asyncio.wait([last.decided], timeout=patience_s)

    def connected(self) -> None:
        """Forget why commits have failed: the connections are new."""
        self.fault = None

    def tick(self) -> None:
        """Refuse the drafts that wait for too long; to be called about once a second."""
        now = time.monotonic()
        if self.fault is not None and not self.count and now > self._failed_s + FORGET_S:
            self.fault = None  # nobody has tried since
        while self._waiting and self._waiting[0].deadline < now:
            refused = self._waiting.popleft()
            self._refuse(refused)
            refused.decide()
        for each in self._flying:
            if each.deadline < now:
                self._refuse(each)

    async def close(self) -> None:
        """Stop. The drafts that are left are refused; one that is being committed can be kept."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for each in (*self._flying, *self._waiting):
            self._refuse(each)
            each.decide()
        self._flying = ()
        self._waiting.clear()

    def _refuse(self, waiting: _Waiting) -> None:
        if waiting.sender is not None:
            self._answered(waiting.sender, _unavailable())
            waiting.sender = None

    async def _run(self) -> None:
        # The drafts of the whole turn go into one commit.
        await asyncio.sleep(0)
        try:
            while self._waiting:
                self.tick()
                if not self._waiting:
                    break
                size = min(len(self._waiting), self._max_batch)
                flying = self._flying = [self._waiting.popleft() for _ in range(size)]
                left = await self._commit(flying)
                self._flying = ()
                self._waiting.extendleft(reversed(left))
                for each in flying:
                    if each not in left:
                        each.decide()
        except Exception:  # a bug must not end all publishing
            self._session.log.exception("internal error while publishing")
            for each in self._flying:
                self._refuse(each)
                each.decide()
            self._flying = ()
        finally:
            self._task = None
            if self._waiting and not self._is_closed:
                self._task = asyncio.get_running_loop().create_task(self._run())

    async def _commit(self, flying: Sequence[_Waiting]) -> list[_Waiting]:
        """Commit some drafts; returns those that have to be tried again."""
        batch = Batch([each.draft for each in flying], self._session.identity.generation)
        try:
            # What this machine knows of messages can be out of date; after that it asks.
            await self._commit_once(batch, flying, self._known)
            while not (batch.is_settled or self._skips_locked):
                await self._commit_once(batch, flying, _unknown)
        except NotCommittedError as error:
            return await self._on_not_committed(error, batch, flying)
        except LedgerError as error:
            self._note(str(error))
            for index in batch.unsettled:
                self._refuse(flying[index])
            return []
        self._note(None)
        self._max_batch = min(MAX_BATCH, 2 * self._max_batch)
        left = [flying[index] for index in batch.unsettled]
        if left and self._skips_locked:
            await asyncio.sleep(LOCKED_S)
        self._skips_locked = bool(left) and self._skips_locked
        return left

    async def _commit_once(
        self,
        batch: Batch,
        flying: Sequence[_Waiting],
        known: Callable[[Target], State | None],
    ) -> None:
        states: dict[Target, State] = {}
        for target in batch.targets:
            if (state := known(target)) is not None and state.publication is not None:
                states[target] = state
        unknown = [target for target in batch.targets if target not in states]
        if unknown:
            states |= await self._reader.states(unknown)
        arguments = batch.arguments(states)
        try:
            if arguments is not None:
                await self._commit_arguments(batch, flying, arguments)
        finally:
            for index, outcome in batch.refused().items():
                sender = flying[index].sender
                if sender is not None:
                    flying[index].sender = None
                    self._answered(sender, outcome)

    async def _commit_arguments(
        self, batch: Batch, flying: Sequence[_Waiting], arguments: Sequence[Any]
    ) -> None:
        begun = time.perf_counter()
        answer = await self._session.commit(self._limits, arguments, skip_locked=self._skips_locked)
        published = {
            room: (each, [flying[index].sender for index in each.indexes])
            for room, each in batch.settle(answer).items()
        }
        self._committed(published, time.perf_counter() - begun)
        if not batch.is_settled:  # these must not be refused while the others are tried again
            for committed, _ in published.values():
                for index in committed.indexes:
                    flying[index].sender = None

    async def _on_not_committed(
        self, error: NotCommittedError, batch: Batch, flying: Sequence[_Waiting]
    ) -> list[_Waiting]:
        """Decide how drafts that were not committed are tried again, if at all."""
        left = [flying[index] for index in batch.unsettled]
        if error.code == _LOCKED:
            self._skips_locked = True
        elif error.code == _TOO_LONG:
            self._max_batch = max(1, len(left) // 2)
        elif error.code.startswith(_BAD_DATA):
            if len(left) == 1:
                self._answered_badly(left[0], error)
                return []
            self._max_batch = 1
        else:
            self._note(str(error))
            await asyncio.sleep(REFUSED_S)
        return left

    def _answered_badly(self, waiting: _Waiting, error: LedgerError) -> None:
        self._session.log.warning("a publication cannot be stored: %s", error)
        if waiting.sender is not None:
            refusal = CommandError(ErrorCode.BAD_COMMAND, "The message cannot be stored.")
            self._answered(waiting.sender, refusal)

    def _note(self, fault: str | None) -> None:
        if fault is not None:
            self.failures_total += 1
            self._failed_s = time.monotonic()
        log = self._session.log
        if fault is not None and self.fault is None:
            log.error("messages cannot be stored, so clients get `unavailable`: %s", fault)
        elif fault is None and self.fault is not None:
            log.info("messages can be stored again")
        self.fault = fault


def _unknown(target: Target) -> None:
    """No state of a message, so that the ledger is asked."""


def _unavailable() -> CommandError:
    return CommandError(
        ErrorCode.UNAVAILABLE,
        "The server cannot store messages at the moment. Try again soon.",
        temporary=True,
    )
