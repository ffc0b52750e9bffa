// The conversation with the server: joins, sends, resends, and routes what comes to the models. No document here.
//
// After any doubt (a lost socket, a hole in the numbers) there is one answer: join again with the position, and send
// again what was not confirmed; the server recognises the ids.

import { Connection } from "./connection.js";
import { Requests } from "./requests.js";
import { Roster } from "./roster.js";
import { Timeline } from "./timeline.js";
import { comeBack } from "./times.js";

const HISTORY_COUNT = 50;
const TYPING_INTERVAL_MS = 3_000;
const ID_WORDS = 4;
// The server knows an id again for 10 minutes; after that, sending once more might say it twice.
const ID_KNOWN_MS = 9 * 60_000;
const OFFLINE = { type: "error", temporary: true, message: "You’re offline. Please try again when you are back." };
const DOUBTFUL = { temporary: true, message: "It may have been sent already." };

// Refusals that another name or room can heal.
const ANOTHER_HEALS = new Set(["username_taken", "bad_username", "bad_room"]);
// Closings that another token can heal.
const TOKEN_HEALS = new Set(["unauthorized", "token_expired"]);
const PAUSE_MS = 1_000;

export class Chat {
  #connection;
  #storage;
  #outbox;
  #findToken;
  #on;
  #requests = new Requests();
  #timelines = new Map();
  #roster = new Roster();
  #name = "";
  #room = "";
  #askedRoom = null;
  #ref = "";
  #token = "";
  #joined = false;
  // Whether messages go one after the other, and the time until the next one may.
  #queueing = false;
  #pause = null;
  #typedAt = -Infinity;
  // Whether the token allows to delete what others wrote.
  moderates = false;

  // `on` has a function each for: joined, changed, people, typing, quiet, refused, denied, phase. `token` returns the
  // token to show, if there is one.
  constructor(url, { storage, outbox, token, on }) {
    this.#storage = storage;
    this.#outbox = outbox;
    this.#findToken = token;
    this.#on = on;
    const routes = this.#routes();
    this.#connection = new Connection(url, {
      open: () => this.#join(),
      event: (event) => routes[event.type]?.(event),
      phase: (state) => this.#phaseChanged(state),
    });
  }

  get timeline() {
    return this.#timelines.get(this.#room);
  }

  get roster() {
    return this.#roster;
  }

  // Goes to a room under a name. Another room is a leave and a join; another name needs another connection.
  enter({ name, room }) {
    const renamed = name !== this.#name;
    const moved = room !== this.#room;
    if (moved || renamed) this.#leave();
    this.#name = name;
    this.#room = room;
    this.#keepTimeline();
    if (renamed) this.#connection.close();
    if (moved || renamed) this.#roster.clear();
    this.#on.changed();
    this.#on.people();
    if (!this.#connection.isOpen) this.#connection.open();
    else if (this.#askedRoom !== room) this.#join();
  }

  // Is in no room until `enter` is called again.
  quit() {
    this.#connection.close();
    this.#roster.clear();
    this.#on.people();
  }

  send(text) {
    const timestamp = new Date().toISOString();
    const draft = { id: newId(), room: this.#room, username: this.#name, text, timestamp, at: Date.now() };
    this.#typedAt = -Infinity;
    this.#publish(this.timeline.compose(draft));
    this.#on.changed();
  }

  retry(id) {
    const entry = this.timeline.retry(id);
    if (entry) this.#publish(entry);
    this.#on.changed();
  }

  discard(id) {
    this.timeline.discard(id);
    this.#outbox.remove(id);
    this.#on.changed();
  }

  typing() {
    const now = performance.now();
    if (!this.#joined || now - this.#typedAt < TYPING_INTERVAL_MS) return;
    this.#typedAt = now;
    this.#connection.send({ type: "typing", room: this.#room });
  }

  // Asks for something in this room. Resolves with the answer, which may be an `error`.
  ask(command) {
    if (!this.#joined) return Promise.resolve(OFFLINE);
    const whole = { ...command, room: this.#room, ref: newId() };
    this.#connection.send(whole);
    return this.#requests.add(whole);
  }

  reconnect() {
    this.#connection.open();
  }

  wake() {
    this.#connection.wake();
  }

  #join() {
    this.#askedRoom = this.#room;
    this.#ref = newId();
    this.#token = this.#findToken();
    this.#queueing = false;
    this.#connection.send({
      type: "join",
      ref: this.#ref,
      room: this.#room,
      username: this.#name || undefined,
      token: this.#token || undefined,
      history: HISTORY_COUNT,
      since: this.timeline.position ?? undefined,
      session: this.#storage.get("session") || undefined,
    });
  }

  #leave() {
    this.#joined = false;
    if (this.#askedRoom) this.#connection.send({ type: "leave", room: this.#askedRoom });
    this.#askedRoom = null;
  }

  #publish(entry, held = this.#queueing) {
    const { id, text } = entry;
    if (this.#joined && !held) {
      entry.sentAt ??= Date.now();
      this.#connection.send({ type: "message", room: this.#room, id, text });
    }
    entry.kept = this.#outbox.put(entry);
  }

  // Sends again what is not confirmed. After a whole recovery there is no doubt that it did not get through.
  #resend({ recovered }) {
    for (const entry of this.timeline.outbox) {
      const age = Date.now() - (entry.sentAt ?? Infinity);
      const doubtful = entry.state === "pending" && !recovered && age > ID_KNOWN_MS;
      // Another tab has seen it arrive, or the reader removed it there.
      if (entry.kept && !this.#outbox.has(entry.id)) this.timeline.discard(entry.id);
      else if (doubtful) this.timeline.fail({ id: entry.id, ...DOUBTFUL });
    }
    this.#next();
  }

  // Sends the first one that waits; the others when it has been answered. So they stay in order whatever is refused.
  #next() {
    clearTimeout(this.#pause);
    this.#pause = null;
    const entry = this.#joined && this.timeline.outbox.find(({ state }) => state === "pending");
    this.#queueing = Boolean(entry);
    if (entry) this.#publish(entry, false);
  }

  // A message was answered.
  #proceed() {
    if (this.#queueing && this.#pause === null) this.#next();
  }

  // The server asks for time.
  #hold(afterMs = PAUSE_MS) {
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
      error: (event) => this.#fail(event),
      ack: (event) => this.#acknowledge(event),
      history: settle,
      results: settle,
      typing: ({ room, username }) => room === this.#room && this.#on.typing(username),
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
    if (reply.ref !== this.#ref) return undefined;
    this.#joined = true;
    this.#connection.settle();
    // A token may be another person's: nobody sends what somebody else wrote, nor goes on with what he read.
    const another = this.#token && this.#name && this.#name !== reply.username;
    if (another) this.#timelines.clear();
    this.#name = reply.username;
    this.moderates = reply.rights?.includes("moderate") ?? false;
    if (reply.session) this.#storage.set("session", reply.session);
    this.#keepTimeline();
    if (another && reply.recovered) return this.#connection.retry();
    this.timeline.accept(reply);
    this.#roster.accept(reply);
    this.#resend(reply);
    this.#on.joined(reply);
    this.#on.changed();
    this.#on.people();
    return this.#on.phase({ phase: "joined" });
  }

  #take(publication) {
    const outcome = this.#timelines.get(publication.room)?.apply(publication);
    if (outcome === "hole" && publication.room === this.#askedRoom) this.#connection.retry();
    if (publication.username === this.#name) this.#requests.confirm(publication);
    if (publication.room !== this.#room) return;
    if (publication.type === "message") this.#on.quiet(publication.username);
    this.#on.changed();
  }

  #count(event) {
    if (event.room !== this.#room || !this.#joined) return;
    this.#roster.update(event);
    if (event.type !== "presence" && event.username !== this.#name) this.timeline.note(event);
    if (event.type === "leave") this.#on.quiet(event.username);
    this.#on.changed();
    this.#on.people();
  }

  #acknowledge(event) {
    this.#timelines.get(event.room)?.acknowledge(event);
    this.#on.changed();
  }

  #fail(error) {
    if (error.ref === this.#ref && !this.#joined) return this.#refused(error);
    if (this.#requests.settle(error)) return undefined;
    const limited = error.code === "rate_limited";
    for (const timeline of this.#timelines.values()) {
      const entry = limited ? timeline.retry(error.id) : timeline.fail(error);
      // What can be tried again stays in the outbox.
      if (!entry || error.temporary) continue;
      entry.kept = false;
      this.#outbox.remove(entry.id);
    }
    if (!limited) this.#proceed();
    else if (error.id) this.#hold(error.retry_after_ms);
    return this.#on.changed();
  }

  #refused(error) {
    const { code, message, retry_after_ms: afterMs } = error;
    // Who has a token has the name that is in it.
    const another = ANOTHER_HEALS.has(code) && !(this.#token && code === "username_taken");
    const temporary = error.temporary && !another && code !== "forbidden";
    if (code === "unauthorized") return this.#denied(message);
    if (temporary) return this.#connection.retry({ reason: message, reconnect_after_ms: afterMs });
    this.#connection.close();
    if (another) return this.#on.refused(error);
    return this.#on.phase({ phase: "stopped", meaning: { text: message + comeBack(afterMs) } });
  }

  // What was written stays, and where the reader was.
  #denied(sentence) {
    this.#connection.close();
    this.#on.denied(sentence);
  }

  #phaseChanged(state) {
    if (state.phase !== "open") {
      this.#joined = false;
      this.#askedRoom = null;
      this.#requests.abandon();
    }
    if (TOKEN_HEALS.has(state.meaning?.name)) this.#denied(state.meaning.text);
    else this.#on.phase(state);
  }

  // Of the rooms left, only those with something unsent are kept.
  #keepTimeline() {
    for (const [room, { outbox }] of this.#timelines) {
      if (outbox.length === 0 && room !== this.#room) this.#timelines.delete(room);
    }
    const confirmed = (id) => {
      this.#outbox.remove(id);
      this.#proceed();
    };
    if (!this.timeline) this.#timelines.set(this.#room, new Timeline(confirmed));
    this.#adopt();
  }

  // Takes over what an earlier page, or another tab, has not got through with.
  #adopt() {
    for (const draft of this.#outbox.of(this.#room)) {
      if (!this.#token || draft.username === this.#name) this.timeline.compose({ ...draft, kept: true });
    }
  }
}

// Not crypto.randomUUID, which exists only on https and localhost.
function newId() {
  return Array.from(crypto.getRandomValues(new Uint32Array(ID_WORDS)), (word) => word.toString(36)).join("");
}
