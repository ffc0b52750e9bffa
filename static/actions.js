import { byId, cloneOf } from "./dom.js";

const QUICK = { "👍": "thumbs up", "❤️": "heart", "😂": "tears of joy", "🎉": "party", "👀": "eyes", "🙏": "thanks" };

// What can be done with a message: one bar, which goes to the message under the pointer, the finger or the focus.
export class Actions {
  #log = byId("log");
  #bar = cloneOf("actions-template");
  #row = null;
  #on;

  // `on` has a function each for: find (the entry of an offset), react, edit, remove.
  constructor(on) {
    this.#on = on;
    this.#bar.prepend(...Object.keys(QUICK).map(quickOf));
    this.#log.addEventListener("pointerover", (event) => this.#pointed(event));
    this.#log.addEventListener("pointerleave", (event) => this.#left(event));
    this.#log.addEventListener("focusin", ({ target }) => target.matches(":focus-visible") && this.#goTo(target));
    this.#log.addEventListener("click", (event) => this.#clicked(event));
    this.#bar.addEventListener("keydown", (event) => this.#keyed(event));
    document.addEventListener("focusin", ({ target }) => this.#log.contains(target) || this.#attach(null));
    document.addEventListener("pointerdown", ({ target }) => this.#log.contains(target) || this.#attach(null));
  }

  // After the messages have changed.
  refresh() {
    if (this.#row) this.#fill();
  }

  get #entry() {
    return this.#row && this.#on.find(Number(this.#row.dataset.offset));
  }

  get #isFocused() {
    return Boolean(this.#row?.matches(":focus-visible, :has(:focus-visible)"));
  }

  #pointed({ pointerType, target }) {
    if (pointerType === "mouse" && !this.#isFocused) this.#goTo(target);
  }

  // A finger that is lifted has left, too.
  #left({ pointerType }) {
    if (pointerType === "mouse" && !this.#isFocused) this.#attach(null);
  }

  #goTo(target) {
    const row = target.closest(".message[data-offset]");
    if (row !== this.#row) this.#attach(row);
  }

  #attach(row) {
    this.#reach(-1);
    this.#row = row;
    this.#ask(false);
    if (row) this.#fill();
    else this.#bar.remove();
  }

  #fill() {
    const entry = this.#entry;
    if (!entry || entry.deleted || !this.#row.isConnected) return this.#leave();
    const { reactions, own } = entry;
    for (const button of this.#bar.querySelectorAll("[data-emoji]")) {
      button.ariaPressed = String(Boolean(reactions.get(button.dataset.emoji)?.includes(this.#on.self())));
    }
    const may = { edit: own, ask: own || this.#on.moderates() };
    for (const button of this.#bar.querySelectorAll(".action--own")) button.hidden = !may[button.dataset.do];
    const content = this.#row.querySelector(".message__content");
    if (this.#bar.parentElement !== content) content.append(this.#bar);
    return this.#reach(0);
  }

  // The message is deleted, or not shown any more.
  #leave() {
    const row = this.#row;
    const hadFocus = this.#bar.contains(document.activeElement);
    this.#attach(null);
    if (hadFocus) row.focus();
  }

  #reach(tabIndex) {
    for (const chip of this.#row?.querySelectorAll(".reaction") ?? []) chip.tabIndex = tabIndex;
  }

  #clicked({ target, pointerType }) {
    if (pointerType === "touch") this.#goTo(target);
    const button = target.closest("[data-emoji], [data-do]");
    const row = button?.closest(".message");
    if (!row) return;
    const entry = this.#on.find(Number(row.dataset.offset));
    if (button.dataset.emoji) this.#on.react(entry, button.dataset.emoji);
    else this.#do(button.dataset.do, entry);
  }

  #do(action, entry) {
    if (action === "edit") this.#on.edit(entry);
    else this.#ask(action === "ask");
    if (action === "remove") this.#on.remove(entry);
  }

  // In place of the buttons, whether the message shall really go.
  #ask(asking) {
    const asked = this.#bar.classList.toggle("actions--asking", asking);
    const hasFocus = this.#bar.contains(document.activeElement);
    if (hasFocus) this.#bar.querySelector(asked ? "[data-do=keep]" : "[data-do=ask]").focus();
  }

  #keyed(event) {
    if (event.key !== "Escape" || !this.#bar.classList.contains("actions--asking")) return;
    event.stopPropagation();
    this.#ask(false);
  }
}

function quickOf(emoji) {
  const button = document.createElement("button");
  button.className = "action";
  button.dataset.emoji = button.textContent = emoji;
  button.ariaLabel = `React: ${QUICK[emoji]}`;
  return button;
}
