"""An hour of a lively room, as fast as the page can take it.

Twenty thousand messages arrive, with edits, reactions, and users who join and leave. The document
stays small, memory and processor time stay as they were at the start, text that is being read does
not move, and no message is missed. `pytest -s` prints the figures.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from playwright.sync_api import expect

from support.browser import SocketUser, joined_user
from support.server import Server, running_server

if TYPE_CHECKING:  # The folders of other tests have modules of this name, too.
    from support.browser import Visit

MESSAGES = 20_000
QUARTER = MESSAGES // 4
#: Messages that are sent at once and shown before the next are sent. The number is far below the
#: log's limit, so that each is shown.
SLICE = 100
EDITS = 4
REACTIONS = 4
#: A visitor joins and leaves once in this number of slices.
VISIT_EVERY = 5
#: Slices that arrive while the reader looks back, in the third quarter.
LOOKING_BACK = 30
WRITERS = ("Bob", "Zoë", "Kenji")
WORDS = ("and", "the", "light", "at", "six", "was", "unreal", "who", "has", "those", "photos")
LOG_LIMIT = 300
#: Of these, notices about visitors, who are announced as gone seconds after they have left.
NOTICES = 4
#: The limits of growth in one run. Retained rows or entries would add several times the first
#: figure.
HEAP_GROWTH = 1.3
NODES_GROWTH = 1.3
#: Work that grew with the number of messages would take seven times as long in the last quarter.
#: It is measured as processor time, on which other processes of the machine have little influence.
WORK_GROWTH = 2.0

# Allocates its buffer at the start, so that it is no part of the growth.
RECORD = """(offsets) => {
  const log = document.getElementById("log");
  const rows = log.getElementsByClassName("message");
  const hour = window.hour = {
    seen: new Uint8Array(offsets), last: 0, rows: 0,
    following: true, away: 0, read: null, top: 0, moved: 0,
  };
  const see = ({ dataset }) => {
    hour.seen[dataset.offset] = 1;
    hour.last = Math.max(hour.last, dataset.offset);
  };
  new MutationObserver((changes) => {
    for (const node of changes.flatMap(({ addedNodes }) => [...addedNodes])) {
      if (node.matches?.(".message[data-offset]")) see(node);
    }
    hour.rows = Math.max(hour.rows, rows.length);
  }).observe(log, { childList: true });
  // It runs before the page's own work of this frame, and so sees what the last one has shown.
  const frame = () => {
    const { scrollHeight, scrollTop, clientHeight } = log;
    if (hour.following) hour.away = Math.max(hour.away, scrollHeight - scrollTop - clientHeight);
    if (hour.read) {
      const top = hour.read.isConnected ? hour.read.getBoundingClientRect().top : Infinity;
      hour.moved = Math.max(hour.moved, Math.abs(top - hour.top));
    }
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}"""
SHOWN = "(offset) => hour.last >= offset"
CHANGED = """([offset, begins]) => document.querySelector(
  `.message[data-offset="${offset}"] .message__text`).textContent.startsWith(begins)"""
# Marks a text that must not move from now on, and returns the offsets of the messages above it.
READ = """() => {
  const edge = document.getElementById("log").getBoundingClientRect().top;
  const rows = [...document.querySelectorAll(".message[data-offset]")];
  const at = rows.findIndex((each) => each.getBoundingClientRect().top > edge);
  hour.read = rows[at].querySelector(".message__text");
  hour.top = hour.read.getBoundingClientRect().top;
  return rows.slice(0, at - 5).map(({ dataset }) => Number(dataset.offset));
}"""
END = """() => [...document.querySelectorAll(".message[data-offset]")].map((each) =>
  [Number(each.dataset.offset), each.querySelector(".message__text").textContent])"""
TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Crowd:
    """The users who write all messages, one at a time, so that each offset is known in advance."""

    def __init__(self, users: dict[str, SocketUser]) -> None:
        self.offset = 0
        #: The messages' offsets, in order, and the beginning of each text.
        self.offsets: list[int] = []
        self.texts: dict[int, str] = {}
        #: The message that was edited last.
        self.edited = 0
        self._authors: dict[int, str] = {}
        self._reactions: set[tuple[str, int]] = set()
        self._users = users
        self._chance = random.Random(20_000)

    def write(self, targets: list[int] | None = None) -> None:
        """Write a slice, and change `targets` or the last messages; return when all is stored."""
        number = len(self.offsets) // SLICE
        writer = WRITERS[number % len(WRITERS)]
        for _ in range(SLICE):
            self._say(writer)
        targets = targets or self.offsets[-LOG_LIMIT:]
        for target in self._chance.sample(targets, REACTIONS):
            self._react(writer, target)
        self._users[writer].receive_until(self.offset)
        for target in self._chance.sample(targets, EDITS):
            self._edit(target)

    def _say(self, writer: str) -> None:
        words = " ".join(self._chance.choices(WORDS, k=self._chance.randint(1, 30)))
        beginning = f"{len(self.offsets) + 1}:"
        self._do(writer, text=f"{beginning} {words}")
        self.offsets.append(self.offset)
        self.texts[self.offset] = beginning
        self._authors[self.offset] = writer

    def _react(self, writer: str, target: int) -> None:
        """React, or remove the same reaction if the user has reacted before."""
        remove = (writer, target) in self._reactions
        self._reactions ^= {(writer, target)}
        self._do(writer, type="react", offset=target, emoji="👍", remove=remove)

    def _edit(self, target: int) -> None:
        """Make the message longer, and with it the rows above later messages."""
        author = self._authors[target]
        beginning = f"edited {self.offset}:"
        self._do(author, type="edit", offset=target, text=f"{beginning} {' '.join(WORDS * 4)}")
        self.texts[target] = beginning
        self.edited = target
        self._users[author].receive_until(self.offset)

    def _do(self, name: str, **command: Any) -> None:
        self.offset += 1
        self._users[name].do(**command)


class State(NamedTuple):
    """Figures of the page after this number of messages and a garbage collection."""

    messages: int
    heap_bytes: int
    nodes: int
    listeners: int
    #: The processor time of the page's main thread, and of its whole process.
    thread_s: float
    process_s: float


class Watch:
    """Measures the page by the browser's own instruments."""

    def __init__(self, page: Any) -> None:
        self._browser = page.context.new_cdp_session(page)
        for domain in ("HeapProfiler", "Performance"):
            self._browser.send(f"{domain}.enable")

    def look(self, messages: int) -> State:
        # Collect twice, because a finalizer of the first collection can release more.
        for _ in range(2):
            self._browser.send("HeapProfiler.collectGarbage")
        metrics = {
            each["name"]: each["value"]
            for each in self._browser.send("Performance.getMetrics")["metrics"]
        }
        return State(
            messages,
            int(metrics["JSHeapUsedSize"]),
            int(metrics["Nodes"]),
            int(metrics["JSEventListeners"]),
            metrics["ThreadTime"],
            metrics["ProcessTime"],
        )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    kept = str(2 * LOOKING_BACK * SLICE)
    with running_server(
        "--history", "memory", "--history-max-messages", kept, "--limits", "off"
    ) as server:
        yield server


@pytest.fixture
def crowd(server: Server, room: str) -> Iterator[Crowd]:
    with contextlib.ExitStack() as stack:
        yield Crowd(
            {name: stack.enter_context(joined_user(room, name, server)) for name in WRITERS}
        )


def test_hour_of_messages_leaves_the_page_as_it_was(
    visit: Visit, crowd: Crowd, server: Server, room: str
) -> None:
    """With 20,000 messages the last quarter costs what the first cost, and no message is missed."""
    started = time.monotonic()
    page: Any = visit("Ann")
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.evaluate(RECORD, MESSAGES * 2)
    watch = Watch(page)
    states = [watch.look(0)]
    unseen: set[int] = set()
    while len(crowd.offsets) < MESSAGES:
        crowd.write()
        page.wait_for_function(SHOWN, arg=crowd.offsets[-1])
        if len(crowd.offsets) % (SLICE * VISIT_EVERY) == 0:
            with joined_user(room, f"Visitor {len(crowd.offsets)}", server):
                pass
        if len(crowd.offsets) // QUARTER == len(states):
            states.append(watch.look(len(crowd.offsets)))
        if len(crowd.offsets) == 2 * QUARTER:
            unseen = look_back(page, crowd)
    page.evaluate(TWO_FRAMES)
    print_figures(states, time.monotonic() - started)

    hour = page.evaluate("() => ({ ...hour, read: null, seen: [...hour.seen] })")
    missed = [each for each in crowd.offsets if not hour["seen"][each]]
    assert set(missed) <= unseen
    shown = page.evaluate(END)
    assert [offset for offset, _ in shown] == crowd.offsets[-len(shown) :]
    wrong = [(crowd.texts[at], text) for at, text in shown if not text.startswith(crowd.texts[at])]
    assert wrong == []
    # Messages that are not shown have arrived all the same, because after a hole the page would
    # have joined again.
    assert sockets == []
    assert hour["rows"] <= LOG_LIMIT
    assert hour["away"] < 1
    assert hour["moved"] < 1
    assert states[-1].heap_bytes < states[1].heap_bytes * HEAP_GROWTH
    assert states[-1].nodes < states[1].nodes * NODES_GROWTH
    assert states[-1].listeners < states[1].listeners * NODES_GROWTH
    before, first, *_, third, last = states
    assert last.thread_s - third.thread_s < WORK_GROWTH * (first.thread_s - before.thread_s)
    assert last.process_s - third.process_s < WORK_GROWTH * (first.process_s - before.process_s)


def look_back(page: Any, crowd: Crowd) -> set[int]:
    """Look back while others write; return the offsets of messages that need not be shown
    meanwhile."""
    page.evaluate("() => { hour.following = false }")
    page.hover("#log")
    page.mouse.wheel(0, -4000)
    expect(page.locator(".message[data-offset]").last).not_to_be_in_viewport()
    page.evaluate(TWO_FRAMES)
    above = page.evaluate(READ)
    before = len(crowd.offsets)
    for _ in range(LOOKING_BACK):
        crowd.write(above)
    # The last command changes a shown message, so the page has received all before.
    page.wait_for_function(CHANGED, arg=[crowd.edited, crowd.texts[crowd.edited]])
    page.evaluate(TWO_FRAMES)
    page.evaluate("() => { hour.read = null }")
    page.click("#new-messages")
    # From now on this text is off the log, and must cost nothing.
    page.mouse.move(0, 0)
    page.wait_for_function(SHOWN, arg=crowd.offsets[-1])
    page.evaluate(TWO_FRAMES)
    page.evaluate("() => { hour.following = true }")
    return set(crowd.offsets[before : NOTICES - LOG_LIMIT])


def print_figures(states: list[State], took_s: float) -> None:
    print(f"\n{MESSAGES:,} messages in {took_s:.0f} s")
    for state in states:
        print(
            f"  {state.messages:>6,}: heap {state.heap_bytes / 1e6:.2f} MB, {state.nodes:,} nodes, "
            f"{state.listeners:,} listeners"
        )
    for number, (start, end) in enumerate(pairwise(states), start=1):
        print(
            f"  quarter {number}: {end.thread_s - start.thread_s:.2f} s of the main thread, "
            f"{end.process_s - start.process_s:.2f} s of the page's process"
        )
