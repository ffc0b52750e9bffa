// Shows a timeline. Once a frame at most, the rows are brought in step with its entries in one walk, whether these
// were added, confirmed, moved or replaced.
//
// At the end the log follows, and keeps ROWS_LIMIT rows. Away from it nothing is taken from above, so nothing jumps;
// once the first shown entry has left the timeline, the rows stay as they are until the reader comes back to the end.

import { byId } from "./dom.js";
import { MessageRow } from "./message-row.js";
import { NoticeRow } from "./notice-row.js";
import { dayOf } from "./times.js";

const ROWS_LIMIT = 300;
const NEAR_END_PX = 80;
const GROUP_WITHIN_MS = 5 * 60_000;
// Longer than screen readers wait to gather what changed in a live region.
const MUTED_MS = 1_000;

export class Log {
  #element = byId("log");
  #pill = byId("new-messages");
  #timeline = null;
  #shown = null;
  #generation = -1;
  #rows = new Map();
  #scheduled = false;
  #following = true;
  #seen = 0;
  #top = 0;
  #muteTimer;

  // `actions` has what the buttons of a failed message do with its id: retry, discard.
  constructor(actions) {
    this.#element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#element.addEventListener("click", ({ target }) => this.#clicked(target, actions));
    this.#pill.addEventListener("click", () => this.#pressed());
    new ResizeObserver(() => this.#following && this.#scrollToEnd()).observe(this.#element);
  }

  // At the next frame.
  show(timeline) {
    this.#timeline = timeline;
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => this.#sync());
  }

  // Goes to the newest message and stays with it.
  follow() {
    this.#following = true;
    if (this.#timeline) this.show(this.#timeline);
  }

  #sync() {
    this.#scheduled = false;
    if (this.#shown !== this.#timeline || this.#generation !== this.#timeline.generation) this.#restart();
    const entries = this.#entriesToShow();
    if (entries) this.#reconcile(entries);
    if (this.#following) this.#scrollToEnd();
    this.#countNew();
    byId("empty").hidden = !this.#timeline.isJoined || this.#rows.size > 0;
  }

  #restart() {
    this.#shown = this.#timeline;
    this.#generation = this.#timeline.generation;
    this.#following = true;
    this.#mute();
  }

  // A room's past is there to be read, not to be read aloud.
  #mute() {
    this.#element.ariaLive = "off";
    clearTimeout(this.#muteTimer);
    this.#muteTimer = setTimeout(() => (this.#element.ariaLive = "polite"), MUTED_MS);
  }

  // The entries to have rows for, or null to leave the rows as they are.
  #entriesToShow() {
    const { items, outbox } = this.#timeline;
    if (this.#following) return [...items.slice(-ROWS_LIMIT), ...outbox];
    const [first] = this.#rows.keys();
    const start = first?.order === undefined ? 0 : items.indexOf(first);
    return start < 0 ? null : [...items.slice(start), ...outbox];
  }

  #reconcile(entries) {
    this.#removeAllBut(new Set(entries));
    const rows = new Map();
    let next = this.#element.firstElementChild;
    for (const entry of entries) {
      const row = this.#rows.get(entry) ?? newRow(entry);
      row.update();
      rows.set(entry, row);
      if (row.element === next) next = next.nextElementSibling;
      else this.#element.insertBefore(row.element, next);
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

  #countNew() {
    const { received } = this.#timeline;
    if (this.#following) this.#seen = received;
    const count = received - this.#seen;
    this.#pill.hidden = count === 0;
    this.#pill.firstElementChild.textContent = count === 1 ? "1 new message" : `${count} new messages`;
  }

  #scrollToEnd() {
    this.#element.scrollTop = this.#element.scrollHeight;
    this.#top = this.#element.scrollTop;
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#element;
    const near = scrollHeight - scrollTop - clientHeight <= NEAR_END_PX;
    if (near && !this.#following) this.follow();
    // Only a way up leaves the end: a scroll event may come late, when the end itself has moved on.
    if (!near && scrollTop < this.#top) this.#following = false;
    this.#top = scrollTop;
  }

  #pressed() {
    this.follow();
    this.#element.focus({ preventScroll: true });
  }

  #clicked(target, actions) {
    const button = target.closest("[data-action]");
    if (button) actions[button.dataset.action](button.closest(".message").dataset.id);
  }
}

function newRow(entry) {
  return entry.kind === "message" ? new MessageRow(entry) : new NoticeRow(entry);
}

function continues(previous, row) {
  return row.author !== null && row.author === previous?.author && row.sentAt - previous.sentAt < GROUP_WITHIN_MS;
}
