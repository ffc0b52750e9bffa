import { make, writeInto } from "../dom.js";
import { fillPerson } from "../text/avatar.js";
import { folded, UNSPACED } from "../text/folding.js";
import { t } from "../text/translation.js";

const OPTION_COUNT = 30;
// The beginning of a name before the cursor: `:na` of an emoji, `#r` of a room, `@na me` of a person; never within a
// word, but next to a letter of a script without spaces.
const WORD_START = `(?<!(?!${UNSPACED})[\\p{L}\\p{N}\\p{M}/])`;
const BEGUN = new RegExp(
  `${WORD_START}(?:(?<emoji>:)[\\w+-]{2,}|(?<room>[#＃])[\\p{L}\\p{M}\\p{Nd}._-]+|[@＠][^@＠:#＃\\n]{0,32})$`,
  "u",
);
// The complete name of an emoji, as `:tada:`.
const SPELT = new RegExp(`(?<!:)${WORD_START}:([\\w+-]+):$`, "u");

// Suggests emoji, rooms and people while a message is written. The list is above the field, which keeps the focus.
// Enter and Tab belong to the list only while a suggestion is selected.
export class Completion {
  #field;
  #on;
  // A text field of several lines cannot have the role `combobox`, so it has no `aria-expanded`. Screen readers read
  // out the selected option.
  #list = make("ul", {
    id: "suggestions",
    class: "suggestions",
    role: "listbox",
    "aria-label": t("suggestions"),
    hidden: "",
  });
  // The module, once it has been loaded.
  #emoji = null;
  // The suggestions (`{ text, exact, nodes, name }`), the letters that they complete, and where these letters begin.
  #options = [];
  #typed = "";
  #start = -1;
  #chosen = -1;
  // The start of a name for which no more suggestions are shown: it has been completed, or the reader pressed Escape.
  // -1 if there is none.
  #done = -1;

  // `on` has `people` and `rooms`, which return names, the most likely ones first.
  constructor(field, on) {
    this.#field = field;
    this.#on = on;
    field.form.prepend(this.#list);
    field.ariaAutoComplete = "list";
    field.ariaHasPopup = "listbox";
    field.setAttribute("aria-controls", "suggestions");
    field.addEventListener("input", (event) => this.#changed(event));
    field.addEventListener("compositionstart", () => this.close());
    field.addEventListener("compositionend", () => this.#update());
    field.addEventListener("blur", () => this.close());
    document.addEventListener("selectionchange", () => this.#options.length && this.#update());
    // A tap on the list must not take the focus from the field, nor close a phone's keyboard.
    this.#list.addEventListener("pointerdown", (event) => event.preventDefault());
    this.#list.addEventListener("click", ({ target }) => {
      this.#take([...this.#list.children].indexOf(target.closest("li")));
    });
  }

  // Handles a key. Returns whether the list has used it.
  keyed(event) {
    const { key, shiftKey, ctrlKey, altKey, metaKey } = event;
    if (!this.#options.length || shiftKey || ctrlKey || altKey || metaKey) return false;
    if (key === "ArrowDown") this.#move(1);
    else if (key === "ArrowUp") this.#move(-1);
    else if (key === "Escape") this.#finish();
    else if ((key === "Enter" || key === "Tab") && this.#chosen >= 0) this.#take(this.#chosen);
    else return false;
    event.preventDefault();
    event.stopPropagation();
    return true;
  }

  close() {
    this.#show([]);
  }

  #changed({ inputType = "", isComposing }) {
    if (inputType.startsWith("delete")) this.#done = -1;
    // On-screen keyboards compose every word, plain letters as well.
    if (isComposing && !matchMedia("(pointer: coarse)").matches) return;
    this.#update();
    if (inputType.startsWith("insert")) this.#replaceSpelt();
  }

  #update() {
    const { 0: whole, index: start, groups } = BEGUN.exec(this.#before) ?? {};
    if (start !== this.#done) this.#done = -1;
    if (!whole || start === this.#done) return this.close();
    const typed = whole.slice(1);
    if (this.#options.length && this.#start === start && this.#typed === typed) return undefined;
    this.#start = start;
    this.#typed = typed;
    return this.#show(groups.emoji ? this.#emojiFor(typed) : this.#namesFor(typed, groups.room));
  }

  // The text before the cursor.
  get #before() {
    const { value, selectionStart, selectionEnd } = this.#field;
    return selectionStart === selectionEnd ? value.slice(0, selectionStart) : "";
  }

  // Names that begin with the letters, then names with a later word that does.
  #namesFor(typed, isRoom) {
    const wanted = folded(typed);
    const names = isRoom ? this.#on.rooms() : this.#on.people();
    const begin = names.filter((name) => folded(name).startsWith(wanted));
    const hold = names.filter((name) => folded(name).includes(` ${wanted}`));
    const optionOf = isRoom ? roomOption : personOption;
    return [...new Set([...begin, ...hold])].map((name) => ({ ...optionOf(name), exact: folded(name) === wanted }));
  }

  #emojiFor(typed) {
    if (!this.#emoji) this.#fetchEmoji().then(() => this.#emoji && this.#update());
    return this.#emoji?.find(typed).map(emojiOption) ?? [];
  }

  // If the module cannot be loaded, no emoji are suggested.
  async #fetchEmoji() {
    this.#emoji ??= await import("./emoji.js").catch(() => null);
  }

  // A single suggestion that is already written in full is not shown.
  #show(found) {
    this.#options = found.length === 1 && found[0].exact ? [] : found.slice(0, OPTION_COUNT);
    this.#list.replaceChildren(...this.#options.map(elementOf));
    this.#list.hidden = !this.#options.length;
    // If a name is complete or the text goes on, nothing is selected: what was written may be meant as it is.
    this.#choose(this.#list.hidden || found[0].exact || this.#typed.includes(" ") ? -1 : 0);
  }

  #move(step) {
    const { length } = this.#options;
    this.#choose((Math.max(this.#chosen, step < 0 ? 0 : -1) + step + length) % length);
  }

  #choose(index) {
    this.#chosen = index;
    for (const [at, option] of [...this.#list.children].entries()) option.ariaSelected = String(at === index);
    const option = this.#list.children[index];
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.#field.setAttribute("aria-activedescendant", option.id);
    else this.#field.removeAttribute("aria-activedescendant");
  }

  #finish() {
    this.#done = this.#start;
    this.close();
  }

  #take(index) {
    const option = this.#options[index];
    this.#finish();
    if (option) this.#replace(this.#start, option.text);
  }

  #replace(start, text) {
    const end = this.#field.selectionEnd;
    writeInto(this.#field, this.#field.value[end] === " " ? text.trimEnd() : text, start, end);
  }

  async #replaceSpelt() {
    const before = this.#before;
    const [whole, name] = SPELT.exec(before) ?? [];
    if (!name) return;
    await this.#fetchEmoji();
    const emoji = this.#emoji?.emojiOf(name);
    if (emoji && this.#before === before) this.#replace(before.length - whole.length, emoji);
  }
}

function roomOption(name) {
  return { text: `#${name} `, nodes: [`#${name}`] };
}

function personOption(name) {
  return { text: `@${name} `, nodes: [make("span", { class: "avatar", "aria-hidden": true }), make("bdi")], name };
}

function emojiOption({ name, emoji }) {
  return { text: emoji, nodes: [make("span", { class: "suggestion__emoji" }, [emoji]), `:${name}:`] };
}

function elementOf({ nodes, name }, index) {
  const element = make("li", { id: `suggestion-${index}`, class: "suggestion person", role: "option" }, nodes);
  if (name) fillPerson(element, name);
  return element;
}
