// A room's messages as this page knows them; no document here.
//
// The log is `items`, what the server has numbered (with the join and leave lines between), then `outbox`, what was
// written here and is not confirmed yet. An entry is one object from pending to confirmed, so a view can follow it.
// Position = (epoch, offset): everything up to the offset is here, which is what makes a rejoin lossless.

// Twice what the view shows, so that somebody reading back keeps the ground under their feet for a while.
const ITEMS_LIMIT = 600;

export class Timeline {
  #items = [];
  #offsets = new Set();
  #outbox = new Map();
  #epoch = null;
  #offset = 0;
  #self = "";

  // Grows when the log was replaced rather than continued.
  generation = 0;
  // How many messages of other people came since then.
  received = 0;

  get items() {
    return this.#items;
  }

  get outbox() {
    return [...this.#outbox.values()];
  }

  get isJoined() {
    return this.#epoch !== null;
  }

  get position() {
    return this.isJoined ? { epoch: this.#epoch, offset: this.#offset } : null;
  }

  // Takes the reply to a join: goes on if the server recovered the rest, else begins anew. Keeps the outbox.
  accept({ username, epoch, offset, recovered, messages }) {
    this.#self = username;
    if (!recovered || epoch !== this.#epoch) this.#restart();
    for (const publication of messages) {
      if (publication.offset > this.#offset) this.#place(publication);
    }
    this.#epoch = epoch;
    this.#offset = offset;
  }

  // Takes one live publication. "hole" means that one before it is missing: nothing was taken, so recover.
  apply(publication) {
    if (!this.isJoined || publication.offset <= this.#offset) return "seen";
    if (publication.offset > this.#offset + 1) return "hole";
    this.#place(publication);
    this.#offset = publication.offset;
    return "new";
  }

  compose(draft) {
    const entry = { kind: "message", own: true, state: "pending", revision: 0, ...draft };
    this.#outbox.set(entry.id, entry);
    return entry;
  }

  // The server says that this message is published already, under this offset.
  acknowledge({ id, offset }) {
    const entry = this.#outbox.get(id);
    this.#outbox.delete(id);
    if (entry && !this.#offsets.has(offset)) this.#insert(change(entry, { offset, order: offset, state: "confirmed" }));
  }

  fail({ id, message, temporary }) {
    const entry = this.#outbox.get(id);
    if (entry) change(entry, { state: "failed", error: { message, temporary } });
  }

  retry(id) {
    const entry = this.#outbox.get(id);
    return entry && change(entry, { state: "pending" });
  }

  discard(id) {
    this.#outbox.delete(id);
  }

  // A join or leave line. It has no number of its own and stays behind what was there when it came.
  note({ type, username }) {
    this.#insert({ kind: type, username, order: this.#offset });
  }

  #restart() {
    this.#items = [];
    this.#offsets.clear();
    this.#offset = 0;
    this.generation += 1;
    this.received = 0;
  }

  #place({ type, offset, id, username, text, timestamp }) {
    if (type !== "message" || this.#offsets.has(offset)) return;
    const own = username === this.#self;
    const entry = this.#claim(id, username) ?? { kind: "message", revision: 0 };
    if (!own) this.received += 1;
    this.#insert(change(entry, { offset, order: offset, id, username, text, timestamp, own, state: "confirmed" }));
  }

  // The waiting message that this publication is. Anybody may choose any id, so the author has to be right too.
  #claim(id, username) {
    const entry = this.#outbox.get(id);
    if (!entry || (username !== entry.username && username !== this.#self)) return undefined;
    this.#outbox.delete(id);
    return entry;
  }

  #insert(entry) {
    let index = this.#items.length;
    while (index > 0 && this.#items[index - 1].order > entry.order) index -= 1;
    this.#items.splice(index, 0, entry);
    if (entry.offset) this.#offsets.add(entry.offset);
    if (this.#items.length > ITEMS_LIMIT) this.#offsets.delete(this.#items.shift().offset);
  }
}

function change(entry, fields) {
  return Object.assign(entry, fields, { revision: entry.revision + 1 });
}
