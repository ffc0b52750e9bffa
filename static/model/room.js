import { mentions } from "../text/markup.js";
import { Roster } from "./roster.js";
import { Timeline } from "./timeline.js";

// A room that the reader is in, shown or not: its timeline, its people, and how far the reader has read.
export class Room {
  #storage;
  #confirmed;
  #all;
  // The offset of the last message that was read; null before the first visit, which starts with nothing unread.
  #read = null;
  #line = null;
  #epoch = null;
  #refusal = null;

  name;
  timeline;
  roster = new Roster();
  // The client's room (client.js); null until the reader has a name or a token.
  link = null;
  // Whether the room has been added to the rooms that this browser remembers.
  isKept;
  // Whether the reader is a moderator here.
  moderates = false;
  // Whether the reader has the right to write. Until the server says so, they have.
  #mayWrite = true;

  // `confirmed` is called with the id of each message that leaves the timeline's outbox. `all` returns the reader's
  // rooms.
  constructor(name, storage, confirmed, all = () => []) {
    this.name = name;
    this.#all = all;
    this.#storage = storage;
    this.#confirmed = confirmed;
    this.forget();
  }

  // Starts over, as if the reader had never been here.
  forget() {
    this.timeline = new Timeline(this.#confirmed);
    this.#read = this.#line = null;
    this.isKept = false;
  }

  get joined() {
    return this.link?.joined ?? false;
  }

  // Why the server refused the join, as `{ message, retryAfter }`; null if it did not, or if a dialog says so.
  get refusal() {
    return this.#refusal?.error === this.link?.error ? this.#refusal : null;
  }

  // What the operator has set for the room (docs/protocol.md, "Options of a room").
  get options() {
    return this.link?.options ?? {};
  }

  // Whether the reader can write here now. Moderators can write in every room.
  get writes() {
    const { closed, read_only } = this.options;
    return this.#mayWrite && (this.moderates || !(closed || read_only));
  }

  // The reader's name here; "" if they have none.
  get self() {
    return this.roster.self;
  }

  // The names that a text can mention. A crowd has no list of its people, so the authors stand in for it.
  get names() {
    return this.roster.isCrowd ? this.others : this.roster.names;
  }

  // The names of the reader's rooms. A text can link to other rooms too, but only these are known to exist.
  get rooms() {
    return this.#all().map(({ name }) => name);
  }

  // Whether the message with an offset is the reader's; undefined if it is not loaded.
  owns(offset) {
    return this.timeline.find(offset)?.own;
  }

  // The names offered for a mention, most recent authors first.
  get others() {
    const authors = this.timeline.newest.filter(({ own }) => !own).reverse();
    const others = this.roster.people.filter(({ user }) => user !== this.roster.user);
    const names = [...authors, ...others].map(({ username }) => username);
    return [...new Set(names)].filter((name) => name && name !== this.self);
  }

  // The messages by others after the last one that was read.
  get unread() {
    if (this.#read === null) return [];
    return this.timeline.newest.filter((entry) => this.#isNews(entry) && entry.offset > this.#read);
  }

  // Whether there are unread messages that are not loaded.
  get hasMoreUnread() {
    return this.#read !== null && !this.timeline.startsBefore(this.#read + 1);
  }

  // Whether an unread message mentions the reader.
  get isMentioned() {
    return this.unread.some(({ text }) => mentions(text, this));
  }

  // Whether a message that was written here could not be sent.
  get hasFailed() {
    return this.timeline.outbox.some(({ state }) => state === "failed");
  }

  // The offset of the message above the "New" line, or null. It stays the same during a visit.
  get line() {
    return this.#line;
  }

  // Takes the refusal of a join, with the sentence for the reader.
  refuse(error, message) {
    this.#refusal = { error, message, retryAfter: error.retryAfter };
  }

  // The reader comes to the room, or returns to it.
  visit() {
    this.#line = this.unread.length ? this.#read : null;
  }

  // Takes the reply to a join.
  accept(reply) {
    this.#mayWrite = reply.rights.includes("write");
    this.moderates = reply.rights.includes("moderate");
    // If the history is a new one, nothing of it has been read.
    this.#epoch = reply.epoch;
    if (reply.replaced) {
      this.#read = this.#line = null;
      this.#mark = `${reply.epoch} 0`;
    }
    const isFirst = this.#read === null && !this.#mark;
    this.timeline.accept(reply);
    this.roster.accept(reply);
    if (isFirst) this.read(reply.offset);
    else this.#read = Math.min(Math.max(this.#read, this.#kept), reply.offset);
  }

  // The reader has seen everything up to `offset`. Returns whether that is more than before.
  read(offset) {
    if (!this.timeline.isJoined || offset <= (this.#read ?? -1)) return false;
    this.#read = Math.max(offset, this.#kept);
    this.#mark = `${this.#epoch} ${this.#read}`;
    return true;
  }

  // Takes over how far another tab has read. Returns whether that is more than before.
  recall() {
    if (!this.timeline.isJoined || this.#kept <= this.#read) return false;
    this.#read = this.#kept;
    return true;
  }

  // How far the reader has read according to this browser: epoch and offset.
  get #mark() {
    return this.#storage.get(`read.${this.name}`);
  }

  set #mark(mark) {
    this.#storage.set(`read.${this.name}`, mark);
  }

  get #kept() {
    const [epoch, offset] = this.#mark.split(" ");
    return epoch === this.#epoch ? Number(offset) : 0;
  }

  #isNews({ kind, own, deleted }) {
    return kind === "message" && !own && !deleted;
  }
}
