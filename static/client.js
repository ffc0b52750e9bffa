// The client of fastchat, for browsers, Deno and Node, which docs/client-js.md describes. The chat's own page uses it.
//
// Recovery has one form, whatever went wrong (a lost socket, a missing offset): join again with the last position, and
// send again every message that is not confirmed. The server recognises messages by their ids and stores each once.
//
// Invariants:
// - At most one join waits for its answer (`#asked`); rooms are joined one after the other.
// - A room is in `#members` from `join` until it is left; `joined` says whether the server has it, too. While the
//   connection is not open, no room is joined.
// - While messages are queued (`#queueing`), one message is on its way at a time, so that they stay in order even if
//   the server refuses one of them. Otherwise messages are sent as they are written.
// - A position says that every publication up to its offset has been passed on, so that a join from there loses
//   nothing. It has the timestamp of that publication: if the server has another one there, its history is another.

const SUBPROTOCOL = "fastchat.v1";
// The first pause is too short to be noticed after a brief interruption; the longest bounds how long a client stays
// disconnected after the server is back.
const BACKOFF_FIRST_MS = 500;
const BACKOFF_LIMIT_MS = 15_000;
// A connection that lasted this long resets the backoff. Otherwise a server that accepts and closes at once would be
// asked again and again without a pause.
const STABLE_AFTER_MS = 5_000;
// How long the server may be silent before the client sends a `ping`, and how long the answer may take.
const SILENCE_LIMIT_MS = 25_000;
const REPLY_LIMIT_MS = 10_000;
// The silence is shorter while a command waits for its answer. The wait for the `ping`'s answer is shorter if the
// browser says that it is offline.
const ANSWER_SILENCE_MS = 5_000;
const PROBE_REPLY_LIMIT_MS = 3_000;
// When the reader returns to the tab, the client checks the socket, but not after each short absence.
const WAKE_SILENCE_MS = 5_000;
// The server answers a command within 5 s even if its relay is gone; the rest is for a slow network.
const ANSWER_LIMIT_MS = 10_000;
// Others show a typing event for 5 s, so one every 3 s keeps it shown.
const TYPING_INTERVAL_MS = 3_000;
// Four words of 32 random bits: ids never collide by chance.
const ID_WORDS = 4;
// The server remembers an id for 10 minutes. A message that is sent again later could be stored twice.
const ID_KNOWN_MS = 9 * 60_000;
// How long to wait if the server does not say: after `rate_limited`, and after a join that is refused for now.
const PAUSE_MS = 1_000;
const JOIN_PAUSE_MS = 5_000;
// The server closes connections that cause many errors, so joins that are refused are spread out.
const REFUSED_PAUSE_MS = 500;
// Messages of a room that are kept in memory, and those that are asked for with a join.
const KEPT_COUNT = 300;
const HISTORY_COUNT = 50;
// Messages of a room that wait to be sent. More would fill the memory while the server is away.
const DRAFTS_LIMIT = 1_000;
// Attempts to upload a file. The pauses between them add up to half a minute. Time without a connection does not count.
const UPLOAD_ATTEMPTS = 6;
// Statuses after which an upload is tried again: a used or expired ticket (401), too slow (408), too many (429).
const TEMPORARY_STATUSES = [401, 408, 429];
// The server's limit for the name of a file, in bytes of UTF-8.
const FILE_NAME_BYTES = 255;
// The server's limit for a text, in Unicode code points without white space at the end.
export const TEXT_LIMIT = 4_000;
// A reply quotes this much of the message.
const QUOTED_LINES = 3;
const QUOTED_CHARS = 240;
const QUOTE = /^>(?: |$)/;
const FILE_LINK = /\/files\/[a-z2-7]{32}\/([^/\s?]+)(?:\?[a-z\d=&]*)?/g;
// Characters that could hide the true ending of a file's name.
const MISLEADING = /[\p{Cc}\p{Bidi_C}]/gu;
// Matches a text that is more than a quote: texts are trimmed, so only a quote alone ends with a line break.
const OWN_END = /[^\n]$/;

// RFC 6455, section 7.4.1.
const NORMAL_CLOSURE = 1000;
const ABNORMAL_CLOSURE = 1006;
// The client's copy of the close codes in src/fastchat/errors.py. A test compares them, so each entry is a literal on a
// line.
const CLOSE_NAMES = {
  1000: "normal",
  1001: "going_away",
  1002: "protocol_error",
  1003: "unsupported_data",
  1007: "invalid_text",
  1009: "too_big",
  1011: "internal",
  1012: "restart",
  1013: "overloaded",
  4008: "evicted",
  4009: "heartbeat_missed",
  4010: "lost_continuity",
  4011: "token_expired",
  4501: "unauthorized",
  4502: "join_timeout",
  4503: "removed",
  4504: "flooding",
};
// The client does not reconnect after these codes, nor after any from 4500 on: the same would happen again.
const FINAL = [1002, 1003, 1007, 1009];
const FIRST_FINAL = 4500;
// Close codes after which another token may be accepted.
const NEEDS_ANOTHER_TOKEN = new Set(["unauthorized", "token_expired"]);
// Refusals of a join that go away with another name or room, and those that may go away, but not soon enough to try
// again automatically.
const NEEDS_ANOTHER_NAME_OR_ROOM = new Set(["username_taken", "bad_username", "bad_room"]);
const TOO_MANY = "too_many_rooms";
const LASTING = new Set(["forbidden", TOO_MANY]);

// A failure. `code` is the server's (docs/protocol.md), the name of a close code, or the client's own; `temporary` says
// whether the same can succeed later, and `retryAfter` after how many milliseconds, if that is known. `closeCode` is
// that of the connection, if its end is the failure.
export class ChatError extends Error {
  name = "ChatError";

  constructor(code, message, { temporary = false, retryAfter, closeCode, cause } = {}) {
    super(message, { cause });
    Object.assign(this, { code, temporary, retryAfter, closeCode });
  }
}

// The failures that the client itself tells of, and whether the same can succeed later.
const OWN = {
  closed: ["The chat was closed.", false],
  left: ["The room was left.", false],
  room_deleted: ["The room was deleted.", false],
  discarded: ["The message was discarded.", false],
  lost: ["The connection was lost before the answer arrived.", true],
  offline: ["The room is not connected at the moment.", true],
  doubtful: ["The message may have been stored already.", true],
  full: ["Too many messages wait to be sent.", true],
  another_user: ["The token is another user's now.", true],
  not_found: ["The message to reply to does not exist.", false],
  no_text: ["A message needs a text or a file.", false],
  too_long: [`A text has at most ${TEXT_LIMIT} characters.`, false],
};

function own(code) {
  const [message, temporary] = OWN[code];
  return new ChatError(code, message, { temporary });
}

function errorOf({ code, message, temporary, retry_after_ms: retryAfter }) {
  return new ChatError(code, message, { temporary, retryAfter });
}

// `closing` is the event that the server sent before it closed the connection; undefined if it sent none. Its `error`
// is the client's own reason to give the connection up.
function closeErrorOf(code, { reason, reconnect_after_ms: retryAfter, error } = {}) {
  if (error) return error;
  const temporary = code < FIRST_FINAL && !FINAL.includes(code);
  const message = reason || `The connection was closed (${code}).`;
  return new ChatError(CLOSE_NAMES[code] ?? "lost", message, { temporary, retryAfter, closeCode: code });
}

export function backoffMs(attempt, random = Math.random()) {
  const ceiling = Math.min(BACKOFF_FIRST_MS * 2 ** attempt, BACKOFF_LIMIT_MS);
  return ceiling * (0.5 + random / 2);
}

export function codePointCount(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

// Not crypto.randomUUID, which browsers have only on https and localhost.
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint32Array(ID_WORDS)), (word) => word.toString(36)).join("");
}

// Returns the quote with which a reply to a message begins.
export function quoteOf({ username, offset, text }) {
  const lines = text.split("\n").filter((line) => line.trim() && !QUOTE.test(line));
  const named = lines.slice(0, QUOTED_LINES).join("\n").replace(FILE_LINK, (link, name) => decoded(name) ?? link);
  const letters = [...named];
  const more = letters.length > QUOTED_CHARS || lines.length > QUOTED_LINES ? "…" : "";
  const quoted = letters.slice(0, QUOTED_CHARS).join("").trimEnd() + more;
  return `${`@${username} #${offset}\n${quoted}`.replace(/^/gm, "> ")}\n\n`;
}

function decoded(name) {
  try {
    return decodeURIComponent(name).replace(MISLEADING, "");
  } catch {
    return null;
  }
}

// Returns the texts of the messages that share files: the text, then each link in a line. If a message gets too long,
// the rest goes into the next one.
export function textsOf(text, links) {
  const texts = [text];
  for (const link of links) {
    const last = texts.at(-1);
    const longer = last + (OWN_END.test(last) ? "\n" : "") + link;
    if (codePointCount(longer) > TEXT_LIMIT) texts.push(link);
    else texts.splice(-1, 1, longer);
  }
  return texts.filter((each) => OWN_END.test(each));
}

// Shortens the name of a file to what the server accepts. The middle is left out, because the ending says what kind of
// file it is.
export function fileNameOf(name) {
  const letters = [...wellFormed(name)];
  while (new Blob(letters).size > FILE_NAME_BYTES) letters.splice(letters.length / 2, 1);
  return letters.join("");
}

// The server rejects a text with a lone surrogate as invalid JSON, and could not say which message it rejects.
const wellFormed = (text) => text.toWellFormed?.() ?? text;

// Returns the fields of a message that an edit, a deletion, a reaction or the erasure of a user changes. Applying them
// again changes nothing.
export function changesOf(publication, message) {
  const { type } = publication;
  return Object.hasOwn(CHANGES, type) ? CHANGES[type](publication, message) : {};
}

const DELETED = { text: "", deleted: true, edited: undefined, reactions: undefined };
const ERASED = { user: "e_", username: "(erased)", ...DELETED };
const CHANGES = {
  edit: ({ text, timestamp }) => ({ text, edited: timestamp }),
  delete: () => DELETED,
  react: (publication, { reactions = {} }) => ({ reactions: reactionsAfter(publication, reactions) }),
  user_erased: ({ user }, message) => (message.user === user ? ERASED : { reactions: reactionsWithout(user, message) }),
};

function reactionsAfter({ emoji, user, username, remove }, reactions) {
  const { [emoji]: before, ...others } = reactions;
  const people = Object.hasOwn(reactions, emoji) ? before.filter((person) => person.user !== user) : [];
  if (!remove) people.push({ user, username });
  return people.length ? { ...reactions, [emoji]: people } : others;
}

function reactionsWithout(user, { reactions = {} }) {
  const left = Object.entries(reactions).map(([emoji, people]) => [emoji, people.filter((each) => each.user !== user)]);
  return Object.fromEntries(left.filter(([, people]) => people.length));
}

function deferred() {
  const result = {};
  result.promise = new Promise((resolve, reject) => Object.assign(result, { resolve, reject }));
  // Whoever waits for it is told. Nobody has to wait.
  result.promise.catch(() => {});
  return result;
}

// Calls the listeners of an event. Only this module can do that.
let emit;

// Something with listeners. A listener that throws stops neither the other listeners nor the client: the runtime
// reports what it throws like any uncaught error.
class Emitter {
  #listeners = new Map();

  static {
    emit = (emitter, type, ...values) => {
      for (const listener of emitter.#listeners.get(type) ?? []) {
        try {
          listener(...values);
        } catch (error) {
          queueMicrotask(() => {
            throw error;
          });
        }
      }
    };
  }

  // Adds a listener for one or more types of events, with spaces between them. Returns a function that removes it.
  on(types, listener) {
    for (const type of types.split(" ")) {
      const known = this.#listeners.get(type) ?? [];
      this.#listeners.set(type, [...known, listener]);
    }
    return () => this.off(types, listener);
  }

  off(types, listener) {
    for (const type of types.split(" ")) {
      const known = this.#listeners.get(type) ?? [];
      this.#listeners.set(type, known.filter((each) => each !== listener));
    }
  }
}

// A WebSocket that is replaced when it is lost.
//
// States (`#phase`), each reported by `on.status`:
// - closed: there is no socket and none is wanted. `open` leads to connecting.
// - connecting: the token is being asked for, or a socket exists and is not open yet.
// - open: commands can be sent. Nothing else leads here than the socket's `open` event.
// - waiting: the socket was lost; a timer leads to connecting. `retryAt` says when.
// - stopped: the server closed with a code after which the client must not reconnect. `open` leads to connecting.
//
// From any state, `close` leads to closed and `stop` to stopped.
//
// Reconnects use exponential backoff with jitter, unless the server has named a delay in a `closing` event. Scripts
// cannot see WebSocket pings (RFC 6455, section 5.5.2). Therefore, after some silence, the client sends a `ping`
// command and gives the socket up if nothing arrives in time.
class Connection {
  #url;
  #WebSocket;
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
  // Changes with each connection, so that a token that comes too late is noticed.
  #generation = 0;

  // `on` has a function each for: prepare (resolves with whether to connect), open, event, lost (returns whether that
  // is taken care of) and status.
  constructor(url, WebSocket, on) {
    this.#url = url;
    this.#WebSocket = WebSocket;
    this.#on = on;
  }

  get phase() {
    return this.#phase;
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

  // The same because of an error.
  stop(error) {
    this.#drop();
    this.#become("stopped", { error, reason: error.message });
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

  async #connect() {
    this.#drop();
    this.#closing = undefined;
    const generation = this.#generation;
    this.#expectReply();
    this.#become("connecting");
    const isReady = await this.#on.prepare();
    if (!isReady || generation !== this.#generation) return;
    try {
      this.#socket = new this.#WebSocket(this.#url, SUBPROTOCOL);
    } catch (error) {
      // A page from https can connect to wss only.
      this.stop(new ChatError("blocked", error.message, { cause: error }));
      return;
    }
    this.#socket.onopen = () => this.#opened();
    this.#socket.onmessage = ({ data }) => this.#received(data);
    this.#socket.onclose = ({ code }) => this.#lost(code);
    // `onclose` follows. The package `ws` throws if nobody listens for errors.
    this.#socket.onerror = () => {};
    this.#expectReply();
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
    const error = closeErrorOf(code, this.#closing);
    const reason = this.#closing?.reason ?? "";
    this.#drop();
    if (this.#on.lost(error)) return;
    if (!error.temporary) {
      this.#become("stopped", { error, reason });
      return;
    }
    const delayMs = this.#nextDelayMs();
    this.#retryTimer = setTimeout(() => this.#connect(), delayMs);
    this.#become("waiting", { error, reason, retryAt: performance.now() + delayMs });
  }

  #nextDelayMs() {
    if (performance.now() - this.#settledAt > STABLE_AFTER_MS) this.#attempt = 0;
    this.#settledAt = Infinity;
    this.#attempt += 1;
    // The jitter on top of the server's delay keeps all clients from reconnecting in the same instant.
    return this.#askedDelayMs === undefined ? backoffMs(this.#attempt - 1) : this.#askedDelayMs + backoffMs(0);
  }

  // On a dead network a socket may report its close only after a minute, so the client does not wait for that.
  #drop() {
    this.#generation += 1;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#watchTimer);
    if (!this.#socket) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(NORMAL_CLOSURE);
    this.#socket = null;
  }

  #become(phase, details = {}) {
    this.#phase = phase;
    this.#on.status({ phase, ...details });
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

// The commands that wait for their answer. Each is answered in the end: after a timeout or a lost connection, by an
// error.
class Requests {
  #waiting = new Map();

  // Resolves with the event that answers `command`: one with its `ref`, or, for a change, its publication.
  add(command) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#take(command.ref)?.reject(own("lost")), ANSWER_LIMIT_MS);
      this.#waiting.set(command.ref, { command, resolve, reject, timer });
    });
  }

  settle(event) {
    this.#take(event.ref)?.resolve(event);
  }

  // Returns whether a command waited for this.
  fail(error) {
    const request = this.#take(error.ref);
    request?.reject(errorOf(error));
    return Boolean(request);
  }

  // The answer to an edit, a deletion or a reaction is its publication.
  confirm(publication) {
    for (const [ref, { command }] of this.#waiting) {
      const same = command.type === publication.type && command.offset === publication.target;
      if (same && command.room === publication.room) return this.#take(ref).resolve(publication);
    }
    return undefined;
  }

  abandon() {
    for (const ref of this.#waiting.keys()) this.#take(ref).reject(own("lost"));
  }

  #take(ref) {
    const request = this.#waiting.get(ref);
    clearTimeout(request?.timer);
    this.#waiting.delete(ref);
    return request;
  }
}

// What the chat knows about a room that it is in or wants to be in. `Room` shows a part of it to the user.
class Membership {
  room;
  name;
  historyCount;
  keptCount;
  joined = false;
  // Why the server refused the join; null otherwise.
  error = null;
  // The promise of `join`, until it is settled.
  joining = null;
  position = null;
  user = "";
  username = "";
  rights = [];
  options = {};
  online = 0;
  spectators = 0;
  messages = [];
  // The messages that are not confirmed yet, by their ids, as `{ id, text, user, sentAt, resolve, reject, promise }`.
  drafts = new Map();
  typedAt = -Infinity;
  // The ids of the users by their names, which are unique in a room; null in a crowd.
  #ids = new Map();

  constructor(name) {
    this.name = name;
  }

  get users() {
    return this.#ids && [...this.#ids].map(([username, user]) => ({ user, username }));
  }

  // Takes the reply to a join. Returns what is new: the publications that were missed, or the newest messages if that
  // is not possible.
  accept(reply) {
    const { epoch, offset, timestamp, user, username, rights, options = {}, messages } = reply;
    const { position: before } = this;
    const recovered = before !== null && reply.recovered && epoch === before.epoch;
    const replaced = before !== null && isReplaced(before, reply);
    const news = recovered ? messages.filter((each) => each.offset > before.offset) : messages;
    this.joined = true;
    this.error = null;
    this.position = { epoch, offset, timestamp: timestamp ?? undefined };
    Object.assign(this, { user, username: username ?? "", rights, options });
    this.#count(reply);
    if (!recovered) this.messages = [];
    for (const each of news) this.#keep(each);
    for (const each of news) this.#confirm(each);
    return { ...reply, recovered, replaced, messages: news, since: before };
  }

  // Takes a live publication. Returns "new", "seen" for one that was taken before, or "hole" if the publication before
  // it is missing; then the room has to be recovered.
  take(publication) {
    const { offset, timestamp } = publication;
    if (!this.joined || offset <= this.position.offset) return "seen";
    if (offset > this.position.offset + 1) return "hole";
    this.position = { ...this.position, offset, timestamp };
    this.#keep(publication);
    this.#confirm(publication);
    return "new";
  }

  // Takes a `join`, a `leave` or a `presence` event.
  count(event) {
    this.#count(event);
    if (event.type === "join") this.#ids?.set(event.username, event.user);
    if (event.type === "leave") this.#ids?.delete(event.username);
  }

  // A user was erased. That is no publication, and is not recovered.
  erase(event) {
    this.messages = this.messages.map((each) => ({ ...each, ...changesOf(event, each) }));
  }

  // The server says that a message was stored earlier.
  acknowledge({ id, offset }) {
    const draft = this.#release(id);
    draft?.resolve({ id, offset, room: this.name });
  }

  // Rejects a draft, or all of them.
  reject(error, id) {
    const ids = id === undefined ? [...this.drafts.keys()] : [id];
    for (const each of ids) this.#release(each)?.reject(error);
  }

  // Starts over, as if the user had never been here.
  forget() {
    this.position = null;
    this.messages = [];
    this.clearUsers();
  }

  clearUsers() {
    this.#ids = new Map();
    this.username = "";
    this.online = this.spectators = 0;
  }

  // `users` is the whole list, null in a crowd, and undefined if the event has none.
  #count({ users, online, spectators = this.spectators }) {
    if (users !== undefined) this.#ids = users && new Map(users.map(({ user, username }) => [username, user]));
    this.online = online;
    this.spectators = spectators;
  }

  #keep(publication) {
    if (publication.type === "message") {
      this.messages.push(publication);
      if (this.messages.length > this.keptCount) this.messages.shift();
      return;
    }
    const index = this.messages.findLastIndex(({ offset }) => offset === publication.target);
    const message = this.messages[index];
    if (message && !message.deleted) this.messages[index] = { ...message, ...changesOf(publication, message) };
  }

  // Others can use the same id, so the user has to match, too.
  #confirm(publication) {
    const draft = this.drafts.get(publication.id);
    const isOurs = draft && (publication.user === this.user || publication.user === draft.user);
    if (isOurs) this.#release(publication.id).resolve(publication);
  }

  #release(id) {
    const draft = this.drafts.get(id);
    this.drafts.delete(id);
    return draft;
  }
}

// Whether the reply to a join is about another history than the one that a position is in.
function isReplaced(position, { epoch, offset, messages }) {
  const last = messages.find((message) => message.offset === position.offset);
  const isOther = last && position.timestamp && last.timestamp !== position.timestamp;
  return epoch !== position.epoch || offset < position.offset || Boolean(isOther);
}

// A room that the chat is in. It stays the same object through every reconnection, until it is left.
export class Room extends Emitter {
  #member;
  #chat;

  // What a room shows of its membership.
  static {
    const names = ["name", "joined", "error", "user", "username", "users", "online", "spectators", "rights"];
    for (const name of [...names, "options", "position"]) {
      const get = function () {
        return this.#member[name];
      };
      Object.defineProperty(this.prototype, name, { get, enumerable: true });
    }
  }

  // Only `Chat` creates rooms. `chat` has a function each for: request, send, typing, leave.
  constructor(member, chat) {
    super();
    this.#member = member;
    this.#chat = chat;
  }

  get messages() {
    return [...this.#member.messages];
  }

  // Sends a message, and its files before it. Resolves when it is stored, with the message, or, if it had been stored
  // before, with its id and offset.
  async send(text = "", { files = [], replyTo, ...options } = {}) {
    const whole = (replyTo === undefined ? "" : quoteOf(await this.#messageAt(replyTo))) + text;
    if (!files.length) return this.#chat.send(this.#member, whole, options);
    const links = [];
    for (const file of files) links.push((await this.#uploaded(file)).link);
    const [first, ...others] = textsOf(whole, links);
    const sent = [this.#chat.send(this.#member, first, options)];
    for (const each of others) sent.push(this.#chat.send(this.#member, each));
    return (await Promise.all(sent)).at(-1);
  }

  // Gives a message up that is not stored yet.
  discard(id) {
    this.#member.reject(own("discarded"), id);
  }

  edit(offset, text) {
    return this.request({ type: "edit", offset, text: wellFormed(text) });
  }

  delete(offset) {
    return this.request({ type: "delete", offset });
  }

  react(offset, emoji, { remove = false } = {}) {
    return this.request({ type: "react", offset, emoji, remove });
  }

  typing() {
    this.#chat.typing(this.#member);
  }

  async history({ before, after, limit } = {}) {
    const { messages, more } = await this.request({ type: "history", before, after, limit });
    return { messages, more };
  }

  async search(query, { limit } = {}) {
    const { messages } = await this.request({ type: "search", query, limit });
    return messages;
  }

  remove(user, { seconds } = {}) {
    return this.request({ type: "remove", user, seconds });
  }

  // Uploads a file. Resolves with its `link` and what else the server says about it.
  async upload(file, { name = file.name, signal } = {}) {
    const { url, ticket } = await this.request({ type: "upload", name: fileNameOf(name), size: file.size });
    return this.#chat.post(url, ticket, file, signal);
  }

  // Sends any command about this room. Resolves with the event that answers it.
  request(command) {
    return this.#chat.request(this.#member, command);
  }

  leave() {
    this.#chat.leave(this.#member);
  }

  async #messageAt(message) {
    if (typeof message === "object") return message;
    const isIt = ({ offset }) => offset === message;
    const kept = this.#member.messages.find(isIt);
    const found = kept ?? (await this.history({ before: message + 1, limit: 1 })).messages.find(isIt);
    if (!found) throw own("not_found");
    return found;
  }

  async #uploaded(file) {
    for (let attempt = 1; ; attempt += 1) {
      await this.#chat.ready(this.#member);
      try {
        return await this.upload(file);
      } catch (error) {
        // An error of the runtime means that there was no answer.
        const isTemporary = error instanceof ChatError ? error.temporary : error instanceof TypeError;
        if (!isTemporary || attempt === UPLOAD_ATTEMPTS) throw error;
        await new Promise((done) => setTimeout(done, error.retryAfter ?? backoffMs(attempt)));
      }
    }
  }
}

// A connection to a server, over which rooms are joined. It connects when the first room is joined.
export class Chat extends Emitter {
  #options;
  #base;
  #connection;
  #requests = new Requests();
  #members = new Map();
  // The room that is joined before the others.
  #first = null;
  // The join that waits for its answer, as `{ member, ref }`; null if none does.
  #asked = null;
  #joinTimer;
  // Whether messages are sent one at a time, and the timer until the next one.
  #queueing = false;
  #pause = null;
  #username;
  // The token of this connection, and that of the last successful join.
  #token = "";
  #accepted = "";
  // The refusal of the last token, as `{ error, token }`; null if there was none.
  #denial = null;
  #deniedAt = -Infinity;
  #status = { phase: "closed" };
  // Events that wait until those who wait for a join have been told; null if none have to.
  #held = null;
  #page = null;

  // The user's id, which the server gives with each join; "" if it is unknown.
  user;
  // The secret that makes a guest the same user again; "" if it is unknown.
  session = "";
  // The server's limits for files, as `{ max_bytes }`; undefined if it takes no files.
  files;

  constructor(url, options = {}) {
    super();
    const WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!WebSocket) throw new TypeError("This runtime has no WebSocket: pass one, as new Chat(url, { WebSocket }).");
    this.#options = options;
    this.#username = options.username ?? "";
    this.user = options.user ?? "";
    this.#base = baseOf(url);
    this.#connection = new Connection(this.#base.replace(/^http/, "ws") + "ws", WebSocket, {
      prepare: () => this.#prepare(),
      open: () => this.#joinNext(),
      event: (event) => this.#receive(event),
      lost: (error) => error.closeCode && NEEDS_ANOTHER_TOKEN.has(error.code) && this.#denied(error),
      status: (status) => this.#statusChanged(status),
    });
  }

  get rooms() {
    return [...this.#members.values()].map(({ room }) => room);
  }

  get username() {
    return this.#username;
  }

  get status() {
    return this.#status;
  }

  // Joins a room, now and after each reconnection. Resolves with the room when the server has accepted the join.
  // Rejects if it refuses it for good. A room that was refused is asked for again by another `join`.
  join(name, { history = HISTORY_COUNT, keep = KEPT_COUNT, first = false } = {}) {
    const member = this.#members.get(name) ?? this.#add(name);
    Object.assign(member, { historyCount: history, keptCount: keep, error: null });
    if (first) this.#first = member;
    const { promise } = member.joined ? { promise: Promise.resolve(member.room) } : (member.joining ??= deferred());
    if (this.#connection.isOpen) this.#joinNext();
    else if (this.#isIdle) this.reconnect();
    return promise;
  }

  // The room with a name, joined or not; undefined if there is none.
  room(name) {
    return this.#members.get(name)?.room;
  }

  // Connects now, instead of after a pause or not at all.
  reconnect() {
    this.#denial = null;
    this.#listen();
    this.#connection.open();
  }

  // Closes the connection. Rooms and messages wait until `reconnect`.
  disconnect() {
    this.#connection.close();
  }

  // Takes another name for all rooms, which needs another connection. Only for guests.
  rename(username) {
    const members = [...this.#members.values()];
    // Otherwise the others would see both names for a while.
    for (const { joined, name } of members) if (joined) this.#connection.send({ type: "leave", room: name });
    this.#connection.close();
    this.#username = username;
    for (const member of members) {
      member.error = null;
      member.clearUsers();
    }
    if (members.length) this.reconnect();
  }

  // Leaves all rooms and closes the connection. What waits for an answer is rejected.
  close() {
    this.#page?.abort();
    this.#page = null;
    this.#connection.close();
    for (const member of this.#members.values()) this.#end(member, own("closed"));
    this.#members.clear();
    this.#first = null;
  }

  #add(name) {
    const member = new Membership(name);
    member.room = new Room(member, {
      request: (...values) => this.#request(...values),
      send: (...values) => this.#send(...values),
      typing: (...values) => this.#sendTyping(...values),
      leave: (...values) => this.#leave(...values),
      post: (...values) => this.#post(...values),
      ready: (...values) => this.#ready(...values),
    });
    this.#members.set(name, member);
    return member;
  }

  // Browsers say when the network or the reader is back.
  #listen() {
    if (this.#page) return;
    this.#page = new AbortController();
    const { signal } = this.#page;
    globalThis.addEventListener?.("online", () => this.#connection.wake(), { signal });
    globalThis.addEventListener?.("offline", () => this.#connection.probe(), { signal });
    const { document } = globalThis;
    const returned = () => document.hidden || this.#connection.wake();
    document?.addEventListener("visibilitychange", returned, { signal });
  }

  // Whether the connection is closed, and stays so.
  get #isIdle() {
    return this.#connection.phase === "closed" || this.#connection.phase === "stopped";
  }

  get #hasJoined() {
    return [...this.#members.values()].some(({ joined }) => joined);
  }

  // Asks for the token of a new connection. Resolves with whether to connect.
  async #prepare() {
    const refused = this.#denial !== null;
    let token = this.#options.token ?? "";
    try {
      if (typeof token === "function") token = (await token({ refused })) ?? "";
    } catch (cause) {
      const error = new ChatError("no_token", `There is no token: ${cause.message}`, { temporary: true, cause });
      this.#connection.retry({ error });
      return false;
    }
    if (this.#denial && (!token || token === this.#denial.token)) {
      this.#connection.stop(this.#denial.error);
      return false;
    }
    // With another token, rooms that refused the user may accept them.
    if (token !== this.#token) for (const member of this.#members.values()) member.error = null;
    this.#token = token;
    return true;
  }

  #joinNext() {
    clearTimeout(this.#joinTimer);
    if (this.#asked || !this.#connection.isOpen) return;
    const members = [...this.#members.values()];
    const waits = (member) => !member.joined && !member.error;
    const member = this.#first && waits(this.#first) ? this.#first : members.find(waits);
    // The server closes connections that are in no room.
    if (!member && !this.#hasJoined) this.#connection.close();
    if (!member) return;
    this.#asked = { member, ref: newId() };
    this.#connection.send({
      type: "join",
      ref: this.#asked.ref,
      room: member.name,
      username: this.#username || undefined,
      token: this.#token || undefined,
      history: member.historyCount,
      since: member.position ?? undefined,
      session: this.#options.session || this.session || undefined,
    });
  }

  #request(member, command) {
    if (!member.joined) return Promise.reject(own("offline"));
    const whole = { ...command, room: member.name, ref: newId() };
    this.#connection.send(whole);
    return this.#requests.add(whole);
  }

  // `sentAt` is when an earlier program has sent the message first, if it has.
  async #send(member, text, { id = newId(), sentAt } = {}) {
    const known = member.drafts.get(id);
    if (known) return known.promise;
    if (!text) throw own("no_text");
    if (codePointCount(text.trimEnd()) > TEXT_LIMIT) throw own("too_long");
    if (member.drafts.size >= DRAFTS_LIMIT) throw own("full");
    this.#checkUsable(member);
    const draft = { id, text: wellFormed(text), user: this.user, sentAt, ...deferred() };
    member.drafts.set(id, draft);
    member.typedAt = -Infinity;
    if (!this.#queueing) this.#publish(member, draft);
    return draft.promise;
  }

  #publish(member, draft) {
    if (!member.joined) return;
    const { id, text } = draft;
    if (draft.sentAt === undefined) this.#mark(member, draft, Date.now());
    this.#connection.send({ type: "message", room: member.name, id, text });
  }

  // Notes when a message was sent first; undefined if it was not.
  #mark({ room }, draft, sentAt) {
    draft.sentAt = sentAt;
    emit(room, "sending", { id: draft.id, sentAt });
  }

  // Sends again what is not confirmed. If the server recovered everything since the last position, a message that is
  // not confirmed was not stored, and can be sent again however old it is.
  #rejectDoubtful(member, { recovered }) {
    for (const { id, sentAt = Infinity } of member.drafts.values()) {
      if (!recovered && Date.now() - sentAt > ID_KNOWN_MS) member.reject(own("doubtful"), id);
    }
  }

  // Sends the first message that waits; the next one follows when this one has been answered.
  #next() {
    clearTimeout(this.#pause);
    this.#pause = null;
    const waiting = [...this.#members.values()].find(({ joined, drafts }) => joined && drafts.size);
    this.#queueing = Boolean(waiting);
    if (waiting) this.#publish(waiting, waiting.drafts.values().next().value);
  }

  // A message was answered.
  #proceed() {
    if (this.#queueing && this.#pause === null) this.#next();
  }

  // The server wants the client to send more slowly.
  #pauseSending(afterMs = PAUSE_MS) {
    clearTimeout(this.#pause);
    this.#queueing = true;
    this.#pause = setTimeout(() => this.#next(), afterMs);
  }

  #sendTyping(member) {
    const now = performance.now();
    if (!member.joined || now - member.typedAt < TYPING_INTERVAL_MS) return;
    member.typedAt = now;
    this.#connection.send({ type: "typing", room: member.name });
  }

  // Resolves when a room is joined.
  async #ready(member) {
    this.#checkUsable(member);
    if (!member.joined) await (member.joining ??= deferred()).promise;
  }

  // Throws if nothing will be sent to a room unless the user does something about it.
  #checkUsable(member) {
    if (this.#members.get(member.name) !== member) throw own("left");
    if (this.#status.phase === "stopped") throw this.#status.error;
  }

  // Resolves with the server's answer about a file.
  async #post(url, ticket, body, signal) {
    const options = { method: "POST", headers: { "x-upload-ticket": ticket }, body, signal };
    const response = await fetch(new URL(url, this.#base), options);
    const answer = await response.json().catch(() => ({}));
    if (response.status === 201) return answer;
    const temporary = TEMPORARY_STATUSES.includes(response.status) || response.status >= 500;
    const retryAfter = 1_000 * response.headers.get("retry-after") || undefined;
    const { code = "upload_failed", message = `The server refused the file (${response.status}).` } = answer;
    throw new ChatError(code, message, { temporary, retryAfter });
  }

  #leave(member) {
    const { name, joined } = member;
    if (this.#members.get(name) !== member) return;
    const asked = this.#asked?.member === member;
    if (joined || asked) this.#connection.send({ type: "leave", room: name });
    if (asked) this.#asked = null;
    this.#members.delete(name);
    if (this.#first === member) this.#first = null;
    this.#end(member, own("left"));
    // The server may accept another room now.
    for (const each of this.#members.values()) if (each.error?.code === TOO_MANY) each.error = null;
    // The message that is on its way may have been for this room.
    this.#proceed();
    this.#joinNext();
  }

  #end(member, error) {
    member.joined = false;
    member.reject(error);
    member.joining?.reject(error);
    member.joining = null;
  }

  #receive(event) {
    if (this.#held) this.#held.push(event);
    else this.#route(event);
  }

  // Node and Deno can deliver several frames at once. Those who wait for a join can add their listeners before the next
  // event.
  #hold() {
    if (!globalThis.setImmediate || this.#held) return;
    this.#held = [];
    setImmediate(() => this.#releaseHeld());
  }

  #releaseHeld() {
    const held = this.#held ?? [];
    this.#held = null;
    for (const event of held) this.#receive(event);
  }

  #route(event) {
    const { type, room } = event;
    const member = this.#members.get(room);
    if (type === "joined") this.#accept(event);
    else if (type === "error") this.#fail(event);
    else if (event.ref !== undefined) this.#requests.settle(event);
    else if (type === "ack") this.#acknowledge(member, event);
    else if (type === "join" || type === "leave" || type === "presence") this.#count(member, event);
    else if (Number.isInteger(event.offset)) this.#take(member, event);
    else if (member?.joined) this.#tellOf(member, event);
  }

  // Tells about what is no publication, such as new options of a room.
  #tellOf(member, event) {
    const { type, user } = event;
    if (type === "typing" && user === this.user) return;
    if (type === "room") member.options = event.options;
    if (type === "user_erased") member.erase(event);
    emit(member.room, type, event);
    if (type === "room_deleted") this.#lose(member);
  }

  // A room that was deleted is not joined again, unless the user asks for a new one of that name.
  #lose(member) {
    const error = own("room_deleted");
    member.forget();
    member.joined = false;
    member.reject(error);
    this.#refuse(member, error);
    this.#joinNext();
  }

  #refuse(member, error) {
    member.error = error;
    member.joining?.reject(error);
    member.joining = null;
    emit(member.room, "refused", error);
  }

  #accept(reply) {
    if (reply.ref !== this.#asked?.ref) return;
    const { member } = this.#asked;
    this.#denial = null;
    this.#connection.settle();
    const another = this.#isAnother(reply);
    const former = this.user;
    this.user = reply.user;
    this.#accepted = this.#token;
    if (reply.session) this.session = reply.session;
    this.files = reply.files;
    if (another) {
      this.#beginAnew(former);
      // What was recovered continues the stream of the former user, so the client joins once more from the start.
      if (reply.recovered || this.#members.get(member.name) !== member) {
        this.#connection.retry();
        return;
      }
    }
    this.#asked = null;
    this.#rekey(member, reply.room);
    const reentry = member.accept(reply);
    const wasQueueing = this.#queueing;
    this.#queueing = true;
    if (member.joining) this.#hold();
    member.joining?.resolve(member.room);
    member.joining = null;
    this.#tell(member, reentry);
    this.#rejectDoubtful(member, reentry);
    this.#queueing = wasQueueing;
    if (!wasQueueing) this.#next();
    this.#joinNext();
  }

  // Tells the listeners about a join, and about everything that was missed before it.
  #tell({ room, position }, reentry) {
    const { since, recovered, replaced, messages } = reentry;
    emit(room, "joined", reentry);
    if (recovered) for (const each of messages) emit(room, each.type, each, true);
    else if (since) emit(room, "gap", { room: room.name, since, position, replaced });
    emit(room, "users", room.users);
  }

  // Whether a token is of another user than the last one. The same token can get another id: a server that keeps its
  // history in memory has another key after a restart.
  #isAnother({ user }) {
    return Boolean(this.#token && this.user && user !== this.user && this.#token !== this.#accepted);
  }

  // Nothing that the former user wrote is sent in the name of the new one.
  #beginAnew(former) {
    for (const member of this.#members.values()) {
      member.reject(own("another_user"));
      member.forget();
    }
    emit(this, "user", { user: this.user, former });
  }

  // The server knows rooms by their folded names.
  #rekey(member, name) {
    if (member.name === name) return;
    this.#members.delete(member.name);
    member.name = name;
    this.#members.set(name, member);
  }

  #take(member, publication) {
    if (!member) return;
    const waiting = member.drafts.size;
    const outcome = member.take(publication);
    if (outcome === "hole") this.#connection.retry();
    if (publication.user === this.user) this.#requests.confirm(publication);
    if (outcome !== "new") return;
    emit(member.room, publication.type, publication, false);
    if (member.drafts.size < waiting) this.#proceed();
  }

  #count(member, event) {
    if (!member?.joined) return;
    member.count(event);
    if (event.type !== "presence" && event.user !== this.user) emit(member.room, event.type, event);
    emit(member.room, "users", member.users);
  }

  #acknowledge(member, event) {
    member?.acknowledge(event);
    this.#proceed();
  }

  #fail(error) {
    if (this.#asked && error.ref === this.#asked.ref) {
      this.#refused(errorOf(error));
      return;
    }
    if (this.#requests.fail(error)) return;
    const limited = error.code === "rate_limited";
    for (const member of this.#members.values()) {
      const draft = member.drafts.get(error.id);
      if (draft && limited) this.#mark(member, draft, undefined);
      else if (draft) member.reject(errorOf(error), error.id);
    }
    if (!limited) this.#proceed();
    else if (error.id) this.#pauseSending(error.retry_after_ms);
  }

  #refused(error) {
    const { code, retryAfter } = error;
    const { member } = this.#asked;
    this.#asked = null;
    if (code === "unauthorized") {
      this.#denied(error);
      return;
    }
    // With a token the name is fixed.
    const another = NEEDS_ANOTHER_NAME_OR_ROOM.has(code) && !(this.#token && code === "username_taken");
    if (error.temporary && !another && !LASTING.has(code)) {
      this.#joinLater(member, error, retryAfter);
      return;
    }
    member.error = error;
    const refused = code === TOO_MANY ? [...this.#members.values()].filter(({ joined }) => !joined) : [member];
    this.#joinTimer = setTimeout(() => this.#joinNext(), REFUSED_PAUSE_MS);
    for (const each of refused) this.#refuse(each, error);
  }

  // The server closes connections that are in no room, so the client waits without one.
  #joinLater({ room }, error, retryAfter) {
    if (!this.#hasJoined) {
      this.#connection.retry({ error, reconnect_after_ms: retryAfter });
      return;
    }
    const waitMs = retryAfter ?? JOIN_PAUSE_MS;
    this.#joinTimer = setTimeout(() => this.#joinNext(), waitMs);
    emit(room, "waiting", { error, retryAt: performance.now() + waitMs });
  }

  // The server does not accept the token, or not any more. Another one is asked for once, and after a pause if tokens
  // are denied one after the other. Returns true.
  #denied(error) {
    const again = typeof this.#options.token === "function" && this.#denial === null;
    const soon = performance.now() - this.#deniedAt < STABLE_AFTER_MS;
    const { code, message } = error;
    this.#denial = { error, token: this.#token };
    this.#deniedAt = performance.now();
    this.#connection.close();
    if (again && soon) this.#connection.retry({ error: new ChatError(code, message, { temporary: true }) });
    else if (again) this.#connection.open();
    else this.#connection.stop(error);
    return true;
  }

  #statusChanged(status) {
    this.#status = status;
    if (status.phase !== "open") this.#closed();
    if (status.phase === "stopped") this.#stopped(status.error);
    emit(this, "status", status);
  }

  #closed() {
    for (const member of this.#members.values()) member.joined = false;
    // What was held back will be recovered.
    this.#asked = this.#held = null;
    this.#queueing = false;
    clearTimeout(this.#joinTimer);
    clearTimeout(this.#pause);
    this.#pause = null;
    this.#requests.abandon();
  }

  // Those who wait are told. The rooms stay, so `reconnect` joins them again.
  #stopped(error) {
    for (const member of this.#members.values()) {
      member.reject(error);
      member.joining?.reject(error);
      member.joining = null;
    }
  }
}

// Returns the address of a server, with a slash at its end, for what somebody wrote: that of the chat, or of its /ws.
function baseOf(url) {
  const { href } = new URL(url, globalThis.location?.href);
  return href.replace(/[?#].*$/, "").replace(/^ws/, "http").replace(/\/(?:ws\/?)?$|$/, "/");
}
