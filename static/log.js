// Shows a timeline, and lets the reader go through it: once a frame at most, the rows follow the entries.
//
// At the end the log follows. Away from it nothing that is read moves, and near either edge more is fetched. The
// timeline bounds what there is to show, and so the document.

import { Anchor } from "./anchor.js";
import { byId } from "./dom.js";
import { Rows } from "./rows.js";

const NEAR_END_PX = 80;
// About a screenful ahead.
const FETCH_WITHIN_PX = 700;
// A server in trouble is not asked again at every turn of the wheel.
const FETCH_PAUSE_MS = 2_500;
// Longer than screen readers wait to gather what changed in a live region.
const MUTED_MS = 1_000;
const SHOWN_MS = 2_500;

export class Log {
  #element = byId("log");
  #edge = byId("edge");
  #pill = byId("new-messages");
  #rows = new Rows(this.#edge);
  #anchor = new Anchor(this.#element);
  #actions;
  #timeline = null;
  #shown = null;
  #generation = -1;
  #scheduled = false;
  #fetching = false;
  #following = true;
  #seen = 0;
  #top = 0;
  #muteTimer;

  // `actions` has what the buttons of a failed message do with its id: retry, discard; and what fetches: older, newer.
  constructor(actions) {
    this.#actions = actions;
    this.#element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#element.addEventListener("click", ({ target }) => this.#clicked(target));
    this.#pill.addEventListener("click", () => this.#pressed());
    new ResizeObserver(() => this.#settle()).observe(this.#element);
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
    this.#follow(true);
    if (this.#timeline) this.show(this.#timeline);
  }

  // Goes to a message that the timeline has, and points it out.
  reveal(offset) {
    this.#follow(false);
    this.#mute();
    this.#sync();
    const row = this.#rows.find(offset);
    if (!row) return;
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
    row.classList.add("message--shown");
    setTimeout(() => row.classList.remove("message--shown"), SHOWN_MS);
    this.#anchor.remember();
  }

  #sync() {
    this.#scheduled = false;
    if (this.#shown !== this.#timeline || this.#generation !== this.#timeline.generation) this.#restart();
    this.#rows.show(this.#timeline.entries, this.#timeline.self);
    this.#showEdge();
    this.#settle();
    this.#countNew();
    byId("empty").hidden = !this.#timeline.isJoined || this.#rows.count > 0;
    this.#fetch();
  }

  #restart() {
    this.#shown = this.#timeline;
    this.#generation = this.#timeline.generation;
    this.#follow(true);
    this.#mute();
  }

  #follow(following) {
    this.#following = following;
    if (this.#timeline) this.#timeline.following = following;
  }

  // A room's past is there to be read, not to be read aloud.
  #mute() {
    this.#element.ariaLive = "off";
    clearTimeout(this.#muteTimer);
    this.#muteTimer = setTimeout(() => (this.#element.ariaLive = "polite"), MUTED_MS);
  }

  // After anything that may have moved the rows.
  #settle() {
    if (this.#following) this.#element.scrollTop = this.#element.scrollHeight;
    else this.#anchor.restore();
    this.#top = this.#element.scrollTop;
    this.#anchor.remember();
  }

  #showEdge() {
    const atStart = this.#timeline.isJoined && this.#timeline.atStart && this.#rows.count > 0;
    this.#edge.classList.toggle("edge--start", atStart);
    this.#edge.classList.toggle("edge--fetching", this.#fetching && !this.#timeline.atStart);
    this.#element.ariaBusy = String(this.#fetching);
  }

  #countNew() {
    const { received, atEnd } = this.#timeline;
    if (this.#following) this.#seen = received;
    const count = received - this.#seen;
    this.#pill.hidden = count === 0 && atEnd;
    this.#pill.firstElementChild.textContent = ["Newest messages", "1 new message"][count] ?? `${count} new messages`;
  }

  #fetch() {
    if (this.#fetching || !this.#timeline.isJoined) return;
    const { scrollHeight, scrollTop, clientHeight } = this.#element;
    const below = scrollHeight - scrollTop - clientHeight;
    if (!this.#timeline.atStart && scrollTop < FETCH_WITHIN_PX) this.#run(this.#actions.older);
    else if (!this.#timeline.atEnd && below < FETCH_WITHIN_PX) this.#run(this.#actions.newer);
  }

  async #run(fetch) {
    this.#fetching = true;
    this.#showEdge();
    if (await fetch()) this.#mute();
    else await new Promise((done) => setTimeout(done, FETCH_PAUSE_MS));
    this.#fetching = false;
    this.show(this.#timeline);
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#element;
    const near = scrollHeight - scrollTop - clientHeight <= NEAR_END_PX && this.#timeline?.atEnd;
    if (near && !this.#following) this.follow();
    // Only a way up leaves the end: a scroll event may come late, when the end itself has moved on.
    if (!near && this.#following && scrollTop < this.#top) this.#follow(false);
    this.#top = scrollTop;
    this.#anchor.remember();
    if (this.#timeline) this.#fetch();
  }

  #pressed() {
    this.follow();
    this.#element.focus({ preventScroll: true });
  }

  #clicked(target) {
    const button = target.closest("[data-action]");
    if (button) this.#actions[button.dataset.action](button.closest(".message").dataset.id);
  }
}
