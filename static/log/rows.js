// The rows of the log. `show` updates them to match the entries in one pass, whether entries were added, confirmed,
// moved or replaced.

import { MessageRow } from "./message-row.js";
import { NoticeRow } from "./notice-row.js";
import { dayOf, nearDayOf } from "../text/times.js";

// Messages by one person within this time form a group, with one avatar and one name.
const GROUP_WITHIN_MS = 5 * 60_000;

export class Rows {
  #edge;
  #rows = new Map();
  // The element of the first message below the "New" line; null if there is none.
  fresh = null;

  // The rows come after `edge`, in the same parent.
  constructor(edge) {
    this.#edge = edge;
  }

  get count() {
    return this.#rows.size;
  }

  // The element of the message with an offset; undefined if it is not shown.
  find(offset) {
    for (const [entry, { element }] of this.#rows) {
      if (entry.offset === offset) return element;
    }
    return undefined;
  }

  // The offset of the last message that begins above a height in the window; 0 if there is none.
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

  // How many rows at the beginning meet a condition that no row after them meets. The search is binary, because to
  // measure every row would be expensive.
  #countWhile(fulfils) {
    const rows = [...this.#rows.values()];
    let low = 0;
    for (let high = rows.length; low < high; ) {
      const middle = (low + high) >> 1;
      if (fulfils(rows[middle].element.getBoundingClientRect())) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #removeAllBut(kept) {
    for (const [entry, { element }] of this.#rows) {
      if (!kept.has(entry)) element.remove();
    }
  }

  // Groups messages by one person, puts a day above its first message (today only after another day), and places the
  // "New" line. `line` is the offset of the last message that was read; the "New" line is shown only if that message is
  // loaded.
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
