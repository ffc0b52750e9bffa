import { atNextFrame, byId, cloneOf, make } from "../dom.js";
import { t } from "../text/translation.js";

const QUICK = ["👍", "❤️", "😂", "🎉", "👀", "🙏"];
const GAP_PX = 8;
// As far as the bar may reach over a bubble's upper edge, if the first line leaves it that much.
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
  // How far the log has to scroll down, or up if negative, before the bar fits above or below its message.
  #lackPx = 0;
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
    this.#lackPx = 0;
    this.#ask(false);
    this.#rove(this.#bar.firstElementChild);
    if (!row) return this.#bar.remove();
    this.#fill();
    return this.#makeRoom();
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

  // A message in the middle of the log may leave too little room above and below it, though together it would be enough.
  // Only when the bar comes: a log that the reader scrolls moves as the reader says.
  #makeRoom() {
    if (!this.#lackPx) return;
    this.#log.scrollTop += this.#lackPx;
    this.#place();
  }

  // Beside the bubble where there is room; else above it, and below a message that begins above the log's edge. The bar
  // covers text only where the log is too low for the message and the bar.
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
    const bubble = content.querySelector(".message__text");
    const text = bubble.offsetTop;
    // A font may be higher than its line, and reach out of the bubble.
    const lines = extentOf(bubble);
    const edge = log.top - box.top + GAP_PX / 2;
    const end = log.bottom - box.top;
    const above = Math.min(text + OVERLAP_PX, lines.top - box.top) - height;
    const below = Math.max(box.height, lines.bottom - box.top);
    // A bar of two rows is higher than many a bubble, and the last one is at the log's edge.
    const beneath = end - height - GAP_PX / 2;
    const isAbove = above >= edge;
    const isBelow = !isAbove && below + height <= end;
    const y = isBeside ? Math.min(clamp(text, edge, box.height - height), beneath) : isAbove ? above : isBelow ? below : edge;
    this.#lackPx = isBeside || isAbove || isBelow ? 0 : this.#lackOf(edge - above, below + height - end, log, box);
    Object.assign(this.#bar.style, { insetInlineStart: `${x}px`, insetBlockStart: `${y}px` });
  }

  // The shorter way on which the message stays whole. A pixel more than it takes, because a log rounds where it is.
  #lackOf(upPx, downPx, log, box) {
    const [up, down] = [Math.ceil(upPx) + 1, Math.ceil(downPx) + 1];
    const { scrollTop, scrollHeight, clientHeight } = this.#log;
    const ways = [];
    if (up <= scrollTop && box.bottom + up <= log.bottom) ways.push(-up);
    if (down <= scrollHeight - scrollTop - clientHeight && box.top - down >= log.top) ways.push(down);
    return ways.sort((a, b) => Math.abs(a) - Math.abs(b))[0] ?? 0;
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

// Where the lines of a text are, and not what is around them.
function extentOf(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  return range.getBoundingClientRect();
}

function quickOf(emoji, name) {
  return make("button", { class: "action", "data-emoji": emoji, "aria-label": t("react", { name }) }, [emoji]);
}
