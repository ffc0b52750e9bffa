"""From drafts to a commit of the ledger, and from its answer to their outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from fastchat.errors import CommandError
from fastchat.history import Duplicate, Outcome
from fastchat.history.changes import amend
from fastchat.history.epochs import epoch_of
from fastchat.history.rows import dump_reactions
from fastchat.ledger.rows import NULL, NUMBER_OF_KIND, SEPARATOR, column_of, digest_of, escaped
from fastchat.limits.buckets import rate_limited
from fastchat.protocol import (
    ChangeDraft,
    Draft,
    Message,
    MessageDraft,
    ModeratorDraft,
    Publication,
    is_posted,
)
from fastchat.protocol.names import name_key
from fastchat.protocol.publications import numbered

__all__ = ["Batch", "Committed", "Limits", "State", "Target"]

#: What `append_1` says of a draft that was not stored.
_DUPLICATE, _TOO_BUSY, _NEWER = 1, 2, 3
#: In `p_expected`: the message is changed before in the same commit.
_CHAINED = -1
#: The arrays of `append_1` that only changes need.
_CHANGE_ARRAYS = 9

#: The room and the offset of a message that a draft changes.
Target = tuple[str, int]


class State(NamedTuple):
    """A publication as the ledger has it, and the offset of its last change, 0 if there was none.

    If the ledger has no publication at the offset, both are None.
    """

    publication: Publication | None
    changed: int | None


class Limits(NamedTuple):
    """What the ledger enforces for each room.

    A room stores its newest `stored` publications, and at most `slack` more. Its budget has `burst`
    publications and gets `rate` a second; a rate of 0 means no limit.
    """

    stored: int
    slack: int
    rate: float = 0.0
    burst: float = 1.0


class Committed(NamedTuple):
    """Publications of one commit and one room, whose offsets follow each other.

    `indexes` are those of their drafts.
    """

    indexes: list[int]
    publications: list[Publication]


class Batch:
    """Some drafts, which become one commit, or several if other machines interfere.

    `arguments` and `settle` take turns until `is_settled`. Then `outcomes` has one for each draft.
    """

    def __init__(self, drafts: Sequence[Draft], generation: bytes) -> None:
        self._drafts = drafts
        self._generation = generation
        self._outcomes: list[Outcome | None] = [None] * len(drafts)
        self._has_changes = any(issubclass(kind, ChangeDraft) for kind in set(map(type, drafts)))
        self._sent: list[int] = []  # the index of each draft of the last commit
        self._names: list[str] = []  # the rooms of the last commit
        self._refused: dict[int, Duplicate | CommandError] = {}

    @property
    def is_settled(self) -> bool:
        return None not in self._outcomes

    @property
    def outcomes(self) -> Sequence[Outcome | None]:
        """The outcome of each draft; None if it has none yet."""
        return self._outcomes

    @property
    def unsettled(self) -> list[int]:
        """The indexes of the drafts that have no outcome yet."""
        return [index for index, each in enumerate(self._outcomes) if each is None]

    @property
    def targets(self) -> list[Target]:
        """The messages whose states the next commit needs."""
        if not self._has_changes:
            return []
        left = zip(self._drafts, self._outcomes, strict=True)
        return [
            (draft.room, draft.target)
            for draft, outcome in left
            if outcome is None and isinstance(draft, ChangeDraft)
        ]

    def refused(self) -> Mapping[int, Duplicate | CommandError]:
        """The outcomes of drafts that became no publication, by index, since the last call."""
        refused, self._refused = self._refused, {}
        return refused

    def arguments(self, states: Mapping[Target, State]) -> list[Any] | None:
        """The arguments of `append_1` from `p_names` on; None if no draft is left to send.

        Changes that are not allowed get their outcome here.
        """
        changes, end = self._fold(states) if self._has_changes else ({}, len(self._drafts))
        self._sent = [index for index in self.unsettled if index < end]
        if not self._sent:
            return None
        drafts = [self._drafts[index] for index in self._sent]
        # Drafts of all kinds begin with these items.
        rooms, usernames, texts, timestamps, users, *_ = zip(*drafts, strict=False)
        self._names = sorted(set(rooms))
        number_of = {name: str(number) for number, name in enumerate(self._names, 1)}
        return [
            self._names,
            [epoch_of(self._generation, name) for name in self._names],
            [name_key(name) for name in self._names],
            SEPARATOR.join([number_of[room] for room in rooms]),
            *map(column_of, (users, usernames, texts, timestamps)),
            *_id_columns(drafts),
            *self._change_arrays(changes),
            _posted(drafts),
        ]

    def _fold(self, states: Mapping[Target, State]) -> tuple[dict[int, tuple[Message, int]], int]:
        """For each change, the message that it makes, and the change that it expects before it.

        The second result is the index of the first draft that has to wait for another commit: it
        may change a message that an earlier draft becomes.
        """
        made: dict[Target, Message] = {}
        folded: dict[int, tuple[Message, int]] = {}
        growing: set[str] = set()  # the rooms of earlier drafts
        for index, draft in enumerate(self._drafts):
            if self._outcomes[index] is not None:
                continue
            if isinstance(draft, ChangeDraft):
                target = draft.room, draft.target
                state = states[target]
                if state.publication is None and draft.room in growing:
                    return folded, index
                amended = amend(made.get(target, state.publication), draft)
                if isinstance(amended, CommandError):
                    self._refuse(index, amended)
                    continue
                expected = _CHAINED if target in made else state.changed
                assert expected is not None
                made[target] = amended
                folded[index] = amended, expected
            growing.add(draft.room)
        return folded, len(self._drafts)

    def _change_arrays(self, folded: Mapping[int, tuple[Message, int]]) -> list[Any]:
        if not folded:
            return [None] * _CHANGE_ARRAYS
        rows: list[tuple[Any, ...]] = []
        for index in self._sent:
            draft = self._drafts[index]
            if not isinstance(draft, ChangeDraft):
                rows.append((0, *[None] * (_CHANGE_ARRAYS - 1)))
                continue
            message, expected = folded[index]
            rows.append(
                (
                    NUMBER_OF_KIND[draft.kind],
                    draft.target,
                    draft.emoji or None,
                    draft.remove or None,
                    expected,
                    escaped(message.text),
                    message.edited,
                    message.deleted or None,
                    dump_reactions(message.reactions),
                )
            )
        return [list(column) for column in zip(*rows, strict=True)]

    def settle(self, answer: str) -> dict[str, Committed]:
        """Take over what the ledger has answered to the last commit; returns it by room."""
        published: dict[str, Committed] = {}
        drafts_of = self._sent_by_room()
        for room, first, kept, others, verdicts, results in orjson.loads(answer):
            name, numbers = self._names[room - 1], drafts_of[room - 1]
            if others:
                results_of = zip(others, verdicts, results, strict=True)
                verdict_of = {number: result for number, *result in results_of}
                indexes = self._kept(name, numbers, verdict_of, first + kept)
            else:
                indexes = [self._sent[number] for number in numbers]
            if indexes:
                published[name] = committed = Committed(
                    indexes, numbered([self._drafts[index] for index in indexes], first)
                )
                for index, publication in zip(indexes, committed.publications, strict=True):
                    self._outcomes[index] = publication
        return published

    def _sent_by_room(self) -> list[Sequence[int]]:
        """For each room of the last commit, the numbers of its drafts there, from 0 on."""
        if len(self._names) == 1:
            return [range(len(self._sent))]
        numbers_of: dict[str, list[int]] = {name: [] for name in self._names}
        for number, index in enumerate(self._sent):
            numbers_of[self._drafts[index].room].append(number)
        return list(numbers_of.values())

    def _kept(
        self, room: str, numbers: Sequence[int], verdict_of: Mapping[int, Sequence[int]], end: int
    ) -> list[int]:
        """The drafts of a room that became publications, with offsets before `end`, by index.

        `verdict_of` has the verdict and the result of each of the others, which get their outcome.
        Their numbers count from 1 on.
        """
        kept: list[int] = []
        wait_ms = 0
        for number in numbers:
            index = self._sent[number]
            if number + 1 not in verdict_of:
                kept.append(index)
                continue
            verdict, result = verdict_of[number + 1]
            if verdict == _NEWER:
                continue
            if verdict == _DUPLICATE and result < end:
                self._refuse(index, Duplicate(room, _id_of(self._drafts[index]), result))
                continue
            # A message that was refused in this commit can have a repetition in it.
            wait_ms = result if verdict == _TOO_BUSY else wait_ms
            refusal = rate_limited(
                "The users of this room are sending messages too quickly.", wait_ms / 1000
            )
            self._refuse(index, refusal)
        return kept

    def _refuse(self, index: int, outcome: Duplicate | CommandError) -> None:
        self._outcomes[index] = self._refused[index] = outcome


def _posted(drafts: Sequence[Draft]) -> list[bool] | None:
    """Which drafts the budgets of rooms do not limit; None if they limit all."""
    if set(map(type, drafts)) <= {MessageDraft, ModeratorDraft}:
        return None
    posted = list(map(is_posted, drafts))
    return posted if any(posted) else None


def _id_columns(drafts: Sequence[Draft]) -> list[Any]:
    """The ids and their digests, and for each repetition the number of the first; None if empty."""
    ids = [draft.id for draft in drafts]
    if ids.count(None) == len(ids):
        return [None, None, None]
    digests = [
        None if id is None else digest_of(draft.room, draft.user, id)
        for draft, id in zip(drafts, ids, strict=True)
    ]
    number_of: dict[bytes, int] = {}
    originals: list[int | None] = []
    for number, digest in enumerate(digests, 1):
        first = number if digest is None else number_of.setdefault(digest, number)
        originals.append(None if first == number else first)
    return [
        SEPARATOR.join([NULL if id is None else escaped(id) for id in ids]),
        digests,
        None if originals.count(None) == len(originals) else originals,
    ]


def _id_of(draft: Draft) -> str:
    assert isinstance(draft, MessageDraft)
    assert draft.id is not None
    return draft.id
