// A room's messages as this page knows them; no document here.
//
// The `tail` is the end of the log, and always here; after it comes the `outbox`, what was written here and is not
// confirmed yet. Who reads further back has an `excerpt` beside it, which grows until it meets the tail again.
// Position = (epoch, offset): everything up to the offset is here, which is what makes a rejoin lossless.

import { amend, change, confirm } from "./entries.js";
import { MessageRange } from "./message-range.js";

// As many as the document bears; of each range.
const ITEMS_LIMIT = 300;
// At the end, so many go at once: whatever goes moves all the rows, which costs far more than one that comes.
const ITEMS_DROPPED = 50;
const PAGE_COUNT = 50;
// Changes remembered for messages that are just being fetched. The last ones are enough: the last word wins.
const CHANGES_LIMIT = 300;

export class Timeline {
  #tail = new MessageRange();
  #excerpt = null;
  #outbox = new Map();
  #changes = [];
  #epoch = null;
  #offset = 0;
  #following = true;
  #onConfirmed;

  self = "";
  // Grows when the log was replaced rather than continued.
  generation = 0;

  // `confirmed` gets the id of each message that has left the outbox.
  constructor(confirmed = () => {}) {
    this.#onConfirmed = confirmed;
  }

  // The end of the log, whatever is shown.
  get newest() {
    return this.#tail.entries;
  }

  // Whether everything from an offset on is here.
  startsBefore(offset) {
    return this.#tail.atStart || this.#tail.first <= offset;
  }

  // What is there of the log, in order.
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
    return this.#epoch !== null;
  }

  get position() {
    return this.isJoined ? { epoch: this.#epoch, offset: this.#offset } : null;
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

  // Whether the reader stays at the end; else nothing is taken from what he reads.
  set following(following) {
    this.#following = following;
    if (!following) return;
    this.#excerpt = null;
    this.#tail.keepLast(ITEMS_LIMIT);
  }

  find(offset) {
    return this.#tail.find(offset) ?? this.#excerpt?.find(offset);
  }

  // The reader's last message that can still be changed.
  get lastOwn() {
    return this.#tail.entries.findLast(({ own, deleted }) => own && !deleted);
  }

  // Takes the reply to a join: goes on if the server recovered the rest, else begins anew. Keeps the outbox.
  accept({ username, epoch, offset, recovered, messages }) {
    this.self = username;
    if (!recovered || epoch !== this.#epoch) this.#restart();
    for (const publication of messages) {
      if (publication.offset > this.#offset) this.#take(publication);
    }
    this.#tail.atStart ||= this.#tail.first === undefined || this.#tail.first === 1;
    this.#epoch = epoch;
    this.#offset = offset;
  }

  // Takes one live publication. "hole" means that one before it is missing: nothing was taken, so recover.
  apply(publication) {
    if (!this.isJoined || publication.offset <= this.#offset) return "seen";
    if (publication.offset > this.#offset + 1) return "hole";
    this.#take(publication);
    this.#offset = publication.offset;
    return "new";
  }

  // Takes the page of history before what is there.
  prepend({ messages, more }) {
    const shown = this.#shown;
    shown.prepend(this.#entriesOf(messages));
    shown.atStart = !more || messages.length === 0;
    if (this.#following || shown.length <= ITEMS_LIMIT) return;
    this.#excerpt ??= new MessageRange(shown.entries, shown.atStart);
    this.#excerpt.keepFirst(ITEMS_LIMIT);
    this.#tail.keepLast(ITEMS_LIMIT);
  }

  // Takes the page after it. An empty one says that there is nothing between it and the tail.
  append({ messages }) {
    this.#excerpt.append(messages.length ? this.#entriesOf(messages) : this.#tail.entries);
    this.#excerpt.keepLast(ITEMS_LIMIT);
  }

  // Lengthens the excerpt by what the tail has; false where the two have not met yet.
  grow() {
    if (this.atEnd) return true;
    const next = this.#tail.after(this.#excerpt, PAGE_COUNT);
    if (!next) return false;
    this.#excerpt.append(next);
    this.#excerpt.keepLast(ITEMS_LIMIT);
    // It has come to the end: it is the tail now.
    if (this.#excerpt.entries.at(-1) === this.#tail.entries.at(-1)) {
      this.#tail = this.#excerpt;
      this.#excerpt = null;
    }
    return true;
  }

  // Takes a page from anywhere in the log, to be shown instead.
  excerpt({ messages, more }) {
    this.#following = false;
    this.#excerpt = new MessageRange(this.#entriesOf(messages), !more);
  }

  // Takes what was written here, unless it is here already.
  compose(draft) {
    const known = this.#outbox.get(draft.id);
    if (known) return known;
    const entry = { kind: "message", own: true, state: "pending", revision: 0, ...draft };
    this.#outbox.set(entry.id, entry);
    return entry;
  }

  // The server says that this message is published already, under this offset. One from before the tail is past.
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
    return entry && change(entry, { state: "pending", sentAt: null });
  }

  discard(id) {
    this.#outbox.delete(id);
  }

  // A line that tells who came and who went, with nothing said in between. It has no number of its own and stays behind
  // what was there when it came.
  note({ type, username }) {
    const last = this.#tail.entries.at(-1);
    const line = last?.kind === "notice" ? last : { kind: "notice", join: [], leave: [], revision: 0, order: this.#offset };
    const opposite = type === "join" ? "leave" : "join";
    // Who went and is back, or the other way round, is not worth a word.
    const back = line[opposite].includes(username);
    const names = (kind) => line[kind].filter((name) => name !== username);
    change(line, { [opposite]: names(opposite), [type]: back ? names(type) : [...names(type), username] });
    if (line !== last) this.#insert(line);
    else if (!line.join.length && !line.leave.length) this.#remove(line);
  }

  #remove(line) {
    this.#tail.remove(line);
    this.#excerpt?.remove(line);
  }

  get #shown() {
    return this.#excerpt ?? this.#tail;
  }

  #restart() {
    this.#tail = new MessageRange();
    this.#excerpt = null;
    this.#following = true;
    this.#changes = [];
    this.#offset = 0;
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
    confirm(entry, message, message.username === this.self);
    for (const each of this.#changes) {
      if (each.target === message.offset) amend(entry, each);
    }
    return entry;
  }

  // The waiting message that this publication is. Anybody may choose any id, so the author has to be right too.
  #claim({ id, username }) {
    const entry = this.#outbox.get(id);
    const ours = entry && (username === entry.username || username === this.self);
    return ours ? this.#release(id) : undefined;
  }

  #release(id) {
    const entry = this.#outbox.get(id);
    this.#outbox.delete(id);
    this.#onConfirmed(id);
    return entry;
  }

  // A tail that is full forgets its beginning, but not while somebody reads it.
  #insert(entry) {
    const full = this.#tail.length >= ITEMS_LIMIT;
    if (full && !this.#following) this.#excerpt ??= new MessageRange(this.#tail.entries, this.#tail.atStart);
    this.#tail.insert(entry);
    if (full) this.#tail.keepLast(ITEMS_LIMIT - (this.#following ? ITEMS_DROPPED : 0));
  }
}
