// A part of a room's log without a gap: messages in the order of their offsets, and between them notices of people who
// joined and left, which have no offset.
export class MessageRange {
  #entries;

  // Whether the range begins where the log begins.
  atStart;

  constructor(entries = [], atStart = false) {
    this.#entries = [...entries];
    this.atStart = atStart;
  }

  get entries() {
    return this.#entries;
  }

  get length() {
    return this.#entries.length;
  }

  // The offsets of the first and the last message; undefined if there is no message.
  get first() {
    return this.#entries.find(({ offset }) => offset)?.offset;
  }

  get last() {
    return this.#entries.findLast(({ offset }) => offset)?.offset;
  }

  find(offset) {
    return this.#entries.findLast((entry) => entry.offset === offset);
  }

  insert(entry) {
    let index = this.#entries.length;
    while (index > 0 && this.#entries[index - 1].order > entry.order) index -= 1;
    this.#entries.splice(index, 0, entry);
  }

  remove(entry) {
    this.#entries = this.#entries.filter((each) => each !== entry);
  }

  prepend(entries) {
    this.#entries.unshift(...entries.filter((entry) => !this.#entries.includes(entry)));
  }

  append(entries) {
    this.#entries.push(...entries.filter((entry) => !this.#entries.includes(entry)));
  }

  keepFirst(count) {
    this.#entries.splice(count);
  }

  keepLast(count) {
    if (this.#entries.splice(0, Math.max(0, this.length - count)).length) this.atStart = false;
  }

  // The entries of this range that follow the end of the other one, at most `count`; null if there is a gap between
  // them.
  after({ entries, last }, count) {
    if (!(last >= this.first)) return null;
    const index = this.#entries.indexOf(entries.at(-1));
    // A page of history can contain a message that has not arrived as an event yet.
    return index < 0 ? [] : this.#entries.slice(index + 1, index + 1 + count);
  }
}
