// A WebSocket that is replaced when it is lost.
//
// States (`#phase`), each reported by `on.phase`:
// - closed: there is no socket and none is wanted. `open` leads to connecting.
// - connecting: a socket exists and is not open yet.
// - open: commands can be sent. Nothing else leads here than the socket's `open` event.
// - waiting: the socket was lost; a timer leads to connecting. `retryAt` says when.
// - stopped: the server closed with a code after which the page must not reconnect. `open` leads to connecting.
//
// From any state, `close` leads to closed.
//
// Reconnects use exponential backoff with jitter, unless the server has named a delay in a `closing` event. A page
// cannot see WebSocket pings (RFC 6455, section 5.5.2). Therefore, after some silence, it sends a `ping` command and
// gives the socket up if nothing arrives in time.

import { meaningOf } from "./close-codes.js";

const SUBPROTOCOL = "fastchat.v1";
// The first pause is too short to be noticed after a brief interruption; the longest bounds how long a page stays
// disconnected after the server is back.
const BACKOFF_FIRST_MS = 500;
const BACKOFF_LIMIT_MS = 15_000;
// A connection that lasted this long resets the backoff. Otherwise a server that accepts and closes at once would be
// asked again and again without a pause.
const STABLE_AFTER_MS = 5_000;
// How long the server may be silent before the page sends a `ping`, and how long the answer may take.
const SILENCE_LIMIT_MS = 25_000;
const REPLY_LIMIT_MS = 10_000;
// The silence is shorter while a command waits for its answer. The wait for the `ping`'s answer is shorter if the
// browser says that it is offline.
const ANSWER_SILENCE_MS = 5_000;
const PROBE_REPLY_LIMIT_MS = 3_000;
// When the reader returns to the tab, the page checks the socket, but not after each short absence.
const WAKE_SILENCE_MS = 5_000;
// RFC 6455, section 7.4.1.
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
  // The `closing` event of the server, which says when to reconnect; undefined if there was none.
  #closing;
  #retryTimer;
  #watchTimer;
  #heardAt = 0;
  // When the first command was sent after the last event from the server.
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

  // Closes the socket and stops reconnecting, until `open` is called.
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

  // Gives this socket up and reconnects after a pause. `closing` says when and why, like the server's event.
  retry(closing) {
    this.#closing ??= closing;
    this.#lost(ABNORMAL_CLOSURE);
  }

  // The network or the reader is back, so the rest of a backoff is skipped. A delay that the server named is not.
  wake() {
    if (this.#phase === "waiting" && this.#askedDelayMs === undefined) this.#connect();
    if (this.isOpen && this.#askedAt === null && performance.now() - this.#heardAt > WAKE_SILENCE_MS) this.#ping();
  }

  // The browser says that it is offline. It can be wrong, for instance if the server is on the same machine.
  probe() {
    if (this.isOpen) this.#ping(PROBE_REPLY_LIMIT_MS);
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
    // The jitter on top of the server's delay keeps all clients from reconnecting in the same instant.
    return this.#askedDelayMs === undefined ? backoffMs(this.#attempt - 1) : this.#askedDelayMs + backoffMs(0);
  }

  // On a dead network a socket may report its close only after a minute, so the page does not wait for that.
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
