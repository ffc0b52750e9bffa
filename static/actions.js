import { atNextFrame, byId, cloneOf, make } from "./dom.js";
import { t } from "./text.js";

const QUICK = ["👍", "❤️", "😂", "🎉", "👀", "🙏"];
const GAP_PX = 8;
// As far as the bar may reach over a bubble's edge: there is no text.
const OVERLAP_PX = 6;

// What can be done with a message: one bar, which goes to the message under the pointer, the finger or the focus.
export class Actions {
  #log = byId("log");
  #bar = cloneOf("actions-template");
  #row = null;
  // Whether an emoji is being picked: until then the bar stays where it is.
  #picking = false;
  // Where the mouse is.
  #pointer = "";
  #on;

  // `on` has a function each for: find (the entry of an offset), self, moderates, pick (resolves with an emoji, or null),
  // react, reply, link, edit, remove.
  constructor(on) {
    this.#on = on;
    const names = t("quick").split(",");
    this.#bar.prepend(...QUICK.map((emoji, index) => quickOf(emoji, names[index])));
    for (const type of ["pointermove", "pointerleave"]) {
      this.#log.addEventListener(type, (event) => this.#pointed(event));
    }
    this.#log.addEventListener("click", (event) => this.#clicked(event));
    this.#log.addEventListener("scroll", () => this.#place());
    new ResizeObserver(() => this.#place()).observe(this.#log);
    this.#bar.addEventListener("focusin", ({ target }) => this.#rove(target));
    this.#bar.addEventListener("keydown", (event) => this.#keyed(event));
    for (const type of ["focusin", "pointerdown"]) {
      document.addEventListener(type, ({ target }) => this.#touched(target));
    }
  }

  // After the messages have changed: when the log shows it, at the next frame.
  refresh = atNextFrame(() => this.#row && this.#fill());

  get #entry() {
    return this.#row && this.#on.find(Number(this.#row.dataset.offset));
  }

  get #isFocused() {
    return Boolean(this.#row?.matches(":focus-visible, :has(:focus-visible)"));
  }

  get #isAsking() {
    return this.#bar.classList.contains("actions--asking");
  }

  // Messages that scroll under a mouse at rest do not call the bar. Who goes through them by keyboard keeps it, unless he
  // moves the mouse to one himself. A finger that is lifted has left, too.
  #pointed({ type, pointerType, target, screenX, screenY }) {
    const place = `${screenX} ${screenY}`;
    const moved = place !== this.#pointer || type === "pointerleave";
    this.#pointer = place;
    if (pointerType === "mouse" && moved && (!this.#isFocused || target.closest(".message"))) this.#goTo(target);
  }

  #touched(target) {
    if (target.closest("dialog")) return;
    if (!this.#log.contains(target) || target.matches(":focus-visible")) this.#goTo(target);
  }

  #goTo(target) {
    const row = target.closest(".message[data-offset]");
    if (row !== this.#row && !this.#picking) this.#attach(row);
  }

  #attach(row) {
    if (this.#bar.contains(document.activeElement)) this.#row.focus({ preventScroll: true });
    this.#reach(-1);
    this.#row = row;
    this.#ask(false);
    this.#rove(this.#bar.firstElementChild);
    if (row) this.#fill();
    else this.#bar.remove();
  }

  #fill() {
    const entry = this.#entry;
    if (!entry || entry.deleted || !this.#row.isConnected) return this.#attach(null);
    const { reactions, own } = entry;
    const mayNot = { edit: !own, ask: !own && !this.#on.moderates() };
    for (const button of this.#bar.querySelectorAll(".action")) {
      const { emoji, do: action } = button.dataset;
      if (emoji) button.ariaPressed = reactions.get(emoji)?.includes(this.#on.self()) ?? false;
      else button.hidden = mayNot[action];
    }
    const content = this.#row.querySelector(".message__content");
    // A finger has no other way to the time of a message that continues.
    this.#bar.dataset.time = content.querySelector("time").textContent;
    if (this.#bar.parentElement !== content) content.append(this.#bar);
    this.#place();
    return this.#reach(0);
  }

  // Beside the bubble where there is room; else above it, and below what begins above the log's edge. Only what is longer
  // than the log has to bear the bar over its text.
  #place() {
    const content = this.#bar.parentElement;
    if (!content) return;
    const [log, row, box] = [this.#log, this.#row, content].map((each) => each.getBoundingClientRect());
    this.#bar.style.maxInlineSize = `${row.width}px`;
    const { offsetWidth: width, offsetHeight: height } = this.#bar;
    const isOwn = this.#row.matches(".message--own");
    const before = document.dir === "rtl" ? row.right - box.right : box.left - row.left;
    const after = row.width - box.width - before;
    // The time of a message that continues has its place there.
    const time = this.#row.matches(".message--continued") ? content.querySelector("time").offsetWidth + GAP_PX : 0;
    const beside = GAP_PX + time;
    const isBeside = (isOwn ? before : after) >= beside + width;
    const start = isOwn ? box.width - width : Math.max(0, box.width - width);
    const x = isBeside ? (isOwn ? -width - beside : box.width + beside) : clamp(-before, start, row.width - before - width);
    const text = content.querySelector(".message__text").offsetTop;
    const edge = log.top - box.top + GAP_PX / 2;
    const above = text - height + OVERLAP_PX;
    const below = box.height + height > log.bottom - box.top ? edge : box.height;
    // A bar of two rows is higher than many a bubble, and the last one is at the log's edge.
    const beneath = log.bottom - box.top - height - GAP_PX / 2;
    const y = isBeside ? Math.min(clamp(text, edge, box.height - height), beneath) : above < edge ? below : above;
    Object.assign(this.#bar.style, { insetInlineStart: `${x}px`, insetBlockStart: `${y}px` });
  }

  #reach(tabIndex) {
    for (const chip of this.#row?.querySelectorAll(".reactions button") ?? []) chip.tabIndex = tabIndex;
  }

  // The bar is one stop for Tab; from there the arrow keys lead on.
  #rove(button) {
    for (const each of this.#bar.querySelectorAll("button")) each.tabIndex = each === button ? 0 : -1;
  }

  #clicked({ target, pointerType }) {
    const button = target.closest("[data-emoji], [data-do]");
    const row = button?.closest(".message");
    if (row) this.#press(button, this.#on.find(Number(row.dataset.offset)));
    else if (!pointerType || pointerType === "mouse" || target.closest("a:not(.file), button")) return;
    // A second time sends the bar away.
    else this.#goTo(this.#row?.contains(target) ? this.#log : target);
  }

  #press(button, entry) {
    const { emoji, do: action } = button.dataset;
    if (emoji) return this.#on.react(entry, emoji);
    if (action === "pick") return this.#pick(button, entry);
    this.#ask(action === "ask");
    return this.#on[action]?.(entry);
  }

  async #pick(button, entry) {
    this.#goTo(button);
    this.#picking = true;
    const emoji = await this.#on.pick(button);
    this.#picking = false;
    if (emoji) this.#on.react(entry, emoji);
    // Whoever clicked somewhere else is there by now.
    if (!this.#row?.matches(":hover, :focus-within")) this.#attach(null);
  }

  // In place of the buttons, whether the message shall really go.
  #ask(asking) {
    if (asking === this.#isAsking) return;
    const hadFocus = this.#bar.contains(document.activeElement);
    // Else it might go from under the pointer.
    this.#bar.style.minInlineSize = asking ? `${this.#bar.offsetWidth}px` : "";
    this.#bar.classList.toggle("actions--asking", asking);
    const button = this.#bar.querySelector(asking ? "[data-do=keep]" : "[data-do=ask]");
    this.#rove(button);
    if (hadFocus) button.focus();
    this.#place();
  }

  #keyed(event) {
    const { key, altKey, ctrlKey, metaKey } = event;
    if (altKey || ctrlKey || metaKey) return;
    const buttons = [...this.#bar.querySelectorAll("button")].filter((button) => button.offsetParent);
    const at = buttons.indexOf(document.activeElement);
    const step = document.dir === "rtl" ? -1 : 1;
    const next = { ArrowLeft: at - step, ArrowRight: at + step, Home: 0, End: -1 }[key];
    if (next !== undefined) buttons.at(next % buttons.length).focus();
    else if (key !== "Escape") return;
    else if (this.#isAsking) this.#ask(false);
    else this.#row.focus();
    event.preventDefault();
    event.stopPropagation();
  }
}

const clamp = (low, value, high) => Math.max(low, Math.min(value, high));

function quickOf(emoji, name) {
  return make("button", { class: "action", "data-emoji": emoji, "aria-label": t("react", { name }) }, [emoji]);
}
