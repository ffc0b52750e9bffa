// The messages of a room as this page knows them. It knows nothing of the document.
//
// - The `tail` is the end of the log, and always exists. Live publications go there.
// - The `outbox` follows the tail: messages that were written here and are not confirmed yet.
// - The `excerpt` exists while the reader looks at an earlier part of the log. It is shown in place of the tail, and
//   grows until it meets the tail, then it becomes the tail.
//
// Invariants: tail and excerpt have no gaps, and each holds at most ITEMS_LIMIT entries, except that nothing is removed
// from what the reader is reading. A message is one entry even if it is in both ranges. The client (client.js) passes
// each publication on once and in order.

import { amend, change, confirm } from "./entries.js";
import { MessageRange } from "./message-range.js";

// Entries in a range. It bounds the document, and so the time of a layout.
const ITEMS_LIMIT = 300;
// Entries that are removed from a full tail at once. Each removal moves all rows, which costs far more than an
// addition.
const ITEMS_DROPPED = 50;
// Entries by which an excerpt grows at a time, as a page of history does.
const PAGE_COUNT = 50;
// Changes that are remembered for messages that are being fetched. The newest are enough: a later change wins.
const CHANGES_LIMIT = 300;

export class Timeline {
  #tail = new MessageRange();
  #excerpt = null;
  #outbox = new Map();
  #changes = [];
  // The offset of the last publication; null until the room has been joined.
  #offset = null;
  #following = true;
  #onConfirmed;

  // The reader's id.
  self = "";
  // Grows when the log is replaced and not continued.
  generation = 0;

  // `confirmed` is called with the id of each message that leaves the outbox.
  constructor(confirmed = () => {}) {
    this.#onConfirmed = confirmed;
  }

  // The entries at the end of the log, whichever part of it is shown.
  get newest() {
    return this.#tail.entries;
  }

  // Whether everything from an offset on is loaded.
  startsBefore(offset) {
    return this.#tail.atStart || this.#tail.first <= offset;
  }

  // The entries to show, in order, without the outbox.
  get items() {
    return this.#shown.entries;
  }

  get outbox() {
    return [...this.#outbox.values()];
  }

  get entries() {
    return this.atEnd ? [...this.items, ...this.outbox] : this.items;
  }

  get isJoined() {
    return this.#offset !== null;
  }

  get offset() {
    return this.#offset;
  }

  get atStart() {
    return this.#shown.atStart;
  }

  get atEnd() {
    return this.#excerpt === null;
  }

  get first() {
    return this.#shown.first;
  }

  get last() {
    return this.#shown.last;
  }

  // Whether the log follows its end. While it does not, nothing is removed from what the reader is reading.
  set following(following) {
    this.#following = following;
    if (!following) return;
    this.#excerpt = null;
    this.#tail.keepLast(ITEMS_LIMIT);
  }

  find(offset) {
    return this.#tail.find(offset) ?? this.#excerpt?.find(offset);
  }

  // The reader's newest message that can still be changed.
  get lastOwn() {
    return this.#tail.entries.findLast(({ own, deleted }) => own && !deleted);
  }

  // Takes the reply to a join: continues if the server recovered what was missed, and starts over otherwise. The outbox
  // stays in both cases.
  accept({ user, offset, recovered, messages }) {
    this.#recognise(user);
    if (!recovered) this.#restart();
    for (const publication of messages) this.#take(publication);
    this.#tail.atStart ||= this.#tail.first === undefined || this.#tail.first === 1;
    this.#offset = offset;
  }

  // Takes a live publication.
  apply(publication) {
    this.#take(publication);
    this.#offset = publication.offset;
  }

  // What a user has said was erased.
  erase(event) {
    for (const entry of new Set([...this.#tail.entries, ...this.items])) {
      if (entry.kind === "message") amend(entry, event);
    }
  }

  // Takes the page of history before what is shown.
  prepend({ messages, more }) {
    const shown = this.#shown;
    shown.prepend(this.#entriesOf(messages));
    shown.atStart = !more || messages.length === 0;
    if (this.#following || shown.length <= ITEMS_LIMIT) return;
    this.#excerpt ??= new MessageRange(shown.entries, shown.atStart);
    this.#excerpt.keepFirst(ITEMS_LIMIT);
    this.#tail.keepLast(ITEMS_LIMIT);
  }

  // Takes the page of history after the excerpt. An empty page says that nothing lies between the excerpt and the tail.
  append({ messages }) {
    this.#excerpt.append(messages.length ? this.#entriesOf(messages) : this.#tail.entries);
    this.#excerpt.keepLast(ITEMS_LIMIT);
  }

  // Extends the excerpt by entries of the tail. Returns false if there is a gap between them.
  grow() {
    if (this.atEnd) return true;
    const next = this.#tail.after(this.#excerpt, PAGE_COUNT);
    if (!next) return false;
    this.#excerpt.append(next);
    this.#excerpt.keepLast(ITEMS_LIMIT);
    // The excerpt has reached the end of the log, so it becomes the tail.
    if (this.#excerpt.entries.at(-1) === this.#tail.entries.at(-1)) {
      this.#tail = this.#excerpt;
      this.#excerpt = null;
    }
    return true;
  }

  // Takes a page from anywhere in the log, and shows it instead of what was shown.
  excerpt({ messages, more }) {
    this.#following = false;
    this.#excerpt = new MessageRange(this.#entriesOf(messages), !more);
  }

  // The message of the outbox with an id; undefined if there is none.
  draft(id) {
    return this.#outbox.get(id);
  }

  // Adds a message that was written here to the outbox, and returns its entry, which may exist already.
  compose(draft) {
    const known = this.#outbox.get(draft.id);
    if (known) return known;
    const entry = { kind: "message", own: true, state: "pending", revision: 0, ...draft };
    this.#outbox.set(entry.id, entry);
    return entry;
  }

  // The server says that a message was published earlier, with this offset. If it lies before the tail, it is not
  // shown.
  acknowledge({ id, offset }) {
    const entry = this.#release(id);
    if (!entry || this.#tail.find(offset) || !(this.#tail.atStart || offset > this.#tail.first)) return;
    this.#insert(confirm(entry, { ...entry, offset }, true));
  }

  fail({ id, message, temporary }) {
    const entry = this.#outbox.get(id);
    return entry && change(entry, { state: "failed", error: { message, temporary } });
  }

  retry(id) {
    const entry = this.#outbox.get(id);
    return entry && change(entry, { state: "pending", sentAt: undefined });
  }

  discard(id) {
    this.#outbox.delete(id);
  }

  // Notes that a person joined or left. Notices with no message between them share an entry, which has no offset and
  // stays behind the message that was the last one when the entry was created.
  note({ type, user, username }) {
    const last = this.#tail.entries.at(-1);
    const fresh = { kind: "notice", join: [], leave: [], revision: 0, order: this.#offset };
    const notice = last?.kind === "notice" ? last : fresh;
    const opposite = type === "join" ? "leave" : "join";
    // A person who left and came back, or came and left, is not mentioned.
    const isThem = (person) => person.user === user && person.username === username;
    const others = (kind) => notice[kind].filter((person) => !isThem(person));
    const added = notice[opposite].some(isThem) ? [] : [{ user, username }];
    change(notice, { [opposite]: others(opposite), [type]: [...others(type), ...added] });
    if (notice !== last) this.#insert(notice);
    else if (!notice.join.length && !notice.leave.length) this.#remove(notice);
  }

  #remove(notice) {
    this.#tail.remove(notice);
    this.#excerpt?.remove(notice);
  }

  // Takes the reader's id. If it is another one than before, other messages are the reader's.
  #recognise(user) {
    const isOther = user !== this.self;
    this.self = user;
    if (!isOther) return;
    for (const entry of new Set([...this.#tail.entries, ...this.items])) {
      if (entry.kind === "message") change(entry, { own: entry.user === user });
    }
  }

  get #shown() {
    return this.#excerpt ?? this.#tail;
  }

  #restart() {
    this.#tail = new MessageRange();
    this.#excerpt = null;
    this.#following = true;
    this.#changes = [];
    this.generation += 1;
  }

  #take(publication) {
    if (publication.type === "message") this.#place(publication);
    else this.#amend(publication);
  }

  #place(publication) {
    if (this.#tail.find(publication.offset)) return;
    this.#insert(this.#entryOf(publication));
  }

  #amend(publication) {
    const entry = this.find(publication.target);
    if (entry) amend(entry, publication);
    this.#changes.push(publication);
    if (this.#changes.length > CHANGES_LIMIT) this.#changes.shift();
  }

  #entriesOf(messages) {
    return messages.map((message) => this.#entryOf(message));
  }

  #entryOf(message) {
    const known = this.find(message.offset);
    if (known) return known;
    const entry = this.#claim(message) ?? { kind: "message", revision: 0 };
    confirm(entry, message, message.user === this.self);
    for (const each of this.#changes) {
      if (each.target === message.offset) amend(entry, each);
    }
    return entry;
  }

  // The entry in the outbox that this publication confirms. Others can use the same id, so the person has to match,
  // too.
  #claim({ id, user }) {
    const entry = this.#outbox.get(id);
    const ours = entry && (user === this.self || user === entry.user);
    return ours ? this.#release(id) : undefined;
  }

  #release(id) {
    const entry = this.#outbox.get(id);
    this.#outbox.delete(id);
    this.#onConfirmed(id);
    return entry;
  }

  // Adds an entry to the tail. A full tail loses its oldest entries, but not while the reader is reading them.
  #insert(entry) {
    const full = this.#tail.length >= ITEMS_LIMIT;
    if (full && !this.#following) this.#excerpt ??= new MessageRange(this.#tail.entries, this.#tail.atStart);
    this.#tail.insert(entry);
    if (full) this.#tail.keepLast(ITEMS_LIMIT - (this.#following ? ITEMS_DROPPED : 0));
  }
}
