// Shows a room's timeline, and lets the reader go through it: once a frame at most, the rows follow the entries.
//
// At the end the log follows. Away from it nothing that is read moves, and near either edge more is fetched. The
// timeline bounds what there is to show, and so the document.

import { Anchor } from "./anchor.js";
import { atNextFrame, byId } from "../dom.js";
import { Rows } from "./rows.js";
import { t } from "../text/translation.js";

const NEAR_END_PX = 80;
// About a screenful ahead.
const FETCH_WITHIN_PX = 700;
// A server in trouble is not asked again at every turn of the wheel.
const FETCH_PAUSE_MS = 2_500;
// Longer than screen readers wait to gather what changed in a live region.
const MUTED_MS = 1_000;
const SHOWN_MS = 2_500;
// What stays in sight above the line that tells where the news begin.
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
  // Whether the reader has just come, and is to be shown where he left off.
  #arriving = false;
  // Where he was when he went to another room, by the timeline; and where he is to be taken now.
  #places = new WeakMap();
  #place = null;
  #top = 0;
  #muteTimer;

  // `actions` has what the buttons of a failed message do with its id: retry, discard; what fetches: older, newer; and
  // seen, which gets the offset up to which the reader has seen everything.
  constructor(actions) {
    this.#actions = actions;
    this.#element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#element.addEventListener("click", ({ target }) => this.#clicked(target));
    // An image that is not there gives its place up.
    this.#element.addEventListener("error", () => requestAnimationFrame(() => this.#settle()), true);
    this.#pill.addEventListener("click", () => this.#pressed());
    new ResizeObserver(() => this.#settle()).observe(this.#element);
  }

  // At the next frame.
  show(room) {
    this.#room = room;
    this.#syncSoon();
  }

  // Goes to the newest message and stays with it.
  follow() {
    this.#follow(true);
    if (this.#room) this.show(this.#room);
  }

  // The reader comes to the room, or back to it.
  arrive() {
    this.#arriving = this.#following;
    if (this.#room) this.show(this.#room);
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

  // Has a message in sight, if it is here.
  bring(offset) {
    this.#rows.find(offset)?.scrollIntoView({ block: "nearest" });
  }

  get #timeline() {
    return this.#room.timeline;
  }

  // How far it is to the end of what is here, in pixels.
  get #below() {
    const { scrollHeight, scrollTop, clientHeight } = this.#element;
    return scrollHeight - scrollTop - clientHeight;
  }

  #sync() {
    if (this.#shown !== this.#timeline || this.#generation !== this.#timeline.generation) this.#restart();
    this.#rows.show(this.#timeline.entries, this.#room);
    this.#showEdge();
    if (this.#place) this.#goBack();
    if (this.#arriving && this.#timeline.isJoined) this.#goToLine();
    this.#settle();
    // These read the layout, and what writes comes after them.
    this.#fetch();
    this.#note();
    byId("empty").hidden = !this.#timeline.isJoined || this.#rows.count > 0;
  }

  #restart() {
    const isAnother = this.#shown !== this.#timeline;
    if (isAnother && this.#shown && !this.#following) this.#places.set(this.#shown, [this.#generation, this.#anchor.place]);
    this.#arriving ||= isAnother;
    this.#shown = this.#timeline;
    this.#generation = this.#timeline.generation;
    const [generation, place] = this.#places.get(this.#shown) ?? [];
    this.#places.delete(this.#shown);
    // What is new goes before where he was.
    this.#place = (generation === this.#generation && !this.#room.unread.length && place) || null;
    this.#follow(!this.#place);
    this.#mute();
  }

  // To where he was in this room.
  #goBack() {
    if (!this.#anchor.moveTo(this.#place)) this.#follow(true);
    this.#place = null;
  }

  #follow(following) {
    this.#following = following;
    if (this.#room) this.#timeline.following = following;
    if (!following) this.#anchor.remember();
  }

  // If not all that is new fits, he begins where he left off; or as near to it as the log is here.
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
    this.#hold();
  }

  #hold() {
    this.#top = this.#element.scrollTop;
    if (!this.#following) this.#anchor.remember();
  }

  #showEdge() {
    const atStart = this.#timeline.isJoined && this.#timeline.atStart && this.#rows.count > 0;
    this.#edge.classList.toggle("edge--start", atStart);
    this.#edge.classList.toggle("edge--fetching", this.#fetching && !this.#timeline.atStart);
    this.#element.ariaBusy = String(this.#fetching);
  }

  // What has been seen, and how much there is besides.
  #note() {
    if (!this.#timeline.isJoined) return;
    if (!document.hidden) this.#actions.seen(this.#following ? this.#timeline.position.offset : this.#rows.lastAbove(this.#element.getBoundingClientRect().bottom));
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
    // Another room's rows may be here still.
    if (!this.#room || this.#shown !== this.#timeline) return;
    const { scrollTop } = this.#element;
    const near = this.#below <= NEAR_END_PX && this.#timeline.atEnd;
    if (near && !this.#following) this.follow();
    // Only a way up leaves the end: a scroll event may come late, when the end itself has moved on.
    if (!near && this.#following && scrollTop < this.#top) this.#follow(false);
    this.#hold();
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
