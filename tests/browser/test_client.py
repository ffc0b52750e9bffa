"""The client that the page and the programs of others use, against a server that a test scripts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support.server import TIMEOUT_UNIT_S

TYPES = Path(__file__).parents[2] / "static" / "client.d.ts"

PRELUDE = """
const { Chat, ChatError, backoffMs } = await import("/static/client.js");
const soon = () => new Promise((done) => setTimeout(done));
const until = async (holds) => { while (!holds()) await soon(); };
const server = { epoch: "e1", offset: 0, messages: [], recovered: false };
class Socket {
  static all = [];
  sent = [];
  constructor(url, protocol) {
    Object.assign(this, { url, protocol });
    Socket.all.push(this);
    setTimeout(() => this.onopen?.());
  }
  send(text) {
    const command = JSON.parse(text);
    this.sent.push(command);
    if (command.type === "join" && !server.silent) this.say(server.refusal
      ? { type: "error", ref: command.ref, ...server.refusal }
      : { type: "joined", ref: command.ref, room: command.room, user: "g_ann", username: "Ann",
          session: "s".repeat(16), rights: ["read", "write"], online: 1, spectators: 0,
          users: [{ user: "g_ann", username: "Ann" }], timestamp: "T0", ...server });
  }
  of(type) { return this.sent.filter((each) => each.type === type); }
  close() { this.closed = true; }
  say(event) { this.onmessage?.({ data: JSON.stringify(event) }); }
  lose(code = 1006) { this.onclose?.({ code }); }
}
const last = () => Socket.all.at(-1);
const said = (offset, text, more) => ({ type: "message", room: "r", offset, user: "g_zoe",
  username: "Zoe", text, timestamp: `T${offset}`, ...more });
const start = async (options, join) => {
  const chat = new Chat("https://chat.example", { username: "Ann", WebSocket: Socket, ...options });
  return [chat, await chat.join("r", join)];
};
const again = async (chat, room) => {
  const before = Socket.all.length;
  last().lose();
  chat.reconnect();
  await until(() => Socket.all.length > before && room.joined);
};
const codeOf = (promise) => promise.then(() => "done", (error) => error.code);
const told = (emitter, types) => {
  const events = [];
  emitter.on(types, (event) => events.push(event.type ?? event.phase ?? event));
  return events;
};
"""


@pytest.fixture
def ask(blank: Any) -> Any:
    """Run the body of a function with a scripted server and return its result."""

    def ask(body: str) -> Any:
        limit_ms = round(20_000 * TIMEOUT_UNIT_S)
        return blank.evaluate(f"""() => Promise.race([
          (async () => {{ {PRELUDE} {body} }})(),
          new Promise((_, fail) => setTimeout(fail, {limit_ms}, Error("slow")))])""")

    return ask


# Rooms


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://chat.example", "wss://chat.example/ws"),
        ("http://chat.example:8080/", "ws://chat.example:8080/ws"),
        ("wss://chat.example/ws", "wss://chat.example/ws"),
        ("https://chat.example/chat/?a#b", "wss://chat.example/chat/ws"),
        ("https://chat.example/news", "wss://chat.example/news/ws"),
    ],
)
def test_address_leads_to_the_endpoint(ask: Any, url: str, expected: str) -> None:
    """The client takes the address of the chat or of its endpoint, for http and for WebSockets."""
    assert ask(f"""
      const chat = new Chat({url!r}, {{ WebSocket: Socket }});
      await chat.join("r");
      return [last().url, last().protocol];
    """) == [expected, "fastchat.v1"]


def test_join_gives_a_room(ask: Any) -> None:
    """The room has the newest messages, the users, the rights and the user's own name."""
    assert ask("""
      Object.assign(server, { offset: 1, messages: [said(1, "a")] });
      const [chat, room] = await start({}, { history: 10 });
      const [{ room: name, username, history, since }] = last().of("join");
      return [name, username, history, since ?? null, room.name, room.joined, room.rights,
        room.users, room.online, room.username, room.messages.map(({ text }) => text),
        chat.room("r") === room, (await chat.join("r")) === room, last().of("join").length,
        chat.session, chat.user, chat.status.phase];
    """) == [
        *("r", "Ann", 10, None, "r", True, ["read", "write"]),
        *([{"user": "g_ann", "username": "Ann"}], 1, "Ann", ["a"], True, True, 1),
        *("s" * 16, "g_ann", "open"),
    ]


def test_messages_have_their_present_state(ask: Any) -> None:
    """Edits, deletions and reactions change the messages of a room, and each is an event."""
    assert ask("""
      const [chat, room] = await start();
      const events = told(room, "message edit delete react");
      const change = (offset, type, more) => last().say(said(offset, "", { type, ...more }));
      last().say(said(1, "a"));
      last().say(said(2, "b"));
      change(3, "edit", { target: 1, text: "A" });
      change(4, "react", { target: 1, emoji: "👍" });
      change(5, "react", { target: 1, emoji: "🎉", user: "g_ann", username: "Ann" });
      change(6, "react", { target: 1, emoji: "👍", remove: true });
      change(7, "delete", { target: 2 });
      change(8, "wave", { target: 1 });
      const [a, b] = room.messages;
      return [events, a.text, a.edited, a.reactions, b.deleted, b.text, room.position.offset];
    """) == [
        ["message", "message", "edit", "react", "react", "react", "delete"],
        *("A", "T3", {"🎉": [{"user": "g_ann", "username": "Ann"}]}, True, "", 8),
    ]


@pytest.mark.parametrize("emoji", ["constructor", "__proto__"])
def test_reaction_can_have_any_name(ask: Any, emoji: str) -> None:
    """A server that allows other reactions than emoji cannot confuse the client by their names."""
    assert ask(f"""
      const [chat, room] = await start();
      const react = (offset, remove) => last().say(said(offset, "", {{ type: "react", target: 1,
        emoji: "{emoji}", remove }}));
      last().say(said(1, "a"));
      react(2);
      const [{{ reactions }}] = room.messages;
      react(3, true);
      return [Object.entries(reactions), Object.keys(room.messages[0].reactions)];
    """) == [[[emoji, [{"user": "g_zoe", "username": "Zoe"}]]], []]


def test_memory_of_a_room_is_bounded(ask: Any) -> None:
    """A room keeps its newest messages, 300 or as many as the user wants."""
    assert ask("""
      const [chat, room] = await start();
      const few = await chat.join("few", { keep: 2 });
      for (let offset = 1; offset <= 400; offset += 1) {
        last().say(said(offset, offset));
        last().say(said(offset, offset, { room: "few" }));
      }
      return [room.messages.length, room.messages[0].text, few.messages.map(({ text }) => text)];
    """) == [300, 101, [399, 400]]


def test_users_come_and_go(ask: Any) -> None:
    """The list of users follows joins and leaves, and is null in a crowd."""
    assert ask("""
      const [chat, room] = await start();
      const events = told(room, "join leave");
      const lists = [];
      room.on("users", (users) => lists.push(users?.map(({ username }) => username) ?? null));
      const who = (type, name, online) =>
        last().say({ type, room: "r", user: `g_${name}`, username: name, online });
      who("join", "Zoe", 2);
      who("join", "Bob", 3);
      who("leave", "Zoe", 2);
      last().say({ type: "presence", room: "r", online: 201, spectators: 4, users: null });
      last().say({ type: "presence", room: "r", online: 202, spectators: 5 });
      return [events, lists, room.online, room.spectators];
    """) == [
        ["join", "join", "leave"],
        [["Ann", "Zoe"], ["Ann", "Zoe", "Bob"], ["Ann", "Bob"], None, None],
        202,
        5,
    ]


def test_listeners_can_be_removed(ask: Any) -> None:
    """`on` takes several types and returns a function that removes the listener, like `off`. A
    listener that throws does not keep an event from the others."""
    assert ask("""
      const [chat, room] = await start();
      const got = [], thrown = new Promise((done) => { onerror = (...values) => {
        onerror = null; done(values[4].message); return true; }; });
      const remove = room.on("message edit", () => { throw new Error("mine"); });
      const listener = ({ text }) => got.push(text);
      room.on("message", listener);
      last().say(said(1, "a"));
      const message = await thrown;
      remove();
      last().say(said(2, "b"));
      room.off("message", listener);
      last().say(said(3, "c"));
      return [got, message];
    """) == [["a", "b"], "mine"]


def test_typing_is_limited_and_not_one_s_own(ask: Any) -> None:
    """The client tells that the user is typing at most every three seconds, and ignores its own."""
    assert ask("""
      const [chat, room] = await start();
      const people = [];
      room.on("typing", ({ username }) => people.push(username));
      room.typing();
      room.typing();
      last().say({ type: "typing", room: "r", user: "g_ann", username: "Ann" });
      last().say({ type: "typing", room: "r", user: "g_zoe", username: "Zoe" });
      return [last().of("typing").length, people];
    """) == [1, ["Zoe"]]


def test_options_of_a_room_follow_the_server(ask: Any) -> None:
    """A room has the options of the join, and then those of each change."""
    assert ask("""
      server.options = { title: "News" };
      const [chat, room] = await start();
      const before = room.options, heard = [];
      room.on("room", ({ options }) => heard.push(options.topic));
      last().say({ type: "room", room: "r", options: { topic: "All of it" } });
      return [before, heard, room.options];
    """) == [{"title": "News"}, ["All of it"], {"topic": "All of it"}]


def test_deleted_room_is_not_joined_again(ask: Any) -> None:
    """A client comes back to its other rooms only. Another `join` begins the room anew."""
    assert ask("""
      const [chat, room] = await start();
      const other = await chat.join("other");
      const events = told(room, "room_deleted");
      last().say(said(1, "a"));
      const sent = codeOf(room.send("b"));
      last().say({ type: "room_deleted", room: "r" });
      const state = [events, await sent, room.error.code, room.messages];
      last().lose(4010);
      chat.reconnect();
      await until(() => other.joined);
      const joins = () => last().of("join").map(({ room, since }) => [room, since ?? null]);
      const before = joins().length;
      await chat.join("r");
      return [...state, before, joins().at(-1), room.joined];
    """) == [["room_deleted"], "room_deleted", "room_deleted", [], 1, ["r", None], True]


def test_erased_user_is_gone(ask: Any) -> None:
    """The messages of a user who was erased are deleted, and their reactions are taken back."""
    assert ask("""
      const [chat, room] = await start();
      const events = told(room, "user_erased");
      last().say(said(1, "a"));
      last().say(said(2, "b", { user: "g_ann", username: "Ann" }));
      last().say(said(3, "", { type: "react", target: 2, emoji: "👍" }));
      last().say(said(4, "", { type: "react", target: 2, emoji: "🎉", user: "g_ann" }));
      last().say({ type: "user_erased", room: "r", user: "g_zoe" });
      const [a, b] = room.messages;
      return [events, a.user, a.username, a.text, a.deleted, b.text, Object.keys(b.reactions)];
    """) == [["user_erased"], "e_", "(erased)", "", True, "b", ["🎉"]]


def test_unknown_events_are_passed_on(ask: Any) -> None:
    """An event that a later server sends about a room reaches the room's listeners."""
    assert ask("""
      const [chat, room] = await start();
      const titles = [];
      room.on("poll", ({ title }) => titles.push(title));
      last().say({ type: "poll", room: "r", title: "News" });
      return titles;
    """) == ["News"]


def test_left_room_is_forgotten(ask: Any) -> None:
    """A room that was left is not joined again, and a connection without rooms is closed."""
    assert ask("""
      const [chat, room] = await start();
      const sent = codeOf(room.send("a"));
      room.leave();
      return [last().of("leave").length, chat.rooms.length, await sent, chat.status.phase,
        await codeOf(room.send("b"))];
    """) == [1, 0, "left", "closed", "left"]


def test_listener_after_a_join_misses_nothing(ask: Any) -> None:
    """In Node several frames can arrive at once. An event that comes with the reply to a join is
    told when those who wait for the join have added their listeners."""
    assert ask("""
      globalThis.setImmediate = (work) => setTimeout(work);
      const chat = new Chat("https://chat.example", { WebSocket: class extends Socket {
        send(text) {
          super.send(text);
          this.say(said(1, "at once"));
        }
      } });
      const room = await (async () => await chat.join("r"))();
      const texts = [];
      room.on("message", ({ text }) => texts.push(text));
      await until(() => texts.length);
      delete globalThis.setImmediate;
      return texts;
    """) == ["at once"]


def test_types_and_module_name_the_same_things(blank: Any) -> None:
    """The types declare each export of the module and each public member of its classes, and
    nothing else."""
    source = TYPES.read_text("utf-8")
    exports = re.findall(r"^export (?:class|const|function) (\w+)", source, re.MULTILINE)
    declared = {}
    for name in ("Chat", "Room"):
        (body,) = re.findall(rf"^export class {name} {{$(.*?)^}}", source, re.MULTILINE | re.DOTALL)
        members = re.findall(r"^  (?:readonly )?(\w+)\??[(:]", body, re.MULTILINE)
        declared[name] = sorted({*members, "on", "off"} - {"constructor"})
    found = blank.evaluate("""async () => {
      const module = await import("/static/client.js");
      const membersOf = (value) => value === Object.prototype ? [] :
        [...Object.getOwnPropertyNames(value), ...membersOf(Object.getPrototypeOf(value))];
      const chat = new module.Chat(location.origin, { WebSocket: class {} });
      chat.join("r");
      const members = (value) =>
        [...new Set(membersOf(value))].filter((name) => name !== "constructor").sort();
      const result = { Chat: members(chat), Room: members(chat.room("r")) };
      chat.close();
      return [Object.keys(module).sort(), result];
    }""")
    assert found == [sorted(exports), declared]


# Recovery


def test_missed_publications_are_told_once(ask: Any) -> None:
    """A client joins again from its last position, with that publication's timestamp. What it
    missed is told once and in order, and marked."""
    assert ask("""
      const [chat, room] = await start();
      const events = [];
      room.on("message edit gap", ({ offset, type }, missed) =>
        events.push([type ?? "gap", offset, missed]));
      last().say(said(1, "a"));
      last().say(said(1, "a"));
      Object.assign(server, { offset: 3, recovered: true, messages: [said(1, "a"), said(2, "b"),
        said(3, "B", { type: "edit", target: 2 })] });
      await again(chat, room);
      last().say(said(4, "c"));
      return [events, last().of("join")[0].since, room.messages.map(({ text }) => text)];
    """) == [
        [["message", 1, False], ["message", 2, True], ["edit", 3, True], ["message", 4, False]],
        {"epoch": "e1", "offset": 1, "timestamp": "T1"},
        ["a", "B", "c"],
    ]


def test_hole_makes_the_client_recover(ask: Any) -> None:
    """A publication whose predecessor is missing is not told; the client joins again."""
    assert ask("""
      const [chat, room] = await start();
      const texts = [];
      room.on("message", ({ text }) => texts.push(text));
      last().say(said(1, "a"));
      last().say(said(3, "c"));
      const { phase } = chat.status;
      Object.assign(server, { offset: 3, recovered: true, messages: [said(2, "b"), said(3, "c")] });
      chat.reconnect();
      await until(() => room.joined);
      return [phase, texts, last().of("join")[0].since.offset];
    """) == ["waiting", ["a", "b", "c"], 1]


@pytest.mark.parametrize(
    ("reply", "replaced"),
    [
        ('{ offset: 9, messages: [said(8, "x"), said(9, "y")] }', False),
        ('{ epoch: "e2", offset: 2, messages: [said(1, "x"), said(2, "y")] }', True),
        ('{ epoch: "e2", offset: 2, recovered: true, messages: [said(2, "y")] }', True),
        ('{ offset: 1, messages: [said(1, "y")] }', True),
        ('{ offset: 3, messages: [said(2, "x", { timestamp: "U" }), said(3, "y")] }', True),
    ],
    ids=["too much", "other epoch", "recovered elsewhere", "went back", "other timestamp"],
)
def test_gap_is_told(ask: Any, reply: str, *, replaced: bool) -> None:
    """If what was missed cannot be recovered, the client says so. It also says whether the server
    has another history now: another epoch, an older copy, or one with another publication."""
    assert ask(f"""
      const [chat, room] = await start();
      const events = told(room, "message");
      const gaps = [];
      room.on("gap", (gap) => gaps.push(gap));
      last().say(said(1, "a"));
      last().say(said(2, "b"));
      Object.assign(server, {reply});
      await again(chat, room);
      const [{{ since, position, replaced }}] = gaps;
      return [gaps.length, events.length, since.offset, position.offset === server.offset, replaced,
        room.messages.at(-1).text];
    """) == [1, 2, 2, True, replaced, "y"]


def test_backoff_grows_with_jitter_to_a_limit(ask: Any) -> None:
    """The delay doubles from half a second to fifteen seconds, and half of it is random."""
    assert ask("""
      return [[0, 1], [0, 0], [1, 1], [30, 1], [30, 0]].map((each) => backoffMs(...each));
    """) == [500, 250, 1000, 15000, 7500]


def test_client_reconnects_when_the_server_says(ask: Any) -> None:
    """After `closing` the client waits for as long as the server says, and tells why."""
    assert ask("""
      const [chat, room] = await start();
      const begun = performance.now();
      last().say({ type: "closing", code: 1012, reason: "restart", reconnect_after_ms: 9000 });
      last().lose(1012);
      const { phase, error, retryAt, reason } = chat.status;
      const waitMs = retryAt - begun;
      return [phase, error.code, error.closeCode, error.temporary, error.retryAfter, reason,
        waitMs > 9000 && waitMs < 9700];
    """) == ["waiting", "restart", 1012, True, 9000, "restart", True]


@pytest.mark.parametrize(
    ("code", "name"), [(4503, "removed"), (4504, "flooding"), (1009, "too_big"), (4999, "lost")]
)
def test_client_stops_after_a_final_code(ask: Any, code: int, name: str) -> None:
    """After a final close code the client does not reconnect. Those who wait are told, and
    `reconnect` tries again."""
    assert ask(f"""
      const [chat, room] = await start();
      const sent = codeOf(room.send("a"));
      last().lose({code});
      const {{ phase, error }} = chat.status;
      const state = [phase, error.temporary, await sent, await codeOf(room.send("b"))];
      chat.reconnect();
      await until(() => room.joined);
      return [...state, Socket.all.length];
    """) == ["stopped", False, name, name, 2]


def test_closed_chat_is_over(ask: Any) -> None:
    """`close` closes the socket, rejects what waits, and does not reconnect."""
    assert ask("""
      const [chat, room] = await start();
      server.silent = true;
      const waiting = [room.send("a"), room.history(), chat.join("other")].map(codeOf);
      chat.close();
      dispatchEvent(new Event("online"));
      await soon();
      return [await Promise.all(waiting), last().closed, chat.status.phase, chat.rooms.length,
        Socket.all.length];
    """) == [["closed", "lost", "closed"], True, "closed", 0, 1]


# Sending


def test_message_is_sent_until_it_is_stored(ask: Any) -> None:
    """A message is sent again with the same id after a lost connection, and `send` resolves with
    the publication, or with the offset if the server had stored it before."""
    assert ask("""
      const [chat, room] = await start();
      const first = room.send("a"), second = room.send("b");
      const [{ id }, { id: other }] = last().of("message");
      server.recovered = true;
      await again(chat, room);
      const resent = last().of("message").map(({ id, text }) => [id, text]);
      last().say({ type: "ack", room: "r", id, offset: 1 });
      last().say(said(1, "a", { id, user: "g_ann" }));
      last().say(said(2, "b", { id: other, user: "g_ann" }));
      const { offset, id: acknowledged } = await first;
      return [resent.length, resent[0][0] === id, resent[0][1], offset, acknowledged === id,
        (await second).timestamp, last().of("message").length];
    """) == [1, True, "a", 1, True, "T2", 2]


def test_message_that_was_missed_is_not_sent_again(ask: Any) -> None:
    """If the reply to the join has a message, it was stored. Another user's message with the same
    id confirms nothing."""
    assert ask("""
      const [chat, room] = await start();
      const sent = room.send("a");
      const [{ id }] = last().of("message");
      Object.assign(server, { offset: 2, recovered: true,
        messages: [said(1, "theirs", { id }), said(2, "a", { id, user: "g_ann" })] });
      await again(chat, room);
      return [(await sent).offset, last().of("message").length];
    """) == [2, 0]


def test_message_of_an_earlier_program_can_be_doubtful(ask: Any) -> None:
    """A message that was sent long ago, and of which nobody knows whether it was stored, is
    rejected; a recent one is sent again."""
    assert ask("""
      const [chat, room] = await start();
      last().lose();
      const old = codeOf(room.send("old", { id: "1", sentAt: Date.now() - 600_000 }));
      const recent = room.send("recent", { id: "2", sentAt: Date.now() - 60_000 });
      chat.reconnect();
      await until(() => room.joined);
      last().say(said(1, "recent", { id: "2", user: "g_ann" }));
      return [await old, (await recent).offset, last().of("message").map(({ id }) => id)];
    """) == ["doubtful", 1, ["2"]]


def test_limited_messages_stay_in_order(ask: Any) -> None:
    """After `rate_limited` the client waits, and sends one message after the other."""
    assert ask("""
      const [chat, room] = await start();
      room.send("a");
      room.send("b");
      const [a, b] = last().of("message");
      const refused = ({ id }) => last().say({ type: "error", id, code: "rate_limited",
        message: "Slow.", temporary: true, retry_after_ms: 20 });
      refused(a);
      refused(b);
      const count = () => last().of("message").length;
      await until(() => count() > 2);
      const alone = count();
      last().say(said(1, "a", { id: a.id, user: "g_ann" }));
      return [alone, count(), last().of("message").map(({ text }) => text)];
    """) == [3, 4, ["a", "b", "a", "b"]]


def test_waiting_messages_are_bounded(ask: Any) -> None:
    """While the server is away, at most 1,000 messages to a room wait."""
    assert ask("""
      const [chat, room] = await start();
      last().lose();
      for (let number = 0; number < 1000; number += 1) room.send("a");
      return room.send("b").catch(({ code, temporary }) => [code, temporary]);
    """) == ["full", True]


def test_refused_message_is_an_error(ask: Any) -> None:
    """`send` rejects with the server's code and whether it can succeed later."""
    assert ask("""
      const [chat, room] = await start();
      const sent = room.send("a").catch((error) => error);
      const [{ id }] = last().of("message");
      last().say({ type: "error", id, code: "unavailable", message: "Later.", temporary: true,
        retry_after_ms: 500 });
      const error = await sent;
      const { name, code, message, temporary, retryAfter } = error;
      return [error instanceof ChatError, error instanceof Error, name, code, message, temporary,
        retryAfter, await codeOf(room.send("")), await codeOf(room.send("x".repeat(4001)))];
    """) == [
        *(True, True, "ChatError", "unavailable", "Later.", True, 500),
        *("no_text", "too_long"),
    ]


def test_reply_quotes_its_message(ask: Any) -> None:
    """`replyTo` takes a message or its offset, also of one that is not in memory any more."""
    assert ask("""
      const [chat, room] = await start({}, { keep: 1 });
      last().say(said(1, "first"));
      last().say(said(2, "second"));
      room.send("yes", { replyTo: room.messages[0] });
      room.send("no", { replyTo: 1 });
      await until(() => last().of("history").length);
      const [{ ref, before, limit }] = last().of("history");
      last().say({ type: "history", room: "r", ref, messages: [said(1, "first")], more: false });
      await until(() => last().of("message").length > 1);
      return [before, limit, last().of("message").map(({ text }) => text)];
    """) == [2, 1, ["> @Zoe #2\n> second\n\nyes", "> @Zoe #1\n> first\n\nno"]]


def test_commands_have_answers(ask: Any) -> None:
    """Each command resolves with its answer: changes with their publication, pages with their
    messages. Without a connection a command is refused at once."""
    assert ask("""
      const [chat, room] = await start();
      const pages = [room.history({ before: 9, limit: 5 }), room.search("a b")];
      for (const { type, ref } of last().sent.slice(1))
        last().say({ type: type === "search" ? "results" : type, room: "r", ref,
          messages: [said(1, type)], more: true });
      const changes = [room.edit(1, "A"), room.react(1, "👍"), room.delete(1)];
      const own = { user: "g_ann", target: 1 };
      last().say(said(1, "A", { type: "edit", ...own }));
      last().say(said(2, "", { type: "react", emoji: "👍", ...own }));
      last().say(said(3, "", { type: "delete", ...own }));
      const [{ messages, more }, found] = await Promise.all(pages);
      const made = (await Promise.all(changes)).map(({ type }) => type);
      const lost = codeOf(room.history());
      last().lose();
      const offline = codeOf(room.edit(1, "B"));
      return [messages[0].text, more, found[0].text, made, await lost, await offline];
    """) == ["history", True, "search", ["edit", "react", "delete"], "lost", "offline"]


# Names and tokens


def test_refused_join_is_an_error(ask: Any) -> None:
    """`join` rejects if the server refuses the room for good, and another `join` asks again."""
    assert ask("""
      const [chat] = await start();
      server.refusal = { code: "forbidden", message: "No.", temporary: false, retry_after_ms: 7 };
      const error = await chat.join("secret").catch((error) => error);
      const state = [error.code, error.retryAfter, chat.room("secret").error === error];
      delete server.refusal;
      const room = await chat.join("secret");
      return [...state, room.joined, room.error, chat.room("r").joined];
    """) == ["forbidden", 7, True, True, None, True]


def test_join_waits_for_a_server_that_is_busy(ask: Any) -> None:
    """A join that is refused for now is asked for again, and the room says until when it waits."""
    assert ask("""
      const [chat] = await start();
      server.refusal = { code: "unavailable", message: "Later.", temporary: true,
        retry_after_ms: 30 };
      const joining = chat.join("busy");
      const waits = [];
      chat.room("busy").on("waiting", ({ error }) => waits.push(error.code));
      await until(() => waits.length);
      delete server.refusal;
      return [waits, (await joining).joined];
    """) == [["unavailable"], True]


def test_name_can_change(ask: Any) -> None:
    """Another name leaves the rooms and joins them again on another connection."""
    assert ask("""
      const [chat, room] = await start();
      const before = last();
      chat.rename("Anna");
      await until(() => room.joined);
      return [before.of("leave").length, before.closed, last().of("join")[0].username,
        Socket.all.length];
    """) == [1, True, "Anna", 2]


def test_token_is_asked_for_at_each_connection(ask: Any) -> None:
    """A function gives the token of each connection, and learns if the last one was refused or has
    expired."""
    assert ask("""
      const asked = [];
      const token = async ({ refused }) => (asked.push(refused), `t${asked.length}`);
      const [chat, room] = await start({ token });
      await again(chat, room);
      last().lose(4011);
      await until(() => room.joined);
      server.refusal = { code: "unauthorized", message: "No." };
      last().lose();
      chat.reconnect();
      await until(() => chat.status.phase === "stopped");
      return [asked, Socket.all.flatMap((each) => each.of("join").map(({ token }) => token)),
        chat.status.error.code];
    """) == [
        [False, False, True, False, True],
        ["t1", "t2", "t3", "t4", "t5"],
        "unauthorized",
    ]


@pytest.mark.parametrize("token", ['"t"', '() => "t"', '({ refused }) => (refused ? "" : "t")'])
def test_refused_token_stops_the_client(ask: Any, token: str) -> None:
    """If there is no other token than the refused one, the client stops and `join` rejects."""
    assert ask(f"""
      server.refusal = {{ code: "unauthorized", message: "No." }};
      const chat = new Chat("https://chat.example", {{ token: {token}, WebSocket: Socket }});
      const code = await codeOf(chat.join("r"));
      return [code, chat.status.phase, Socket.all.length];
    """) == ["unauthorized", "stopped", 1]


def test_failing_token_is_asked_for_again(ask: Any) -> None:
    """If the token cannot be fetched, the client waits and tries again."""
    assert ask("""
      let count = 0;
      const token = () => { if ((count += 1) === 1) throw new Error("away"); return "t"; };
      const chat = new Chat("https://chat.example", { token, WebSocket: Socket });
      const joining = chat.join("r");
      await until(() => chat.status.phase === "waiting");
      const { code, message, temporary } = chat.status.error;
      chat.reconnect();
      return [code, message, temporary, (await joining).joined, count];
    """) == ["no_token", "There is no token: away", True, True, 2]


def test_nothing_is_sent_in_another_user_s_name(ask: Any) -> None:
    """If the token is of another user, what waits to be sent is rejected, and the room starts over
    instead of continuing from the former user's position."""
    assert ask("""
      let token = "ann";
      const [chat, room] = await start({ token: () => token });
      const changes = [];
      chat.on("user", ({ user, former }) => changes.push([former, user]));
      last().say(said(1, "a"));
      last().lose();
      const sent = codeOf(room.send("mine"));
      token = "bob";
      Object.assign(server, { user: "u_bob", recovered: true });
      chat.reconnect();
      await until(() => chat.status.phase === "waiting");
      const messages = Socket.all.flatMap((each) => each.of("message"));
      server.recovered = false;
      chat.reconnect();
      await until(() => room.joined);
      return [await sent, messages, changes, last().of("join")[0].since ?? null, chat.user];
    """) == ["another_user", [], [["g_ann", "u_bob"]], None, "u_bob"]


def test_runtime_without_websockets_is_named(ask: Any) -> None:
    """Without a WebSocket the constructor says what to pass."""
    assert "pass one" in ask("""
      const { WebSocket } = globalThis;
      delete globalThis.WebSocket;
      try {
        return new Chat("https://chat.example").status.phase;
      } catch ({ message }) {
        return message;
      } finally {
        globalThis.WebSocket = WebSocket;
      }
    """)
