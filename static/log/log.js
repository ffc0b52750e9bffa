// Shows the timeline of a room. The rows are updated to match the entries at most once a frame.
//
// States:
// - following: the log stays at its end, whatever is added. Sending a message leads here, as does scrolling to the end.
// - not following: what the reader is looking at keeps its place, whatever is added or removed above it (`Anchor`).
//   Scrolling up leads here, as does going to a message.
//
// In both states, more is fetched when the reader comes near an edge. The timeline bounds the number of rows.

import { Anchor } from "./anchor.js";
import { atNextFrame, byId, isHidden } from "../dom.js";
import { Rows } from "./rows.js";
import { t } from "../text/translation.js";

// About two lines: closer to the end than this counts as at the end.
const NEAR_END_PX = 80;
// More is fetched about a screen before the reader gets there.
const FETCH_WITHIN_PX = 700;
// After a failed fetch, so that scrolling does not ask a server in trouble again and again.
const FETCH_PAUSE_MS = 2_500;
// Screen readers collect the changes of a live region for less than this before they read them out.
const MUTED_MS = 1_000;
// As long as the `glow` animation in styles/message.css.
const SHOWN_MS = 2_500;
// How much of the earlier messages stays visible above the "New" line.
const BEFORE_LINE_PX = 60;

export class Log {
  #element = byId("log");
  #edge = byId("edge");
  #pill = byId("new-messages");
  #rows = new Rows(this.#edge);
  #anchor = new Anchor(this.#element, this.#rows);
  #actions;
  #room = null;
  #shown = null;
  #generation = -1;
  #syncSoon = atNextFrame(() => this.#sync());
  #fetching = false;
  #following = true;
  // Whether the reader has just come to the room, and is to be taken to the first new message.
  #arriving = false;
  // Where the reader was in each timeline, as `[generation, place]`, and the place to return to at the next frame.
  #places = new WeakMap();
  #place = null;
  // The last known scroll position.
  #top = 0;
  #muteTimer;

  // `actions` has a function each for: retry and discard (a failed message, by its id), older and newer (fetch, and
  // resolve with whether there is more), and seen (the offset up to which the reader has seen everything).
  constructor(actions) {
    this.#actions = actions;
    this.#element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#element.addEventListener("click", ({ target }) => this.#clicked(target));
    // An image that cannot be loaded becomes a card of another height.
    this.#element.addEventListener("error", () => requestAnimationFrame(() => this.#settle()), true);
    this.#pill.addEventListener("click", () => this.#pressed());
    new ResizeObserver(() => this.#settle()).observe(this.#element);
  }

  // Shows the present state of a room at the next frame.
  show(room) {
    this.#room = room;
    this.#syncSoon();
  }

  // Scrolls to the newest message and stays at the end.
  follow() {
    this.#follow(true);
    if (this.#room) this.show(this.#room);
  }

  // The reader comes to the room, or returns to it.
  arrive() {
    this.#arriving = this.#following;
    if (this.#room) this.show(this.#room);
  }

  // Scrolls to a message that the timeline contains, focuses it and highlights it.
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

  // Scrolls a message into view, if the timeline contains it.
  scrollTo(offset) {
    this.#rows.find(offset)?.scrollIntoView({ block: "nearest" });
  }

  get #timeline() {
    return this.#room.timeline;
  }

  // The distance to the end of the loaded log, in pixels.
  get #below() {
    const { scrollHeight, scrollTop, clientHeight } = this.#element;
    return scrollHeight - scrollTop - clientHeight;
  }

  // The offset of the last message of which at least the beginning is visible.
  get #lastVisible() {
    return this.#rows.lastAbove(this.#element.getBoundingClientRect().bottom);
  }

  #sync() {
    if (this.#shown !== this.#timeline || this.#generation !== this.#timeline.generation) this.#restart();
    this.#rows.show(this.#timeline.entries, this.#room);
    this.#showEdge();
    if (this.#place) this.#goBack();
    if (this.#arriving && this.#timeline.isJoined) this.#goToLine();
    this.#settle();
    // These two read the layout, so they come before anything else is written to the document.
    this.#fetch();
    this.#note();
    byId("empty").hidden = !this.#timeline.isJoined || this.#rows.count > 0;
  }

  #restart() {
    const isAnother = this.#shown !== this.#timeline;
    if (isAnother && this.#shown && !this.#following) {
      this.#places.set(this.#shown, [this.#generation, this.#anchor.place]);
    }
    this.#arriving ||= isAnother;
    this.#shown = this.#timeline;
    this.#generation = this.#timeline.generation;
    const [generation, place] = this.#places.get(this.#shown) ?? [];
    this.#places.delete(this.#shown);
    // New messages take precedence over the place where the reader was.
    this.#place = (generation === this.#generation && !this.#room.unread.length && place) || null;
    this.#follow(!this.#place);
    this.#mute();
  }

  // Scrolls to where the reader was in this room, or to the end if that message is not loaded any more.
  #goBack() {
    if (!this.#anchor.moveTo(this.#place)) this.#follow(true);
    this.#place = null;
  }

  #follow(following) {
    this.#following = following;
    if (this.#room) this.#timeline.following = following;
    if (!following) this.#anchor.remember();
  }

  // If the new messages do not fit on the screen, scrolls to the first of them, or as near to it as the loaded log
  // allows.
  #goToLine() {
    this.#arriving = false;
    const row = this.#rows.fresh ?? (this.#room.hasMoreUnread && this.#edge.nextElementSibling);
    if (!row) return;
    const above = row.getBoundingClientRect().top - this.#element.getBoundingClientRect().top - BEFORE_LINE_PX;
    const { scrollTop, scrollHeight, clientHeight } = this.#element;
    if (scrollTop + above >= scrollHeight - clientHeight - NEAR_END_PX) return;
    this.#follow(false);
    this.#element.scrollTop += above;
    this.#anchor.remember();
  }

  // Keeps screen readers from reading out messages that are not new.
  #mute() {
    this.#element.ariaLive = "off";
    clearTimeout(this.#muteTimer);
    this.#muteTimer = setTimeout(() => (this.#element.ariaLive = "polite"), MUTED_MS);
  }

  // Keeps the place after anything that may have moved the rows.
  #settle() {
    if (this.#following) this.#element.scrollTop = this.#element.scrollHeight;
    else this.#anchor.restore();
    this.#remember();
  }

  #remember() {
    this.#top = this.#element.scrollTop;
    if (!this.#following) this.#anchor.remember();
  }

  #showEdge() {
    const atStart = this.#timeline.isJoined && this.#timeline.atStart && this.#rows.count > 0;
    this.#edge.classList.toggle("edge--start", atStart);
    this.#edge.classList.toggle("edge--fetching", this.#fetching && !this.#timeline.atStart);
    this.#element.ariaBusy = String(this.#fetching);
  }

  // Reports what the reader has seen, and shows how many new messages there are further down.
  #note() {
    if (!this.#timeline.isJoined) return;
    if (!isHidden()) this.#actions.seen(this.#following ? this.#timeline.offset : this.#lastVisible);
    const count = this.#room.unread.length;
    const isNear = this.#timeline.atEnd && this.#below < this.#element.clientHeight;
    this.#pill.hidden = this.#following || (count === 0 && isNear);
    if (this.#pill.hidden) return;
    const more = this.#room.hasMoreUnread ? "+" : "";
    this.#pill.firstElementChild.textContent = count ? t("newMessages", { count, more }) : t("newest");
  }

  #fetch() {
    if (this.#fetching || !this.#room?.joined) return;
    if (!this.#timeline.atStart && this.#element.scrollTop < FETCH_WITHIN_PX) this.#run(this.#actions.older);
    else if (!this.#timeline.atEnd && this.#below < FETCH_WITHIN_PX) this.#run(this.#actions.newer);
  }

  async #run(fetch) {
    this.#fetching = true;
    this.#showEdge();
    if (await fetch()) this.#mute();
    else await new Promise((done) => setTimeout(done, FETCH_PAUSE_MS));
    this.#fetching = false;
    this.show(this.#room);
  }

  #scrolled() {
    // The rows may still be those of another room.
    if (!this.#room || this.#shown !== this.#timeline) return;
    const { scrollTop } = this.#element;
    const near = this.#below <= NEAR_END_PX && this.#timeline.atEnd;
    if (near && !this.#following) this.follow();
    // Only scrolling up stops following. A scroll event can come late, when the log has grown and its end has moved
    // away.
    if (!near && this.#following && scrollTop < this.#top) this.#follow(false);
    this.#remember();
    this.#fetch();
    this.#note();
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
