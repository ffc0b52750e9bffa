"""The models of the page without its views: each test imports a module and calls it."""

from __future__ import annotations

from typing import Any

import pytest

PRELUDE = """
const { Timeline } = await import("/static/model/timeline.js");
const said = (offset, text, more) => ({ type: "message", offset, user: "zoe", username: "Zoe", text,
  timestamp: "2025-01-18T10:30:00.123Z", ...more });
const joined = (offset, messages, more) => ({ user: "ann", username: "Ann", epoch: "e1", offset,
  recovered: true, messages, ...more });
const texts = ({ items, outbox }) => [...items, ...outbox]
  .map(({ text, state }) => `${text}:${state}`);
const draft = (id) => ({ id, user: "ann", username: "Ann", text: id,
  timestamp: "2025-01-18T10:30:00.123Z" });
const timeline = new Timeline();
"""


@pytest.fixture
def ask(blank: Any) -> Any:
    """Run the body of a function beside a fresh timeline and return its result."""
    return lambda body: blank.evaluate(f"async () => {{ {PRELUDE} {body} }}")


def test_recovered_reply_is_added(ask: Any) -> None:
    """A reply that recovered what was missed continues the log."""
    assert ask("""
      timeline.accept(joined(2, [said(1, "a"), said(2, "b")], { recovered: false }));
      timeline.accept(joined(3, [said(3, "c")]));
      return [timeline.generation, timeline.offset, texts(timeline)];
    """) == [1, 3, ["a:confirmed", "b:confirmed", "c:confirmed"]]


def test_unrecovered_reply_replaces_the_log(ask: Any) -> None:
    """A reply that could not recover replaces the log, and pending messages stay."""
    assert ask("""
      timeline.accept(joined(1, [said(1, "a")]));
      timeline.compose(draft("mine"));
      timeline.accept(joined(9, [said(9, "z")], { recovered: false }));
      return [timeline.generation, texts(timeline)];
    """) == [1, ["z:confirmed", "mine:pending"]]


def test_own_publication_confirms_the_pending_entry(ask: Any) -> None:
    """The own publication turns the pending entry, the same object, into a confirmed one at its
    offset."""
    assert ask("""
      timeline.accept(joined(0, []));
      const entry = timeline.compose(draft("mine"));
      timeline.apply(said(1, "before"));
      timeline.apply(said(2, "mine", { id: "mine", user: "ann" }));
      return [timeline.items[1] === entry, texts(timeline)];
    """) == [True, ["before:confirmed", "mine:confirmed"]]


def test_publication_in_the_reply_confirms_the_pending_entry(ask: Any) -> None:
    """A message that was published before the connection broke is confirmed by the reply to the
    rejoin."""
    assert ask("""
      timeline.accept(joined(0, []));
      timeline.compose(draft("mine"));
      timeline.accept(joined(1, [said(1, "mine", { id: "mine", user: "ann" })]));
      return texts(timeline);
    """) == ["mine:confirmed"]


def test_other_user_s_id_confirms_nothing(ask: Any) -> None:
    """Another user's message with the same id does not confirm the pending entry, not even if that
    user has the same name."""
    assert ask("""
      timeline.accept(joined(0, []));
      timeline.compose(draft("mine"));
      timeline.apply(said(1, "theirs", { id: "mine", username: "Ann" }));
      return texts(timeline);
    """) == ["theirs:confirmed", "mine:pending"]


def test_draft_of_an_earlier_page_is_confirmed(ask: Any) -> None:
    """A draft that was stored without a user is confirmed by the reader's own publication."""
    assert ask("""
      const { user, ...stored } = draft("mine");
      timeline.compose(stored);
      timeline.accept(joined(1, [said(1, "mine", { id: "mine", user: "ann", username: "Anna" })]));
      return [texts(timeline), timeline.items[0].own, timeline.items[0].username];
    """) == [["mine:confirmed"], True, "Anna"]


def test_erased_user_is_gone(ask: Any) -> None:
    """The messages of a user who was erased are deleted, also in the part of the log that is shown
    instead of its end, and their reactions are taken back."""
    assert ask("""
      timeline.accept(joined(9, [said(8, "b", { user: "ann" }), said(9, "c")]));
      timeline.apply(said(10, "", { type: "react", target: 8, emoji: "👍" }));
      timeline.excerpt({ messages: [said(1, "a")], more: false });
      timeline.erase({ type: "user_erased", user: "zoe" });
      const [b, c] = timeline.newest, [a] = timeline.items;
      return [a.deleted, a.username, c.text, b.text, b.reactions];
    """) == [True, "(erased)", "", "b", {}]


def test_own_messages_follow_the_reader_s_id(ask: Any) -> None:
    """If the reader is another user after a rejoin, their messages are their own, and the earlier
    ones are not."""
    assert ask("""
      const own = () => timeline.items.map((each) => each.own);
      timeline.accept(joined(2, [said(1, "a"), said(2, "b", { user: "ann" })]));
      const before = own();
      timeline.accept(joined(2, [], { user: "zoe" }));
      return [before, own(), timeline.lastOwn.text];
    """) == [[False, True], [True, False], "a"]


def test_ack_confirms_once(ask: Any) -> None:
    """An ack puts the message at its offset, unless the message is there already."""
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
    """The model drops its oldest entries, fifty at a time, however many arrive."""
    assert ask("""
      timeline.accept(joined(0, []));
      const lengths = [];
      for (let offset = 1; offset <= 2000; offset += 1) {
        timeline.apply(said(offset, offset));
        if (offset >= 300) lengths.push(timeline.items.length);
      }
      return [Math.max(...lengths), Math.min(...lengths), timeline.items.at(-1).text];
    """) == [300, 250, 2000]


@pytest.mark.parametrize(
    ("hash", "room", "offset", "valid"),
    [
        ("", "lobby", 0, True),
        ("#", "lobby", 0, True),
        ("#Team.A-1_x", "team.a-1_x", 0, True),
        ("#team/42", "team", 42, True),
        ("#/42", "lobby", 42, True),
        ("#team/", "team/", 0, False),
        ("#team/42/7", "team/42", 7, False),
        ("#a b", "a b", 0, False),
        ("#%E2%82%AC", "€", 0, False),
        ("#%zz", "%zz", 0, False),
        ("#" + "a" * 64, "a" * 64, 0, True),
        ("#" + "a" * 65, "a" * 65, 0, False),
    ],
)
def test_room_is_read_from_the_address(
    ask: Any, hash: str, room: str, offset: int, valid: bool
) -> None:
    """The hash names a room, and possibly a message; an invalid room is reported as such."""
    assert ask(f"""
      const {{ roomFromHash }} = await import("/static/text/room-address.js");
      return roomFromHash({hash!r});
    """) == {"room": room, "offset": offset, "valid": valid}


# Joins and leaves

NOTES = """
const note = (type, ...names) => names.forEach((name) => {
  const [username, user = name] = name.split("/");
  timeline.note({ type, user, username });
});
const names = (people) => people.map(({ username }) => username);
const shown = (range) => range.map((each) =>
  each.kind === "notice" ? `+${names(each.join)} -${names(each.leave)}` : each.text);
timeline.accept(joined(0, []));
"""


def test_joins_and_leaves_fold_into_one_line(ask: Any) -> None:
    """Joins and leaves without a message in between fold into one line, and a user who left and
    returned is not named."""
    assert ask(f"""{NOTES}
      timeline.apply(said(1, "a"));
      note("join", "Bob", "Cid", "Dee");
      note("leave", "Cid", "Eve");
      timeline.apply(said(2, "b"));
      note("leave", "Bob", "Bob");
      timeline.apply(said(3, "c"));
      note("join", "Fay");
      note("leave", "Fay");
      return shown(timeline.entries);
    """) == ["a", "+Bob,Dee -Eve", "b", "+ -Bob", "c"]


def test_users_of_one_name_are_told_apart_in_a_line(ask: Any) -> None:
    """If a user leaves and another one joins under that name, or a user returns under another name,
    the line names both."""
    assert ask(f"""{NOTES}
      timeline.apply(said(1, "a"));
      note("leave", "Bob/1");
      note("join", "Bob/2");
      timeline.apply(said(2, "b"));
      note("leave", "Cid/3");
      note("join", "Cidney/3");
      return shown(timeline.entries);
    """) == ["a", "+Bob -Bob", "b", "+Cidney -Cid"]


def test_folded_line_stays_behind_its_message(ask: Any) -> None:
    """The line stays behind the last message before it, whatever is inserted above."""
    assert ask(f"""{NOTES}
      timeline.accept(joined(5, [said(4, "d"), said(5, "e")], {{ recovered: false }}));
      note("join", "Bob");
      timeline.prepend({{ messages: [said(2, "b"), said(3, "c")], more: true }});
      timeline.apply(said(6, "f"));
      return shown(timeline.entries);
    """) == ["b", "c", "d", "e", "+Bob -", "f"]


@pytest.mark.parametrize("follows", ["true", "false"])
def test_notices_keep_a_full_tail_bounded(ask: Any, follows: str) -> None:
    """However many users join and leave, the tail and each reading of it hold at most 300
    entries."""
    assert ask(f"""{NOTES}
      for (let offset = 1; offset <= 300; offset += 1) timeline.apply(said(offset, offset));
      timeline.following = {follows};
      for (let offset = 301; offset <= 400; offset += 1) {{
        note("join", `Bob ${{offset}}`);
        timeline.apply(said(offset, offset));
      }}
      const most = Math.max(timeline.newest.length, timeline.items.length);
      return [most >= 250 && most <= 300, timeline.items[0].text !== 1];
    """) == [True, follows == "true"]


def test_reading_continues_past_a_removed_line(ask: Any) -> None:
    """A reader who stopped at a line that was removed meanwhile still reaches the end."""
    assert ask(f"""{NOTES}
      for (let offset = 1; offset <= 300; offset += 1) timeline.apply(said(offset, offset));
      timeline.following = false;
      note("join", "Bob");
      timeline.apply(said(301, 301));
      while (!timeline.atEnd) timeline.grow();
      timeline.following = false;
      note("join", "Cid");
      timeline.prepend({{ messages: [said(1, 1)], more: false }});
      for (let offset = 302; offset <= 303; offset += 1) {{
        note("leave", "Cid");
        timeline.apply(said(offset, offset));
      }}
      let steps = 0;
      while (!timeline.atEnd && steps < 20) steps += timeline.grow() ? 1 : 100;
      return [timeline.atEnd, shown(timeline.entries).at(-1)];
    """) == [True, 303]


# The read mark

ROOM = """
const { Room } = await import("/static/model/room.js");
const { Storage } = await import("/static/client/storage.js");
const storage = new Storage();
storage.set("read.r", "");
const room = new Room("r", storage, () => {});
const reply = (offset, messages, more) => ({ ...joined(offset, messages), rights: ["read", "write"],
  users: [{ user: "ann", username: "Ann" }], online: 1, ...more });
const take = (...offsets) => offsets.forEach((each) => room.timeline.apply(said(each, each)));
const unread = () => room.unread.map(({ offset }) => offset);
"""


def test_read_mark_moves_only_forward(ask: Any) -> None:
    """A read message stays read, and an older tab does not move the mark back."""
    assert ask(f"""{ROOM}
      room.accept(reply(0, []));
      take(1, 2, 3, 4);
      const steps = [room.read(2), room.read(1), room.read(2), unread()];
      storage.set("read.r", "e1 3");
      steps.push(room.recall(), room.recall(), unread());
      storage.set("read.r", "e1 9");
      room.read(4);
      return [...steps, storage.get("read.r")];
    """) == [True, False, False, [3, 4], True, False, [4], "e1 9"]


def test_mark_of_another_history_counts_nothing(ask: Any) -> None:
    """After a lost history every message is unread, the line is gone, and a tab of the old history
    is ignored."""
    assert ask(f"""{ROOM}
      room.accept(reply(0, []));
      take(1, 2, 3);
      room.read(2);
      room.visit();
      const line = room.line;
      room.accept(reply(2, [said(1, "x"), said(2, "y")], {{ epoch: "e2", recovered: false,
        replaced: true }}));
      const lost = [room.line, unread()];
      storage.set("read.r", "e1 8");
      return [line, ...lost, room.recall(), room.read(1), storage.get("read.r")];
    """) == [2, None, [1, 2], False, True, "e2 1"]


def test_history_that_went_back_is_unread(ask: Any) -> None:
    """If the server has gone back to an earlier copy of its history, all of it is unread."""
    assert ask(f"""{ROOM}
      room.accept(reply(0, []));
      take(1, 2, 3);
      room.read(3);
      room.accept(reply(2, [said(1, "x"), said(2, "y")], {{ recovered: false, replaced: true }}));
      const stored = storage.get("read.r");
      storage.set("read.r", "");
      return [unread(), stored, room.line];
    """) == [[1, 2], "e1 0", None]


def test_history_that_goes_on_stays_read(ask: Any) -> None:
    """If too much was missed to recover it, what was read before stays read."""
    assert ask(f"""{ROOM}
      room.accept(reply(0, []));
      take(1, 2, 3);
      room.read(3);
      room.accept(reply(4, [said(2, 2), said(3, 3), said(4, 4)], {{ recovered: false }}));
      return unread();
    """) == [4]


def test_count_is_a_minimum_if_the_mark_is_further_back(ask: Any) -> None:
    """If the read mark is before the oldest loaded entry, the count is a minimum."""
    assert ask(f"""{ROOM}
      storage.set("read.r", "e1 2");
      room.accept(reply(9, [said(8, 8), said(9, 9)]));
      const more = [unread(), room.hasMoreUnread];
      room.timeline.prepend({{ messages: [said(3, 3), said(7, 7)], more: false }});
      return [...more, unread(), room.hasMoreUnread];
    """) == [[8, 9], True, [3, 7, 8, 9], False]


def test_read_mark_works_without_storage(ask: Any) -> None:
    """Without storage, a reconnect does not mark unread messages as read."""
    assert ask(f"""{ROOM}
      const room2 = new Room("r", {{ get: () => "", set: () => {{}} }}, () => {{}});
      room2.accept(reply(1, [said(1, 1)]));
      room2.timeline.apply(said(2, 2));
      room2.accept(reply(3, [said(3, 3)]));
      return room2.unread.map(({{ offset }}) => offset);
    """) == [2, 3]
