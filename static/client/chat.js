// The conversation with the server: joins rooms, sends messages, and passes each event on to its room. It knows nothing
// of the document.
//
// Recovery has one form, whatever went wrong (a lost socket, a missing offset): join again with the last position, and
// send again every message that is not confirmed. The server recognises messages by their ids and stores each once.
//
// Invariants:
// - At most one join waits for its answer (`#asked`). The room that is shown is joined first, then the others in turn.
// - A room is in `#rooms` from the moment it is shown or remembered until it is left; `room.joined` says whether the
//   server has it, too. When the connection is not open, no room is joined.
// - While messages are queued (`#queueing`), one message is on its way at a time, so that they stay in order even if
//   the server refuses one of them. Otherwise messages are sent as they are written.

import { Connection } from "./connection.js";
import { isSame } from "./outbox.js";
import { Requests } from "./requests.js";
import { Room } from "../model/room.js";
import { errorOf, t } from "../text/translation.js";
import { comeBack } from "../text/times.js";

// Messages of a room's history to get with a join; more than a screen shows.
const HISTORY_COUNT = 50;
// Others show a typing event for 5 s (VALID_MS in typing.js), so one every 3 s keeps it shown.
const TYPING_INTERVAL_MS = 3_000;
// Four words of 32 random bits: ids never collide by chance.
const ID_WORDS = 4;
// The server remembers an id for 10 minutes. A message that is sent again later could be stored twice.
const ID_KNOWN_MS = 9 * 60_000;
const OFFLINE = { type: "error", temporary: true, message: t("offlineNow") };
const MAYBE_SENT = { temporary: true, message: t("doubtful") };

// The ids of people with a token begin like this, those of guests do not (docs/protocol.md).
const TOKEN_USER = "u_";

// Refusals that go away with another name or room.
const NEEDS_ANOTHER_NAME_OR_ROOM = new Set(["username_taken", "bad_username", "bad_room"]);
const TOO_MANY = "too_many_rooms";
// Refusals that may go away, but not soon enough to try again automatically.
const LASTING = new Set(["forbidden", TOO_MANY]);
// Close codes after which another token may be accepted.
const NEEDS_ANOTHER_TOKEN = new Set(["unauthorized", "token_expired"]);
// How long to wait if the server does not say: after `rate_limited`, and after a join that is refused for now.
const PAUSE_MS = 1_000;
const JOIN_PAUSE_MS = 5_000;
// The server closes connections that cause many errors, so joins that are refused are spread out.
const REFUSED_PAUSE_MS = 500;

export class Chat {
  #connection;
  #storage;
  #outbox;
  #findToken;
  #on;
  #requests = new Requests();
  #rooms = new Map();
  #shown = null;
  // The reader's id, which the server gives with each join and the browser remembers, and their name.
  #user;
  #name = "";
  #token = "";
  // The token of the last successful join, and the id that the reader had with it before the server gave them another:
  // a server that keeps its history in memory can do so after a restart.
  #accepted = "";
  #formerUser = "";
  // The join that waits for its answer, as `{ room, ref }`; null if none does.
  #asked = null;
  #joinTimer;
  // The last state of the connection, and the state to show instead while the shown room waits for its join.
  #state = {};
  #wait = null;
  // Whether messages are sent one at a time, and the timer until the next one.
  #queueing = false;
  #pause = null;
  #typedAt = -Infinity;

  // The server's limits for files, as `{ max_bytes }`; undefined if it takes no files.
  files;

  // `on` has a function each for: joined, left, changed, people (of a room), said (a message by another person),
  // typing, stoppedTyping (a person, by their id), refused (the name or room), denied (the token), replaced (the token
  // is another person's), phase. `token` returns the token or "".
  constructor(url, { storage, outbox, token, on }) {
    this.#storage = storage;
    this.#outbox = outbox;
    this.#findToken = token;
    this.#on = on;
    this.#user = storage.get("user");
    const routes = this.#routes();
    this.#connection = new Connection(url, {
      open: () => this.#joinNext(),
      event: (event) => routes[event.type]?.(event),
      phase: (state) => this.#phaseChanged(state),
    });
    for (const name of this.#kept) this.#add(name).isKept = true;
    storage.watch("read.", (name) => this.#rooms.get(name)?.recall() && on.changed(this.#rooms.get(name)));
    storage.watch("rooms", () => this.#leaveToo());
  }

  // The reader's rooms, in the order in which they were joined.
  get rooms() {
    return [...this.#rooms.values()];
  }

  get room() {
    return this.#shown;
  }

  // The reader, as `{ user, username }`. Both are "" if they are unknown.
  get self() {
    return { user: this.#user, username: this.#name };
  }

  get timeline() {
    return this.#shown?.timeline;
  }

  // Shows a room under a name, and joins the room if necessary. Another name needs another connection.
  enter({ name, room }) {
    const renamed = name !== this.#name;
    // With another name or token, rooms that refused the reader may accept them.
    const anew = renamed || this.#findToken() !== this.#token;
    this.#name = name;
    this.#typedAt = -Infinity;
    this.#shown = this.#rooms.get(room) ?? this.#add(room);
    if (renamed) {
      // Otherwise the others would see both names for a while.
      for (const each of this.rooms) if (each.joined) this.#connection.send({ type: "leave", room: each.name });
      this.#connection.close();
      for (const each of this.rooms) each.roster.clear();
    }
    for (const each of this.rooms) {
      if (anew || each === this.#shown) each.refusal = null;
      if (anew) this.#adopt(each);
    }
    this.#on.changed(this.#shown);
    this.#on.people(this.#shown);
    this.reconnect();
  }

  // Leaves a room for good.
  leave(name) {
    const room = this.#rooms.get(name);
    const asked = this.#asked?.room === room;
    if (room.joined || asked) this.#connection.send({ type: "leave", room: name });
    if (asked) this.#asked = null;
    room.joined = false;
    this.#rooms.delete(name);
    this.#storage.set(`read.${name}`, "");
    this.#kept = this.#kept.filter((each) => each !== name);
    // The server may accept another room now.
    for (const each of this.rooms) if (each.refusal?.code === TOO_MANY) each.refusal = null;
    // The message that is on its way may have been for this room.
    this.#proceed();
    this.#joinNext();
    this.#on.left();
  }

  // Closes the connection until `enter` is called again.
  quit() {
    this.#connection.close();
  }

  // Removes from the browser who the reader was, which rooms they were in, and how far they have read.
  forget() {
    for (const key of ["user", "rooms", ...this.#storage.keys("read.")]) this.#storage.set(key, "");
  }

  // Sends a message to a room, by default to the one that is shown.
  send(text, room = this.#shown) {
    const timestamp = new Date().toISOString();
    const username = room.self || this.#name;
    const draft = { id: newId(), room: room.name, user: this.#user, username, text, timestamp, at: Date.now() };
    this.#typedAt = -Infinity;
    this.#publish(room.timeline.compose(draft));
    this.#on.changed(room);
  }

  retry(id) {
    const entry = this.timeline.retry(id);
    if (entry) this.#publish(entry);
    this.#on.changed(this.#shown);
  }

  discard(id) {
    this.timeline.discard(id);
    this.#outbox.remove(id);
    this.#on.changed(this.#shown);
  }

  typing() {
    const now = performance.now();
    if (!this.#shown?.joined || now - this.#typedAt < TYPING_INTERVAL_MS) return;
    this.#typedAt = now;
    this.#connection.send({ type: "typing", room: this.#shown.name });
  }

  // Sends a command about a room. Resolves with the answer, which may be an `error`; it never rejects.
  ask(command, room = this.#shown) {
    if (!room?.joined) return Promise.resolve(OFFLINE);
    const whole = { ...command, room: room.name, ref: newId() };
    this.#connection.send(whole);
    return this.#requests.add(whole);
  }

  reconnect() {
    this.#shown.refusal = null;
    if (this.#connection.isOpen) this.#joinNext();
    else this.#connection.open();
    this.#tell();
  }

  wake() {
    this.#connection.wake();
  }

  probe() {
    this.#connection.probe();
  }

  // Messages that an earlier page or another tab has left unconfirmed are adopted.
  #add(name) {
    const confirmed = (id) => {
      this.#outbox.remove(id);
      this.#proceed();
    };
    const room = new Room(name, this.#storage, confirmed, () => this.rooms);
    this.#rooms.set(name, room);
    this.#adopt(room);
    return room;
  }

  #adopt({ name, timeline }) {
    for (const draft of this.#outbox.of(name)) {
      if (!this.#isForeign(draft, this.#findToken())) timeline.compose({ ...draft, kept: true });
    }
  }

  // Whether a message in the outbox is not for the reader to send. All guests of a browser count as one person, because
  // a guest can have another name or another secret than before. A message of a person with a token is only theirs.
  #isForeign(draft, token) {
    if (!token) return Boolean(draft.user?.startsWith(TOKEN_USER));
    return !isSame(draft, this.self) && !(draft.user && draft.user === this.#formerUser);
  }

  // The rooms that the reader has joined and not left, in any tab.
  get #kept() {
    return this.#storage.get("rooms").split(" ").filter(Boolean);
  }

  set #kept(names) {
    this.#storage.set("rooms", [...new Set(names)].join(" "));
  }

  // Leaves the rooms that were left in another tab, except for the one that is shown. If none is remembered, the reader
  // has signed out in the other tab, and nothing is left here.
  #leaveToo() {
    const kept = this.#kept;
    if (!kept.length) return;
    for (const room of this.rooms) {
      if (room.isKept && room !== this.#shown && !kept.includes(room.name)) this.leave(room.name);
    }
  }

  get #hasJoined() {
    return this.rooms.some(({ joined }) => joined);
  }

  #joinNext() {
    clearTimeout(this.#joinTimer);
    this.#wait = null;
    if (this.#asked || !this.#connection.isOpen) return;
    const waits = (room) => !room.joined && !room.refusal;
    const room = waits(this.#shown) ? this.#shown : this.rooms.find(waits);
    // The server closes connections that are in no room.
    if (!room && !this.#hasJoined) this.#connection.close();
    if (!room) return;
    this.#asked = { room, ref: newId() };
    this.#token = this.#findToken();
    this.#connection.send({
      type: "join",
      ref: this.#asked.ref,
      room: room.name,
      username: this.#name || undefined,
      token: this.#token || undefined,
      history: HISTORY_COUNT,
      since: room.timeline.position ?? undefined,
      session: this.#storage.get("session") || undefined,
    });
  }

  #publish(entry, held = this.#queueing) {
    const { id, room, text } = entry;
    if (this.#rooms.get(room)?.joined && !held) {
      entry.sentAt ??= Date.now();
      this.#connection.send({ type: "message", room, id, text });
    }
    entry.kept = this.#outbox.put(entry);
  }

  // Sends again what is not confirmed. If the server recovered everything since the last position, a message that is
  // not confirmed was not stored, and can be sent again however old it is.
  #resend({ timeline }, { recovered }) {
    for (const entry of timeline.outbox) {
      const age = Date.now() - (entry.sentAt ?? Infinity);
      const doubtful = entry.state === "pending" && !recovered && age > ID_KNOWN_MS;
      const foreign = this.#isForeign(entry, this.#token);
      // Another tab has removed it from the outbox: it was confirmed, or the reader discarded it there.
      if (foreign || (entry.kept && !this.#outbox.has(entry.id))) timeline.discard(entry.id);
      else if (doubtful) timeline.fail({ id: entry.id, ...MAYBE_SENT });
    }
    if (!this.#queueing) this.#next();
  }

  // Sends the first message that waits; the next one follows when this one has been answered.
  #next() {
    clearTimeout(this.#pause);
    this.#pause = null;
    const waiting = this.rooms.filter(({ joined }) => joined).flatMap(({ timeline }) => timeline.outbox);
    const entry = waiting.find(({ state }) => state === "pending");
    this.#queueing = Boolean(entry);
    if (entry) this.#publish(entry, false);
  }

  // A message was answered.
  #proceed() {
    if (this.#queueing && this.#pause === null) this.#next();
  }

  // The server wants the page to send more slowly.
  #pauseSending(afterMs = PAUSE_MS) {
    clearTimeout(this.#pause);
    this.#queueing = true;
    this.#pause = setTimeout(() => this.#next(), afterMs);
  }

  #routes() {
    const take = (event) => this.#take(event);
    const count = (event) => this.#count(event);
    const settle = (event) => this.#requests.settle(event);
    return {
      joined: (event) => this.#accept(event),
      error: (event) => this.#fail({ ...event, message: errorOf(event) }),
      ack: (event) => this.#acknowledge(event),
      history: settle,
      results: settle,
      upload: settle,
      removed: settle,
      typing: (event) => this.#isOwn(event) || (event.room === this.#shown.name && this.#on.typing(event)),
      message: take,
      edit: take,
      delete: take,
      react: take,
      join: count,
      leave: count,
      presence: count,
    };
  }

  #accept(reply) {
    if (reply.ref !== this.#asked?.ref) return undefined;
    const { room } = this.#asked;
    this.#asked = null;
    this.#connection.settle();
    const { self } = this;
    this.#user = reply.user;
    // In other rooms the server may have numbered the name, because somebody there has the same.
    if (room === this.#shown) this.#name = reply.username ?? "";
    // With a token of another person, the page starts over: it must not send what somebody else wrote, nor take over
    // their rooms and read positions.
    const isOther = self.username && !isSame(self, reply);
    const another = this.#token && isOther && this.#token !== this.#accepted;
    if (isOther) this.#formerUser = another ? "" : self.user;
    this.#accepted = this.#token;
    if (another) this.#beginAnew();
    // The recovered messages continue the history of the previous person, so the page joins once more from the start.
    if (another && (reply.recovered || room !== this.#shown)) return this.#connection.retry();
    // Only at the first join: a room that was left in another tab since then must not come back.
    if (!room.isKept) this.#kept = [...this.#kept, room.name];
    room.isKept = true;
    this.#storage.set("user", this.#user);
    if (reply.session) this.#storage.set("session", reply.session);
    this.files = reply.files;
    room.accept(reply);
    this.#adopt(room);
    this.#resend(room, reply);
    this.#on.joined(reply);
    this.#on.changed(room);
    this.#on.people(room);
    this.#joinNext();
    return this.#tell();
  }

  #beginAnew() {
    this.forget();
    this.#shown.forget();
    this.#rooms = new Map([[this.#shown.name, this.#shown]]);
    this.#on.replaced();
  }

  #isOwn({ user }) {
    return user === this.#user;
  }

  #take(publication) {
    const room = this.#rooms.get(publication.room);
    const outcome = room?.timeline.apply(publication);
    if (outcome === "hole" && room.joined) this.#connection.retry();
    if (this.#isOwn(publication)) this.#requests.confirm(publication);
    if (outcome !== "new") return;
    if (publication.type === "message" && room === this.#shown) this.#on.stoppedTyping(publication.user);
    if (publication.type === "message" && !this.#isOwn(publication)) this.#on.said(publication, room);
    this.#on.changed(room);
  }

  #count(event) {
    const room = this.#rooms.get(event.room);
    if (!room?.joined) return;
    room.roster.update(event);
    if (event.type !== "presence" && !this.#isOwn(event)) room.timeline.note(event);
    if (event.type === "leave" && room === this.#shown) this.#on.stoppedTyping(event.user);
    this.#on.changed(room);
    this.#on.people(room);
  }

  #acknowledge(event) {
    const room = this.#rooms.get(event.room);
    room?.timeline.acknowledge(event);
    if (room) this.#on.changed(room);
  }

  #fail(error) {
    if (this.#asked && error.ref === this.#asked.ref) return this.#refused(error);
    if (this.#requests.settle(error)) return undefined;
    const limited = error.code === "rate_limited";
    for (const { timeline } of this.rooms) {
      const entry = limited ? timeline.retry(error.id) : timeline.fail(error);
      // A message that can be retried stays in the outbox.
      if (!entry || error.temporary) continue;
      entry.kept = false;
      this.#outbox.remove(entry.id);
    }
    if (!limited) this.#proceed();
    else if (error.id) this.#pauseSending(error.retry_after_ms);
    return this.#on.changed(this.#shown);
  }

  #refused(error) {
    const { code, message, retry_after_ms: afterMs } = error;
    const { room } = this.#asked;
    this.#asked = null;
    if (code === "unauthorized") return this.#denied(message);
    // With a token the name is fixed.
    const another = NEEDS_ANOTHER_NAME_OR_ROOM.has(code) && !(this.#token && code === "username_taken");
    const inNoRoom = !this.#hasJoined;
    if (error.temporary && !another && !LASTING.has(code)) {
      // The server closes connections that are in no room, so the page waits without one.
      if (inNoRoom) return this.#connection.retry({ reason: message, reconnect_after_ms: afterMs });
      return this.#waitFor(room, message, afterMs ?? JOIN_PAUSE_MS);
    }
    if (another && inNoRoom && room === this.#shown) {
      this.#connection.close();
      return this.#on.refused(error);
    }
    room.refusal = error;
    if (code === TOO_MANY) for (const each of this.rooms) if (!each.joined) each.refusal = error;
    this.#joinTimer = setTimeout(() => this.#joinNext(), REFUSED_PAUSE_MS);
    this.#on.changed(room);
    return this.#tell();
  }

  #waitFor(room, sentence, waitMs) {
    this.#joinTimer = setTimeout(() => this.#joinNext(), waitMs);
    if (room !== this.#shown) return;
    this.#wait = { phase: "waiting", meaning: { text: sentence }, retryAt: performance.now() + waitMs };
    this.#tell();
  }

  // The server does not accept the token. Rooms, drafts and read positions stay.
  #denied(sentence) {
    this.#connection.close();
    this.#on.denied(sentence);
  }

  #phaseChanged(state) {
    this.#state = state;
    if (state.phase !== "open") {
      this.#wait = null;
      for (const room of this.rooms) room.joined = false;
      this.#asked = null;
      this.#queueing = false;
      clearTimeout(this.#joinTimer);
      clearTimeout(this.#pause);
      this.#pause = null;
      this.#requests.abandon();
    }
    if (NEEDS_ANOTHER_TOKEN.has(state.meaning?.name)) this.#denied(state.meaning.text);
    else this.#tell();
  }

  // Reports the state of the room that is shown.
  #tell() {
    const { joined, refusal } = this.#shown ?? {};
    const { phase } = this.#state;
    const isThere = phase === "open" || phase === "closed";
    if (isThere && refusal) this.#on.phase({ phase: "stopped", meaning: { text: sentenceOf(refusal) } });
    else if (joined) this.#on.phase({ phase: "joined" });
    else this.#on.phase(this.#wait ?? this.#state);
  }
}

function sentenceOf({ message, retry_after_ms: afterMs }) {
  return message + comeBack(afterMs);
}

// Not crypto.randomUUID, which exists only on https and localhost.
function newId() {
  return Array.from(crypto.getRandomValues(new Uint32Array(ID_WORDS)), (word) => word.toString(36)).join("");
}
