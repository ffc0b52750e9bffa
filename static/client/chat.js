// The reader's rooms: which the browser remembers, which one is shown, and what has been written in each. The client
// (client.js) talks to the server; this passes each event on to its room. It knows nothing of the document.
//
// A room is in `#rooms` from the moment it is shown or remembered until it is left. The client is in the same rooms as
// soon as the reader has a name or a token.

import { Chat as Client, newId } from "../client.js";
import { isSame } from "./outbox.js";
import { Room } from "../model/room.js";
import { errorOf, has, t } from "../text/translation.js";
import { comeBack } from "../text/times.js";

// Messages of a room's history to get with a join; more than a screen shows.
const HISTORY_COUNT = 50;

// The ids of people with a token begin like this, those of guests do not (docs/protocol.md).
const TOKEN_USER = "u_";

// Refusals after which the page asks for another name or room.
const ASKED = new Set(["username_taken", "bad_username", "bad_room"]);
// Reasons to stop after which another token may be accepted.
const NEEDS_ANOTHER_TOKEN = new Set(["unauthorized", "token_expired"]);
// Failures of the client after which a message waits in the outbox.
const WAITS = new Set(["another_user", "closed", "discarded", "left"]);
// The page's sentences for the client's other failures. The server's errors have sentences of their own.
const SENTENCES = {
  lost: "lostOnTheWay",
  offline: "offlineNow",
  doubtful: "doubtful",
  room_deleted: "roomDeleted",
};

export class Chat {
  #client;
  #storage;
  #outbox;
  #findToken;
  #on;
  #rooms = new Map();
  #shown = null;
  // The reader's name. The client knows their id.
  #name = "";
  // The token of the connection, and the id that the reader had with it before the server gave them another: a server
  // that keeps its history in memory can do so after a restart.
  #token = "";
  #formerUser = "";
  // The ids of the messages that the client is sending.
  #submitted = new Set();
  // The state to show instead of the connection's while the shown room waits for its join.
  #wait = null;

  // `on` has a function each for: joined, left, changed, people (of a room), said (a message by another person),
  // typing, stoppedTyping (a person, by their id), refused (the name or room), denied (the token), replaced (the token
  // is another person's), phase. `token` resolves with the token or "", and is told whether the last one was refused.
  // `current` returns the token that it would resolve with now.
  constructor(url, { storage, outbox, token, current, on }) {
    this.#storage = storage;
    this.#outbox = outbox;
    this.#findToken = current;
    this.#on = on;
    this.#client = new Client(url, {
      user: storage.get("user"),
      token: async (asked) => (this.#token = await token(asked)),
      // Another tab can have stored it since.
      get session() {
        return storage.get("session");
      },
    });
    this.#client.on("status", (status) => this.#statusChanged(status));
    this.#client.on("user", () => this.#beginAnew());
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
    return { user: this.#client.user, username: this.#name };
  }

  get timeline() {
    return this.#shown?.timeline;
  }

  // The server's limits for files, as `{ max_bytes }`; undefined if it takes no files.
  get files() {
    return this.#client.files;
  }

  // Shows a room under a name, and joins the room if necessary. Another name needs another connection.
  enter({ name, room }) {
    const renamed = name !== this.#name;
    const anew = renamed || this.#findToken() !== this.#token;
    this.#name = name;
    this.#shown = this.#rooms.get(room) ?? this.#add(room);
    if (renamed) {
      this.#client.rename(name);
      for (const each of this.rooms) each.roster.clear();
    }
    if (anew) for (const each of this.rooms) this.#adopt(each);
    this.#on.changed(this.#shown);
    this.#on.people(this.#shown);
    this.reconnect();
  }

  // Leaves a room for good.
  leave(name) {
    const { link } = this.#rooms.get(name);
    this.#rooms.delete(name);
    this.#storage.set(`read.${name}`, "");
    this.#kept = this.#kept.filter((each) => each !== name);
    link?.leave();
    this.#on.left();
  }

  // Closes the connection until `enter` is called again.
  quit() {
    this.#client.disconnect();
  }

  // Removes from the browser who the reader was, which rooms they were in, and how far they have read.
  forget() {
    for (const key of ["user", "rooms", ...this.#storage.keys("read.")]) this.#storage.set(key, "");
  }

  // Sends a message to a room, by default to the one that is shown.
  send(text, room = this.#shown) {
    const timestamp = new Date().toISOString();
    const { user, username: name } = this.self;
    const username = room.self || name;
    const draft = { id: newId(), room: room.name, user, username, text, timestamp, at: Date.now() };
    this.#submit(room, room.timeline.compose(draft));
    this.#on.changed(room);
  }

  retry(id) {
    const entry = this.timeline.retry(id);
    if (entry) this.#submit(this.#shown, entry);
    this.#on.changed(this.#shown);
  }

  discard(id) {
    this.timeline.discard(id);
    this.#shown.link?.discard(id);
    this.#outbox.remove(id);
    this.#on.changed(this.#shown);
  }

  typing() {
    this.#shown?.link?.typing();
  }

  // Sends a command about a room. Resolves with the answer, which may be an `error`; it never rejects.
  async ask(command, room = this.#shown) {
    if (!room?.link) return { type: "error", temporary: true, message: t("offlineNow") };
    try {
      return await room.link.request(command);
    } catch (error) {
      const { temporary, retryAfter } = error;
      return { type: "error", message: sentenceOf(error), temporary, retry_after_ms: retryAfter };
    }
  }

  reconnect() {
    this.#join(this.#shown, true);
    for (const room of this.rooms) if (!room.link) this.#join(room);
    this.#client.reconnect();
    this.#tell();
  }

  // Messages that an earlier page or another tab has left unconfirmed are adopted.
  #add(name) {
    const room = new Room(name, this.#storage, (id) => this.#outbox.remove(id), () => this.rooms);
    this.#rooms.set(name, room);
    this.#adopt(room);
    return room;
  }

  // Has the client join a room, the first time or after a refusal. The page keeps the messages itself.
  #join(room, first = false) {
    this.#client.join(room.name, { history: HISTORY_COUNT, keep: 0, first });
    if (room.link) return;
    room.link = this.#client.room(room.name);
    room.link.on("joined", (reply) => this.#joined(room, reply));
    room.link.on("refused", (error) => this.#refused(room, error));
    room.link.on("waiting", ({ error, retryAt }) => this.#waitFor(room, sentenceOf(error), retryAt));
    // What was missed is in the reply to the join.
    room.link.on("message edit delete react", (publication, missed) => missed || this.#take(room, publication));
    room.link.on("join leave", (event) => this.#note(room, event));
    room.link.on("room", () => this.#on.changed(room));
    room.link.on("room_deleted", () => room.forget());
    room.link.on("user_erased", (event) => this.#erase(room, event));
    room.link.on("users", () => this.#count(room));
    room.link.on("typing", (person) => room === this.#shown && this.#on.typing(person));
    room.link.on("sending", ({ id, sentAt }) => this.#sending(room, id, sentAt));
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

  #submit(room, entry) {
    const { id, text, sentAt } = entry;
    if (this.#submitted.has(id)) return;
    this.#submitted.add(id);
    room.link
      .send(text, { id, sentAt })
      .then((sent) => this.#sent(room, sent), (error) => this.#failed(room, id, error))
      .finally(() => this.#submitted.delete(id));
    if (entry.sentAt === undefined) entry.kept = this.#outbox.put(entry);
  }

  // The client has sent a message for the first time, or the server has refused it for now: then `sentAt` is undefined.
  #sending(room, id, sentAt) {
    const entry = room.timeline.draft(id);
    if (entry) entry.kept = this.#outbox.put(Object.assign(entry, { sentAt }));
  }

  // If the message has arrived as a publication, too, it is confirmed already.
  #sent(room, { id, offset }) {
    room.timeline.acknowledge({ id, offset });
    this.#on.changed(room);
  }

  #failed(room, id, error) {
    if (WAITS.has(error.code) || error === this.#client.status.error) return;
    const entry = room.timeline.fail({ id, message: sentenceOf(error), temporary: error.temporary });
    // A message that can be retried stays in the outbox.
    if (entry && !error.temporary) {
      entry.kept = false;
      this.#outbox.remove(id);
    }
    this.#on.changed(room);
  }

  // Sends what is in the outbox of a room.
  #resend(room) {
    const { timeline, link } = room;
    for (const entry of timeline.outbox) {
      // Another tab has removed it from the outbox: it was confirmed, or the reader discarded it there.
      const isGone = entry.kept && !this.#outbox.has(entry.id);
      if (isGone || this.#isForeign(entry, this.#token)) {
        timeline.discard(entry.id);
        link.discard(entry.id);
      } else if (entry.state === "pending") this.#submit(room, entry);
    }
  }

  #joined(room, reply) {
    const { user, username, session } = reply;
    const known = this.#storage.get("user");
    if (known && known !== user) this.#formerUser = known;
    // In other rooms the server may have numbered the name, because somebody there has the same.
    if (room === this.#shown) this.#name = username ?? "";
    // Only at the first join: a room that was left in another tab since then must not come back.
    if (!room.isKept) this.#kept = [...this.#kept, room.name];
    room.isKept = true;
    this.#storage.set("user", user);
    if (session) this.#storage.set("session", session);
    room.accept(reply);
    this.#adopt(room);
    this.#resend(room);
    if (room === this.#shown) this.#wait = null;
    this.#on.joined(reply);
    this.#on.changed(room);
    this.#on.people(room);
    this.#tell();
  }

  // The token is another person's, so the page starts over: it must not send what somebody else wrote, nor take over
  // their rooms and read positions.
  #beginAnew() {
    this.#formerUser = "";
    this.forget();
    this.#shown.forget();
    const others = this.rooms.filter((room) => room !== this.#shown);
    this.#rooms = new Map([[this.#shown.name, this.#shown]]);
    for (const { link } of others) link?.leave();
    this.#on.replaced();
  }

  #isOwn({ user }) {
    return user === this.#client.user;
  }

  #take(room, publication) {
    room.timeline.apply(publication);
    if (publication.type === "message" && room === this.#shown) this.#on.stoppedTyping(publication.user);
    if (publication.type === "message" && !this.#isOwn(publication)) this.#on.said(publication, room);
    this.#on.changed(room);
  }

  #note(room, event) {
    room.timeline.note(event);
    if (event.type === "leave" && room === this.#shown) this.#on.stoppedTyping(event.user);
  }

  #erase(room, event) {
    room.timeline.erase(event);
    this.#on.changed(room);
  }

  #count(room) {
    room.roster.accept(room.link);
    this.#on.changed(room);
    this.#on.people(room);
  }

  #refused(room, error) {
    if (room === this.#shown) this.#wait = null;
    const inNoRoom = !this.rooms.some(({ joined }) => joined);
    if (ASKED.has(error.code) && inNoRoom && room === this.#shown) {
      this.#client.disconnect();
      this.#on.refused({ message: sentenceOf(error) });
      return;
    }
    room.refuse(error, sentenceOf(error));
    this.#on.changed(room);
    this.#tell();
  }

  #waitFor(room, text, retryAt) {
    if (room !== this.#shown) return;
    this.#wait = { phase: "waiting", meaning: { text }, retryAt };
    this.#tell();
  }

  #statusChanged(status) {
    const { phase, error } = status;
    if (phase !== "open") this.#wait = null;
    // Rooms, drafts and read positions stay.
    if (phase === "stopped" && NEEDS_ANOTHER_TOKEN.has(error.code)) this.#on.denied(reasonOf(status));
    else this.#tell();
  }

  // Reports the state of the room that is shown.
  #tell() {
    const { joined, refusal } = this.#shown ?? {};
    const { status } = this.#client;
    const isThere = status.phase === "open" || status.phase === "closed";
    if (isThere && refusal) {
      const text = refusal.message + comeBack(refusal.retryAfter);
      this.#on.phase({ phase: "stopped", meaning: { text } });
    } else if (joined) this.#on.phase({ phase: "joined" });
    else this.#on.phase(this.#wait ?? { ...status, meaning: { text: reasonOf(status) } });
  }
}

function sentenceOf(error) {
  const key = SENTENCES[error.code];
  return key ? t(key) : errorOf(error);
}

// Returns the sentence that says why there is no connection; "" if there is no more to say than that.
function reasonOf({ error, reason }) {
  if (!error) return "";
  const { code, closeCode, temporary, retryAfter } = error;
  if (!closeCode) return sentenceOf(error);
  if (code === "overloaded" && reason) return t("pleaseWait", { reason });
  const text = has(`closed_${code}`) ? t(`closed_${code}`) : reason;
  return temporary ? text : text + comeBack(retryAfter);
}
