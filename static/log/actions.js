import { atNextFrame, byId, cloneOf, make } from "../dom.js";
import { hasReacted } from "../model/entries.js";
import { t } from "../text/translation.js";

// The names of these are in the `quick` text of each language.
const QUICK = ["👍", "❤️", "😂", "🎉", "👀", "🙏"];
const GAP_PX = 8;
// How far the bar can cover the upper edge of a bubble, if the first line begins low enough.
const OVERLAP_PX = 6;

// The bar with the actions for a message. There is one bar, which moves to the message under the mouse, after a tap, or
// with the focus.
//
// States: the bar is not shown (`#row` is null), or at a row. At a row it shows its buttons, asks whether to delete the
// message (`#isAsking`), or is held in its place by a dialog (`#isHeld`): the emoji picker, or the question whether to
// remove the author.
export class Actions {
  #log = byId("log");
  #bar = cloneOf("actions-template");
  #row = null;
  #isHeld = false;
  // The last position of the mouse on the screen.
  #pointer = "";
  // How far the log has to scroll down, or up if negative, before the bar fits above or below its message.
  #missingPx = 0;
  #on;

  // `on` has a function each for: find (the entry with an offset), room (the room that is shown), pick (resolves with
  // an emoji or null), react, reply, link, edit, remove, expel (resolves when the moderator has said whether to remove
  // the author from the room).
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

  // Follows a change of the messages at the next frame, when the log shows it.
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

  // The bar does not move when messages scroll under a mouse that is at rest. While a message has the keyboard's focus,
  // the bar stays there until the mouse is moved to a message. Lifting a finger is a pointerleave, too.
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
    if (row !== this.#row && !this.#isHeld) this.#attach(row);
  }

  #attach(row) {
    if (this.#bar.contains(document.activeElement)) this.#row.focus({ preventScroll: true });
    this.#setReactionsTabIndex(-1);
    this.#row = row;
    this.#missingPx = 0;
    this.#ask(false);
    if (!row) return this.#bar.remove();
    this.#fill();
    this.#rove(this.#bar.querySelector("button:not([hidden])"));
    return this.#scrollToFit();
  }

  #fill() {
    const entry = this.#entry;
    if (!entry || entry.deleted || !this.#row.isConnected) return this.#attach(null);
    const { writes, moderates, roster } = this.#on.room();
    const changes = writes && entry.own;
    const may = { link: true, edit: changes, ask: changes || moderates, expel: moderates && !entry.own };
    for (const button of this.#bar.querySelectorAll(".action")) {
      const { emoji, do: action } = button.dataset;
      button.hidden = !(may[action] ?? writes);
      if (emoji) button.ariaPressed = hasReacted(entry, emoji, roster.user);
    }
    const expel = this.#bar.querySelector("[data-do=expel]");
    expel.ariaLabel = expel.title = t("removePerson", { name: entry.username });
    const content = this.#row.querySelector(".message__content");
    // On a touch screen, the time of a message that continues a group is shown only here.
    this.#bar.dataset.time = content.querySelector("time").textContent;
    if (this.#bar.parentElement !== content) content.append(this.#bar);
    this.#place();
    return this.#setReactionsTabIndex(0);
  }

  // A message in the middle of the log can leave too little space for the bar both above it and below it, although
  // together that would be enough. Then the log scrolls, but only when the bar appears. While the reader scrolls, it
  // does not scroll by itself.
  #scrollToFit() {
    if (!this.#missingPx) return;
    this.#log.scrollTop += this.#missingPx;
    this.#place();
  }

  // Places the bar beside the bubble if it fits there, otherwise above it, or below it if the message begins above the
  // edge of the log. The bar covers text only if the log is not high enough for both the message and the bar.
  #place() {
    const content = this.#bar.parentElement;
    if (!content) return;
    const [log, row, box] = [this.#log, this.#row, content].map((each) => each.getBoundingClientRect());
    this.#bar.style.maxInlineSize = `${row.width}px`;
    const { offsetWidth: width, offsetHeight: height } = this.#bar;
    const isOwn = this.#row.matches(".message--own");
    const before = document.dir === "rtl" ? row.right - box.right : box.left - row.left;
    const after = row.width - box.width - before;
    // Beside a message that continues a group, its time is shown on hover.
    const time = this.#row.matches(".message--continued") ? content.querySelector("time").offsetWidth + GAP_PX : 0;
    const beside = GAP_PX + time;
    const isBeside = (isOwn ? before : after) >= beside + width;
    const start = isOwn ? box.width - width : Math.max(0, box.width - width);
    const besideX = isOwn ? -width - beside : box.width + beside;
    const x = isBeside ? besideX : clamp(-before, start, row.width - before - width);
    const bubble = content.querySelector(".message__text");
    const text = bubble.offsetTop;
    // Glyphs can be taller than their line, and stick out of the bubble.
    const lines = extentOf(bubble);
    const edge = log.top - box.top + GAP_PX / 2;
    const end = log.bottom - box.top;
    const above = Math.min(text + OVERLAP_PX, lines.top - box.top) - height;
    const below = Math.max(box.height, lines.bottom - box.top);
    // A bar of two rows can be higher than the bubble, which may be at the lower edge of the log.
    const beneath = end - height - GAP_PX / 2;
    const besideY = Math.min(clamp(text, edge, box.height - height), beneath);
    const isAbove = above >= edge;
    const isBelow = !isAbove && below + height <= end;
    const y = isBeside ? besideY : isAbove ? above : isBelow ? below : edge;
    const fits = isBeside || isAbove || isBelow;
    this.#missingPx = fits ? 0 : this.#missingOf(edge - above, below + height - end, log, box);
    Object.assign(this.#bar.style, { insetInlineStart: `${x}px`, insetBlockStart: `${y}px` });
  }

  // Returns the shorter distance to scroll after which the message is still completely visible; a pixel more than
  // necessary, because scroll positions are rounded.
  #missingOf(upPx, downPx, log, box) {
    const [up, down] = [Math.ceil(upPx) + 1, Math.ceil(downPx) + 1];
    const { scrollTop, scrollHeight, clientHeight } = this.#log;
    const ways = [];
    if (up <= scrollTop && box.bottom + up <= log.bottom) ways.push(-up);
    if (down <= scrollHeight - scrollTop - clientHeight && box.top - down >= log.top) ways.push(down);
    return ways.sort((a, b) => Math.abs(a) - Math.abs(b))[0] ?? 0;
  }

  #setReactionsTabIndex(tabIndex) {
    for (const chip of this.#row?.querySelectorAll(".reactions button") ?? []) chip.tabIndex = tabIndex;
  }

  // The bar is one stop for the Tab key; arrow keys move within it.
  #rove(button) {
    for (const each of this.#bar.querySelectorAll("button")) each.tabIndex = each === button ? 0 : -1;
  }

  #clicked({ target, pointerType }) {
    const button = target.closest("[data-emoji], [data-do]");
    const row = button?.closest(".message");
    if (row) this.#press(button, this.#on.find(Number(row.dataset.offset)));
    else if (!pointerType || pointerType === "mouse" || target.closest("a:not(.file), button")) return;
    // A second tap on the message removes the bar.
    else this.#goTo(this.#row?.contains(target) ? this.#log : target);
  }

  #press(button, entry) {
    const { emoji, do: action } = button.dataset;
    if (emoji) return this.#on.react(entry, emoji);
    if (action === "pick") return this.#pick(button, entry);
    if (action === "expel") return this.#hold(this.#on.expel(entry));
    this.#ask(action === "ask");
    return this.#on[action]?.(entry);
  }

  async #pick(button, entry) {
    this.#goTo(button);
    const emoji = await this.#hold(this.#on.pick(button));
    if (emoji) this.#on.react(entry, emoji);
  }

  // Keeps the bar in its place until a dialog has been answered, and resolves with the answer.
  async #hold(answered) {
    this.#isHeld = true;
    const answer = await answered;
    this.#isHeld = false;
    // The pointer and the focus may be somewhere else by now.
    if (!this.#row?.matches(":hover, :focus-within")) this.#attach(null);
    return answer;
  }

  // Shows the question whether to delete the message in place of the buttons, or shows the buttons again.
  #ask(asking) {
    if (asking === this.#isAsking) return;
    const hadFocus = this.#bar.contains(document.activeElement);
    // The bar keeps its width, so that it stays under the pointer.
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

// Returns the rectangle that the lines of a text fill, without the padding around them.
function extentOf(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  return range.getBoundingClientRect();
}

function quickOf(emoji, name) {
  return make("button", { class: "action", "data-emoji": emoji, "aria-label": t("react", { name }) }, [emoji]);
}
