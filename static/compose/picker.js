// The emoji picker. Its module, style and table are loaded when it is first opened.

import { make } from "../dom.js";
import { find, groups } from "./emoji.js";
import { t } from "../text/translation.js";

// As many as fit into 320 pixels if each is large enough for a finger.
const COLUMN_COUNT = 7;
const RECENT_COUNT = 14;
const FOUND_COUNT = 70;
const GAP_PX = 8;
// A click on its button closes the picker, and within this time the same click must not open it again.
const CLICK_MS = 300;

const usual = new Map(groups.flatMap(({ emoji }) => emoji.map((entry) => [entry.emoji, entry])));

export class Picker {
  #field = make("input", { class: "field__input", type: "search", autocomplete: "off", "aria-label": t("findEmoji") });
  #grid = make("div", { role: "grid", "aria-label": t("emoji") });
  #status = make("p", { role: "status" });
  #parts = [this.#field, this.#grid, this.#status];
  #element = make("div", { class: "picker", popover: "", role: "dialog", "aria-label": t("emoji") }, this.#parts);
  #style = make("link", { rel: "stylesheet", href: "/static/styles/picker.css" });
  #storage;
  #button = null;
  #closedAt = -Infinity;
  #resolve = null;

  constructor(storage) {
    this.#storage = storage;
    this.#field.placeholder = t("findEmoji");
    this.#field.oninput = () => this.#fill();
    this.#grid.addEventListener("focusin", ({ target }) => this.#rove(target));
    this.#grid.onclick = ({ target }) => this.#take(target.closest("button"));
    this.#element.onkeydown = (event) => this.#keyed(event);
    this.#element.addEventListener("beforetoggle", ({ newState }) => newState === "closed" && this.#close(null));
  }

  // Opens at a button, which gets the focus back. Resolves with an emoji, or null if the reader closes the picker.
  async pick(button) {
    if (button === this.#button && performance.now() - this.#closedAt < CLICK_MS) return null;
    if (!this.#style.isConnected) await this.#load();
    this.#button = button;
    this.#field.value = "";
    this.#fill();
    this.#element.hidePopover();
    this.#element.showPopover();
    this.#place();
    // On a touch screen the keyboard would cover half of the page, so the field does not get the focus.
    const first = matchMedia("(pointer: coarse)").matches && this.#grid.querySelector("button");
    (first || this.#field).focus();
    return new Promise((resolve) => (this.#resolve = resolve));
  }

  #load() {
    return new Promise((done) => {
      this.#style.onload = this.#style.onerror = done;
      document.head.append(this.#style);
      document.body.append(this.#element);
    });
  }

  get #recent() {
    return this.#storage.get("emoji").split(" ").filter((emoji) => usual.has(emoji));
  }

  #fill() {
    const wanted = this.#field.value.trim().replace(/^:|:$/g, "").replace(/\s+/g, "_");
    const names = t("emojiGroups").split(",");
    const recent = { emoji: this.#recent.map((emoji) => usual.get(emoji)) };
    const all = wanted ? [{ emoji: find(wanted, FOUND_COUNT) }] : [recent, ...groups];
    const sections = all.map(({ emoji }, index) => sectionOf(wanted ? t("emoji") : names[index], emoji));
    this.#grid.replaceChildren(...sections.filter((section) => section.firstElementChild));
    this.#grid.scrollTop = 0;
    this.#status.textContent = this.#grid.firstElementChild ? "" : t("nothingFound");
    this.#rove(this.#grid.querySelector("button"));
  }

  // Places the picker above its button if there is room, and centred on the button as far as possible.
  #place() {
    const { top, bottom, left, right } = this.#button.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.#element;
    const x = Math.max(GAP_PX, Math.min((left + right - width) / 2, innerWidth - width - GAP_PX));
    const above = top - height - GAP_PX;
    const below = Math.max(GAP_PX, Math.min(bottom + GAP_PX, innerHeight - height - GAP_PX));
    this.#element.style.translate = `${x}px ${above >= GAP_PX ? above : below}px`;
  }

  #take(cell) {
    if (!cell) return;
    const emoji = cell.textContent;
    const recent = this.#recent.filter((each) => each !== emoji);
    this.#storage.set("emoji", [emoji, ...recent].slice(0, RECENT_COUNT).join(" "));
    this.#close(emoji);
    this.#element.hidePopover();
  }

  #close(emoji) {
    if (!emoji && this.#resolve) this.#closedAt = performance.now();
    this.#resolve?.(emoji);
    this.#resolve = null;
  }

  #rove(cell) {
    for (const each of this.#grid.querySelectorAll("button")) each.tabIndex = each === cell ? 0 : -1;
  }

  // The browser handles Escape.
  #keyed(event) {
    event.stopPropagation();
    const { key, target, altKey, ctrlKey, metaKey, isComposing } = event;
    if (altKey || ctrlKey || metaKey || isComposing) return;
    const inField = target === this.#field;
    const first = this.#grid.querySelector("button");
    const next = inField ? key === "ArrowDown" && first : this.#nextOf(target, key);
    if (next) next.focus();
    else if (inField && key === "Enter") this.#take(first);
    // A letter goes to the search field.
    else if (!inField && /^[^ ]$/u.test(key)) return this.#field.focus();
    else return undefined;
    return event.preventDefault();
  }

  #nextOf(cell, key) {
    const cells = [...this.#grid.querySelectorAll("button")];
    const rows = [...this.#grid.querySelectorAll("[role=row]")];
    const row = cell.parentElement;
    const column = [...row.children].indexOf(cell);
    const ahead = key === (document.dir === "rtl" ? "ArrowLeft" : "ArrowRight") ? 1 : -1;
    const down = { ArrowUp: -1, ArrowDown: 1 }[key];
    if (down) return inRow(rows[rows.indexOf(row) + down], column) ?? (down < 0 && this.#field);
    if (/^Arrow/.test(key)) return cells[cells.indexOf(cell) + ahead];
    return { Home: row.firstElementChild, End: row.lastElementChild }[key];
  }
}

const inRow = (row, column) => row && (row.children[column] ?? row.lastElementChild);

function sectionOf(name, emoji) {
  const section = make("div", { role: "rowgroup", "aria-label": name });
  for (let at = 0; at < emoji.length; at += COLUMN_COUNT) {
    section.append(make("div", { role: "row" }, emoji.slice(at, at + COLUMN_COUNT).map(cellOf)));
  }
  return section;
}

function cellOf({ name, emoji }) {
  const label = name.replaceAll("_", " ");
  return make("button", { role: "gridcell", "aria-label": label, title: label }, [emoji]);
}
