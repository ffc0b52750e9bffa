"""The history of the rooms. If it fails, clients are told `unavailable`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from fastchat.errors import CommandError, ErrorCode, HistoryAwayError, HistoryError
from fastchat.history import History, Outcome
from fastchat.protocol import Draft
from fastchat.protocol.options import RoomOptions

__all__ = ["Storage"]

logger = logging.getLogger("fastchat.broker")


class Storage:
    """A history, used for named operations.

    The log says once that an operation fails, and once that it works again. It does so for each
    operation separately: on a full disk, appending fails, while reading works, mostly from memory.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._failing: dict[str, HistoryError] = {}  # each operation that fails, and why
        self._check()

    @property
    def fault(self) -> str | None:
        """Why publications cannot be stored at the moment; None if they can."""
        error = self._failing.get("append")
        return None if error is None else str(error)

    @property
    def options(self) -> Mapping[str, RoomOptions]:
        """The options of all rooms that have any."""
        return self._history.options

    @property
    def is_away(self) -> bool:
        """Whether the history is not in its directory any more."""
        return isinstance(self._failing.get("append"), HistoryAwayError)

    @property
    def is_busy(self) -> bool:
        """Whether `append` would wait for the disk now; see `History.is_busy`."""
        return self._history.is_busy

    @contextmanager
    def use(self, operation: str) -> Iterator[History]:
        """The history, for the length of a `with` block.

        A HistoryError in the block becomes a CommandError, `unavailable`.
        """
        try:
            yield self._history
        except HistoryError as error:
            raise self._refusal(operation, error) from None
        self._note_success(operation)

    def append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """`History.append` as in a block of `use("append")`, but faster."""
        try:
            outcomes = self._history.append(drafts)
        except HistoryError as error:
            raise self._refusal("append", error) from None
        self._note_success("append")
        return outcomes

    def tick(self) -> None:
        """Update `fault`, and drop old publications; to be called once a second."""
        self._check()
        if self.fault is None and not self.is_busy:
            self._history.prune()

    def _refusal(self, operation: str, error: HistoryError) -> CommandError:
        if operation not in self._failing:
            logger.error(
                "the history fails (%s), so clients get `unavailable`: %s", operation, error
            )
        self._failing[operation] = error
        return CommandError(
            ErrorCode.UNAVAILABLE,
            "The server cannot store messages at the moment. Try again soon."
            if operation == "append"
            else "The server cannot read messages at the moment. Try again soon.",
            temporary=True,
        )

    def _note_success(self, operation: str) -> None:
        if self._failing.pop(operation, None) is not None:
            logger.info("the history works again (%s)", operation)

    def _check(self) -> None:
        with suppress(CommandError), self.use("append") as history:
            history.check()
