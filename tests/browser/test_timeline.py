"""The models of the page without its views: each test imports a module and asks it."""

from __future__ import annotations

from typing import Any

import pytest

PRELUDE = """
const { Timeline } = await import("/static/timeline.js");
const said = (offset, text, more) => ({ type: "message", offset, username: "Zoe", text,
  timestamp: "2025-01-18T10:30:00.123Z", ...more });
const joined = (offset, messages, more) => ({ username: "Ann", epoch: "e1", offset,
  recovered: true, messages, ...more });
const texts = ({ items, outbox }) => [...items, ...outbox]
  .map(({ text, state }) => `${text}:${state}`);
const draft = (id) => ({ id, username: "Ann", text: id, timestamp: "2025-01-18T10:30:00.123Z" });
const timeline = new Timeline();
"""


@pytest.fixture
def ask(blank: Any) -> Any:
    """Runs a function's body beside a fresh timeline and returns its result."""
    return lambda body: blank.evaluate(f"async () => {{ {PRELUDE} {body} }}")


def test_publication_is_taken_once(ask: Any) -> None:
    """A publication that comes a second time changes nothing."""
    assert ask("""
      timeline.accept(joined(1, [said(1, "a")]));
      const come = [said(2, "b"), said(2, "b"), said(1, "a")];
      return [...come.map((each) => timeline.apply(each)), texts(timeline)];
    """) == ["new", "seen", "seen", ["a:confirmed", "b:confirmed"]]


def test_hole_is_noticed_and_nothing_taken(ask: Any) -> None:
    """A publication whose predecessor is missing is not taken, and the position stays."""
    assert ask("""
      timeline.accept(joined(1, [said(1, "a")]));
      return [timeline.apply(said(3, "c")), timeline.position, texts(timeline)];
    """) == ["hole", {"epoch": "e1", "offset": 1}, ["a:confirmed"]]


def test_other_kinds_of_publication_advance_the_position(ask: Any) -> None:
    """A kind of publication that the page does not know is not mistaken for a hole."""
    assert ask("""
      timeline.accept(joined(1, [said(1, "a")]));
      const reaction = timeline.apply(said(2, "", { type: "wave", target: 1 }));
      return [reaction, timeline.apply(said(3, "c")), texts(timeline)];
    """) == ["new", "new", ["a:confirmed", "c:confirmed"]]


def test_recovered_reply_is_merged(ask: Any) -> None:
    """A reply that recovered the rest adds only what was missing."""
    assert ask("""
      timeline.accept(joined(2, [said(1, "a"), said(2, "b")]));
      timeline.accept(joined(3, [said(2, "b"), said(3, "c")]));
      return [timeline.generation, texts(timeline)];
    """) == [1, ["a:confirmed", "b:confirmed", "c:confirmed"]]


@pytest.mark.parametrize("more", ["{ recovered: false }", '{ epoch: "e2" }'])
def test_unrecovered_reply_replaces_the_log(ask: Any, more: str) -> None:
    """A reply that could not recover replaces the log, but not what waits to be sent."""
    assert ask(f"""
      timeline.accept(joined(1, [said(1, "a")]));
      timeline.compose(draft("mine"));
      timeline.accept(joined(9, [said(9, "z")], {more}));
      return [timeline.generation, texts(timeline)];
    """) == [2, ["z:confirmed", "mine:pending"]]


def test_own_publication_confirms_the_pending_entry(ask: Any) -> None:
    """A pending entry becomes the confirmed one, the same object at its numbered place."""
    assert ask("""
      timeline.accept(joined(0, []));
      const entry = timeline.compose(draft("mine"));
      timeline.apply(said(1, "before"));
      timeline.apply(said(2, "mine", { id: "mine", username: "Ann" }));
      return [timeline.items[1] === entry, texts(timeline)];
    """) == [True, ["before:confirmed", "mine:confirmed"]]


def test_publication_in_the_reply_confirms_the_pending_entry(ask: Any) -> None:
    """A message that got through before the break is confirmed by the reply to the rejoin."""
    assert ask("""
      timeline.accept(joined(0, []));
      timeline.compose(draft("mine"));
      timeline.accept(joined(1, [said(1, "mine", { id: "mine", username: "Ann" })]));
      return texts(timeline);
    """) == ["mine:confirmed"]


def test_somebody_elses_id_confirms_nothing(ask: Any) -> None:
    """Another user's message with the same id is another message."""
    assert ask("""
      timeline.accept(joined(0, []));
      timeline.compose(draft("mine"));
      timeline.apply(said(1, "theirs", { id: "mine" }));
      return texts(timeline);
    """) == ["theirs:confirmed", "mine:pending"]


def test_ack_confirms_without_doubling(ask: Any) -> None:
    """An ack puts the message at its offset, unless it is there already."""
    assert ask("""
      timeline.accept(joined(3, [said(1, "one"), said(3, "three")]));
      timeline.compose(draft("two"));
      timeline.compose(draft("three"));
      timeline.acknowledge({ id: "two", offset: 2 });
      timeline.acknowledge({ id: "three", offset: 3 });
      return texts(timeline);
    """) == ["one:confirmed", "two:confirmed", "three:confirmed"]


def test_failed_entry_can_be_retried_or_discarded(ask: Any) -> None:
    """A failed message is pending again after a retry, and gone after a discard."""
    assert ask("""
      timeline.accept(joined(0, []));
      timeline.compose(draft("mine"));
      timeline.fail({ id: "mine", message: "no", temporary: true });
      const failed = texts(timeline);
      timeline.retry("mine");
      const retried = texts(timeline);
      timeline.discard("mine");
      return [failed, retried, texts(timeline)];
    """) == [["mine:failed"], ["mine:pending"], []]


def test_items_are_bounded(ask: Any) -> None:
    """The model forgets the oldest entries however many come."""
    assert ask("""
      timeline.accept(joined(0, []));
      for (let offset = 1; offset <= 2000; offset += 1) timeline.apply(said(offset, offset));
      return [timeline.items.length, timeline.items.at(-1).text];
    """) == [300, 2000]


def test_backoff_grows_with_jitter_to_a_limit(ask: Any) -> None:
    """The delay doubles from half a second to fifteen seconds, and half of it is chance."""
    assert ask("""
      const { backoffMs } = await import("/static/connection.js");
      return [[0, 1], [0, 0], [1, 1], [30, 1], [30, 0]].map((each) => backoffMs(...each));
    """) == [500, 250, 1000, 15000, 7500]


@pytest.mark.parametrize(
    ("hash", "room", "valid"),
    [
        ("", "lobby", True),
        ("#", "lobby", True),
        ("#Team.A-1_x", "team.a-1_x", True),
        ("#a b", "a b", False),
        ("#%E2%82%AC", "€", False),
        ("#%zz", "%zz", False),
        ("#" + "a" * 64, "a" * 64, True),
        ("#" + "a" * 65, "a" * 65, False),
    ],
)
def test_room_is_read_from_the_address(ask: Any, hash: str, room: str, valid: bool) -> None:
    """The hash names the room, in lower case; what cannot be a room is told apart."""
    assert ask(f"""
      const {{ roomFromHash }} = await import("/static/rooms.js");
      return roomFromHash({hash!r});
    """) == {"room": room, "valid": valid}
