import { make, writeInto } from "../dom.js";
import { fillPerson } from "../text/avatar.js";
import { folded } from "../text/folding.js";
import { t } from "../text/translation.js";

const OPTION_COUNT = 30;
// What is being written before the cursor: `:na` of an emoji, `#r` of a room, `@na me` of a person; never in a word.
const BEGUN = /(?<![\p{L}\p{N}\p{M}/])(?:(?<emoji>:)[\w+-]{2,}|(?<room>#)[a-z\d._-]+|@[^@:#\n]{0,32})$/u;
// An emoji's name in full.
const SPELT = /(?<![\p{L}\p{N}\p{M}:]):([\w+-]+):$/u;

// Suggests emoji, rooms and people while a text is written: in a list above the field, which keeps the focus. The list
// takes no more than the keys it needs: where nothing is chosen, Enter and Tab are not among them.
export class Completion {
  #field;
  #on;
  // A text field of several lines is no combobox, so that it cannot be expanded; the chosen option is what is read out.
  #list = make("ul", { id: "suggestions", class: "suggestions", role: "listbox", "aria-label": t("suggestions"), hidden: "" });
  // The module, once somebody has asked for one.
  #emoji = null;
  // What is suggested (`{ text, exact, nodes, name }`), for what is written from where.
  #options = [];
  #typed = "";
  #start = -1;
  #chosen = -1;
  // Where what is begun there is no more to be completed: it has been, or the reader does not want it.
  #done = -1;

  // `on` has `people` and `rooms`, which return names, the likely ones first.
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
    // The field keeps the focus, and a phone its keyboard.
    this.#list.addEventListener("pointerdown", (event) => event.preventDefault());
    this.#list.addEventListener("click", ({ target }) => this.#take([...this.#list.children].indexOf(target.closest("li"))));
  }

  // Whether the list has taken a key.
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
    // A finger's keyboard composes each word, plain letters too.
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

  // Those that begin so, then those with a word that does.
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

  // Where they do not come, there are none to suggest.
  async #fetchEmoji() {
    this.#emoji ??= await import("./emoji.js").catch(() => null);
  }

  // One that is written in full needs no help.
  #show(found) {
    this.#options = found.length === 1 && found[0].exact ? [] : found.slice(0, OPTION_COUNT);
    this.#list.replaceChildren(...this.#options.map(elementOf));
    this.#list.hidden = !this.#options.length;
    // A name in full, or a text that goes on, may be meant as it is.
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
