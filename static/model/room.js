import { mentions } from "../text/markup.js";
import { Roster } from "./roster.js";
import { Timeline } from "./timeline.js";

// A room that this page is in, shown or not: what is said there, who is there, and how far the reader has come.
export class Room {
  #storage;
  #confirmed;
  // Up to which message he has read; null before the first visit, which begins with nothing unread.
  #read = null;
  #line = null;

  name;
  timeline;
  roster = new Roster();
  joined = false;
  // Whether it has been put among the rooms that this browser remembers.
  isKept;
  // Why the server did not let him in: the `error`.
  refusal = null;
  moderates = false;

  // `confirmed` gets the id of each message that has left the outbox.
  constructor(name, storage, confirmed) {
    this.name = name;
    this.#storage = storage;
    this.#confirmed = confirmed;
    this.forget();
  }

  // Begins anew, as if nobody had been here.
  forget() {
    this.timeline = new Timeline(this.#confirmed);
    this.#read = this.#line = null;
    this.isKept = false;
  }

  // Whom the reader may call, who wrote last first.
  get others() {
    const authors = this.timeline.newest.map(({ username }) => username).reverse();
    return [...new Set([...authors, ...this.roster.names])].filter((name) => name && name !== this.roster.self);
  }

  // What the others wrote since.
  get unread() {
    return this.#read === null ? [] : this.timeline.newest.filter((entry) => this.#isNews(entry) && entry.offset > this.#read);
  }

  // Whether there is more of it than is here.
  get hasMoreUnread() {
    return this.#read !== null && !this.timeline.startsBefore(this.#read + 1);
  }

  // Whether any of it calls the reader.
  get called() {
    return this.unread.some(({ text }) => mentions(text, this.roster));
  }

  // Whether something that was written here could not be sent.
  get hasFailed() {
    return this.timeline.outbox.some(({ state }) => state === "failed");
  }

  // After which message the "new messages" line stands, for as long as this visit lasts.
  get line() {
    return this.#line;
  }

  // The reader comes, or comes back.
  visit() {
    this.#line = this.unread.length ? this.#read : null;
  }

  // Takes the reply to a join.
  accept(reply) {
    this.joined = true;
    this.refusal = null;
    this.moderates = reply.rights?.includes("moderate") ?? false;
    // Of another history nothing was read.
    if (this.timeline.isJoined && this.timeline.position.epoch !== reply.epoch) this.#read = this.#line = null;
    const isFirst = this.#read === null && !this.#mark;
    this.timeline.accept(reply);
    this.roster.accept(reply);
    if (isFirst) this.read(reply.offset);
    else this.#read = Math.min(Math.max(this.#read, this.#kept), reply.offset);
  }

  // He has seen everything up to here.
  read(offset) {
    if (!this.timeline.isJoined || offset <= (this.#read ?? -1)) return false;
    this.#read = Math.max(offset, this.#kept);
    this.#storage.set(`read.${this.name}`, `${this.timeline.position.epoch} ${this.#read}`);
    return true;
  }

  // Takes over what was read in another tab; returns whether that is more.
  recall() {
    if (!this.timeline.isJoined || this.#kept <= this.#read) return false;
    this.#read = this.#kept;
    return true;
  }

  // What this browser remembers of it: the epoch, and the offset.
  get #mark() {
    return this.#storage.get(`read.${this.name}`);
  }

  get #kept() {
    const [epoch, offset] = this.#mark.split(" ");
    return epoch === this.timeline.position?.epoch ? Number(offset) : 0;
  }

  #isNews({ kind, own, deleted }) {
    return kind === "message" && !own && !deleted;
  }
}
