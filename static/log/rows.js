// The rows of the log: brought in step with the entries in one walk, whether these were added, confirmed, moved or
// replaced.

import { MessageRow } from "./message-row.js";
import { NoticeRow } from "./notice-row.js";
import { dayOf, nearDayOf } from "../text/times.js";

const GROUP_WITHIN_MS = 5 * 60_000;

export class Rows {
  #edge;
  #rows = new Map();
  // The first message that the reader has not seen, as he left it: a row's element.
  fresh = null;

  // The rows follow `edge`, in the same element.
  constructor(edge) {
    this.#edge = edge;
  }

  get count() {
    return this.#rows.size;
  }

  // The element of a message, by its offset.
  find(offset) {
    for (const [entry, { element }] of this.#rows) {
      if (entry.offset === offset) return element;
    }
    return undefined;
  }

  // The offset of the last message that begins above a height in the window; 0 where none does.
  lastAbove(height) {
    const above = [...this.#rows.keys()].slice(0, this.#countWhile(({ top }) => top < height));
    return above.findLast(({ offset }) => offset)?.offset ?? 0;
  }

  // The element of the first row that ends below a height in the window.
  firstBelow(height) {
    return [...this.#rows.values()][this.#countWhile(({ bottom }) => bottom <= height)]?.element;
  }

  show(entries, room) {
    this.#removeAllBut(new Set(entries));
    const rows = new Map();
    let next = this.#edge.nextElementSibling;
    for (const entry of entries) {
      const row = this.#rows.get(entry) ?? newRow(entry);
      row.update(room);
      rows.set(entry, row);
      if (row.element === next) next = next.nextElementSibling;
      else this.#edge.parentElement.insertBefore(row.element, next);
    }
    this.#rows = rows;
    this.#arrange(room);
  }

  // How many rows lie as told before one does not, and with it all that follow. A look at each would be dear.
  #countWhile(lies) {
    const rows = [...this.#rows.values()];
    let low = 0;
    for (let high = rows.length; low < high; ) {
      const middle = (low + high) >> 1;
      if (lies(rows[middle].element.getBoundingClientRect())) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #removeAllBut(kept) {
    for (const [entry, { element }] of this.#rows) {
      if (!kept.has(entry)) element.remove();
    }
  }

  // Groups what one person wrote in a row, names each day that begins (today only after another), and tells where the
  // reader left off: `line` is the offset of the last message that he has seen, which has to be here.
  #arrange({ line, timeline }) {
    const today = dayOf(new Date());
    let previous = null;
    let day = today;
    this.fresh = null;
    let reached = timeline.atStart;
    for (const [entry, row] of this.#rows) {
      const begins = row.day !== null && row.day !== day;
      day = row.day ?? day;
      reached ||= entry.offset <= line;
      const isFresh = line !== null && reached && !this.fresh && entry.offset > line && !entry.own;
      const continued = !begins && !isFresh && continues(previous, row);
      row.place({ continued, day: begins ? nearDayOf(day) : "", isFresh });
      if (isFresh) this.fresh = row.element;
      previous = row;
    }
  }
}

function newRow(entry) {
  return entry.kind === "message" ? new MessageRow(entry) : new NoticeRow(entry);
}

function continues(previous, row) {
  return row.author !== null && row.author === previous?.author && row.sentAt - previous.sentAt < GROUP_WITHIN_MS;
}
