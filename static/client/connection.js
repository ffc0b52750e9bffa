// One socket at a time, and the patience to get the next one.
//
// It comes back by itself: exponential backoff with jitter, unless the server said when, or that we should not.
// A page cannot see protocol pings, so after some silence it asks with a `ping` command, and gives the socket up if
// nothing at all comes back.

import { meaningOf } from "./close-codes.js";

const SUBPROTOCOL = "fastchat.v1";
const BACKOFF_FIRST_MS = 500;
const BACKOFF_LIMIT_MS = 15_000;
// A connection that lasted this long starts the backoff over; sooner would make a loop of quick retries.
const STABLE_AFTER_MS = 5_000;
const SILENCE_LIMIT_MS = 25_000;
const REPLY_LIMIT_MS = 10_000;
// Whoever waits for an answer learns sooner that there is nobody; and sooner still where the system says so.
const ANSWER_SILENCE_MS = 5_000;
const DOUBTED_REPLY_LIMIT_MS = 3_000;
// Coming back to a tab is a good moment to ask whether the socket lives, but not at every glance at it.
const WAKE_SILENCE_MS = 5_000;
const NORMAL_CLOSURE = 1000;
const ABNORMAL_CLOSURE = 1006;

export function backoffMs(attempt, random = Math.random()) {
  const ceiling = Math.min(BACKOFF_FIRST_MS * 2 ** attempt, BACKOFF_LIMIT_MS);
  return ceiling * (0.5 + random / 2);
}

export class Connection {
  #url;
  #on;
  #socket = null;
  #phase = "closed";
  #attempt = 0;
  #settledAt = Infinity;
  // What the server said of the time to come, as in its `closing`.
  #closing;
  #retryTimer;
  #watchTimer;
  #heardAt = 0;
  // Since when a command has had no answer.
  #sentAt = -Infinity;
  #askedAt = null;
  #replyLimitMs;

  // `on` has a function each for: open, event, phase.
  constructor(url, on) {
    this.#url = url;
    this.#on = on;
  }

  get isOpen() {
    return this.#phase === "open";
  }

  open() {
    if (!this.isOpen && this.#phase !== "connecting") this.#connect();
  }

  // Ends it; only `open` begins again.
  close() {
    this.#drop();
    this.#attempt = 0;
    this.#become("closed");
  }

  send(command) {
    if (!this.isOpen) return;
    this.#socket.send(JSON.stringify(command));
    if (command.type === "typing" || this.#sentAt > this.#heardAt) return;
    this.#sentAt = performance.now();
    this.#watch();
  }

  settle() {
    this.#settledAt = performance.now();
  }

  // Gives this socket up and comes back for another; `closing` is what the server said, if anything.
  retry(closing) {
    this.#closing ??= closing;
    this.#lost(ABNORMAL_CLOSURE);
  }

  // The network or the reader is back: no need to sit out a backoff. What the server asked for still holds.
  wake() {
    if (this.#phase === "waiting" && this.#askedDelayMs === undefined) this.#connect();
    if (this.isOpen && this.#askedAt === null && performance.now() - this.#heardAt > WAKE_SILENCE_MS) this.#ping();
  }

  // The system says that there is no network. It may be wrong, as about a server on the same machine.
  doubt() {
    if (this.isOpen) this.#ping(DOUBTED_REPLY_LIMIT_MS);
  }

  get #askedDelayMs() {
    return this.#closing?.reconnect_after_ms;
  }

  #connect() {
    this.#drop();
    this.#closing = undefined;
    this.#socket = new WebSocket(this.#url, SUBPROTOCOL);
    this.#socket.onopen = () => this.#opened();
    this.#socket.onmessage = ({ data }) => this.#received(data);
    this.#socket.onclose = ({ code }) => this.#lost(code);
    this.#expectReply();
    this.#become("connecting");
  }

  #opened() {
    this.#expectReply();
    this.#become("open");
    this.#on.open();
  }

  #received(data) {
    this.#heardAt = performance.now();
    const event = JSON.parse(data);
    if (event.type === "closing") this.#closing = event;
    else this.#on.event(event);
  }

  #lost(code) {
    const meaning = meaningOf(code, this.#closing);
    this.#drop();
    if (!meaning.reconnect) {
      this.#become("stopped", { meaning });
      return;
    }
    const delayMs = this.#nextDelayMs();
    this.#retryTimer = setTimeout(() => this.#connect(), delayMs);
    this.#become("waiting", { meaning, retryAt: performance.now() + delayMs });
  }

  #nextDelayMs() {
    if (performance.now() - this.#settledAt > STABLE_AFTER_MS) this.#attempt = 0;
    this.#settledAt = Infinity;
    this.#attempt += 1;
    // A little on top of what the server said keeps everybody from coming back in the same instant.
    return this.#askedDelayMs === undefined ? backoffMs(this.#attempt - 1) : this.#askedDelayMs + backoffMs(0);
  }

  // A socket on a dead network may take a minute to report its close, so it is cut off rather than waited for.
  #drop() {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#watchTimer);
    if (!this.#socket) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(NORMAL_CLOSURE);
    this.#socket = null;
  }

  #become(phase, details = {}) {
    this.#phase = phase;
    this.#on.phase({ phase, ...details });
  }

  #ping(limitMs) {
    this.#socket.send(JSON.stringify({ type: "ping" }));
    this.#expectReply(limitMs);
  }

  #expectReply(limitMs = REPLY_LIMIT_MS) {
    this.#askedAt = this.#heardAt = performance.now();
    this.#replyLimitMs = limitMs;
    this.#watch();
  }

  #watch() {
    clearTimeout(this.#watchTimer);
    if (this.#askedAt !== null && this.#heardAt > this.#askedAt) this.#askedAt = null;
    const asked = this.#askedAt !== null;
    const answeredBy = this.#sentAt > this.#heardAt ? this.#sentAt + ANSWER_SILENCE_MS : Infinity;
    const dueAt = asked ? this.#askedAt + this.#replyLimitMs : Math.min(this.#heardAt + SILENCE_LIMIT_MS, answeredBy);
    const leftMs = dueAt - performance.now();
    if (leftMs > 0) this.#watchTimer = setTimeout(() => this.#watch(), leftMs);
    else if (asked) this.retry();
    else this.#ping();
  }
}
