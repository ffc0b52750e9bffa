// The rows of the log: brought in step with the entries in one walk, whether these were added, confirmed, moved or
// replaced.

import { MessageRow } from "./message-row.js";
import { NoticeRow } from "./notice-row.js";
import { dayOf } from "./times.js";

const GROUP_WITHIN_MS = 5 * 60_000;

export class Rows {
  #edge;
  #rows = new Map();

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

  // `self` is the reader's name.
  show(entries, self) {
    this.#removeAllBut(new Set(entries));
    const rows = new Map();
    let next = this.#edge.nextElementSibling;
    for (const entry of entries) {
      const row = this.#rows.get(entry) ?? newRow(entry);
      row.update(self);
      rows.set(entry, row);
      if (row.element === next) next = next.nextElementSibling;
      else this.#edge.parentElement.insertBefore(row.element, next);
    }
    this.#rows = rows;
    this.#arrange();
  }

  #removeAllBut(kept) {
    for (const [entry, { element }] of this.#rows) {
      if (!kept.has(entry)) element.remove();
    }
  }

  // Groups what one person wrote in a row, and names each day that begins (today only after another).
  #arrange() {
    const today = dayOf(new Date());
    let previous = null;
    let day = today;
    for (const row of this.#rows.values()) {
      const begins = row.day !== null && row.day !== day;
      day = row.day ?? day;
      const continued = !begins && continues(previous, row);
      row.place({ continued, day: begins ? (day === today ? "Today" : day) : "" });
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
