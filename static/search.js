import { byId, cloneOf } from "./dom.js";
import { piecesOf, queryOf } from "./highlight.js";
import { hueOf } from "./names.js";
import { fillMoment } from "./times.js";

const RESULTS_COUNT = 50;
// A pause in the typing: each letter need not be a search.
const PAUSE_MS = 250;

// Finds messages: a panel beside the log where there is room for one, else a drawer.
export class Search {
  #panel = byId("search");
  #toggle = byId("search-toggle");
  #field = byId("search-field");
  #status = byId("search-status");
  #results = byId("results");
  #beside = matchMedia("(min-width: 60.01rem)");
  #on;
  #timer;
  #shown = "";
  #before = null;

  // `on` has a function each for: ask (resolves with the answer to a command), reveal (shows an offset's message).
  constructor(on) {
    this.#on = on;
    this.#toggle.addEventListener("click", () => (this.#isOpen ? this.close() : this.open()));
    byId("search-close").addEventListener("click", () => this.close());
    byId("scrim").addEventListener("click", () => this.close());
    byId("search-form").addEventListener("submit", (event) => this.#submitted(event));
    this.#field.addEventListener("input", () => this.#typed());
    this.#results.addEventListener("click", ({ target }) => this.#chosen(target.closest("[data-offset]")));
    this.#panel.addEventListener("keydown", (event) => this.#keyed(event));
    document.addEventListener("keydown", (event) => this.#pressed(event));
    this.#beside.addEventListener("change", () => this.close());
  }

  open() {
    if (!this.#isOpen) this.#before = document.activeElement;
    this.#slide(true);
    this.#field.select();
    this.#field.focus();
  }

  close() {
    if (!this.#isOpen) return;
    const hadFocus = this.#panel.contains(document.activeElement);
    this.#slide(false);
    if (hadFocus) this.#before?.focus();
  }

  // Another room: what was found is not there.
  clear() {
    this.close();
    this.#field.value = "";
    this.#forget();
  }

  get #isOpen() {
    return this.#panel.classList.contains("panel--open");
  }

  #slide(open) {
    this.#panel.classList.toggle("panel--open", open);
    this.#toggle.ariaExpanded = String(open);
    byId("chat").inert = open && !this.#beside.matches;
  }

  // Anywhere on the page; a slash only where it is not being written.
  #pressed(event) {
    const command = (event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k";
    const slash = event.key === "/" && !event.target.closest("input, textarea");
    const busy = document.querySelector("dialog[open], .panel--open:not(.panel--search)");
    if ((!command && !slash) || busy || !byId("bad-room").hidden) return;
    event.preventDefault();
    this.open();
  }

  #keyed(event) {
    if (event.key === "Escape") {
      event.preventDefault();
      this.close();
    }
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const stops = [this.#field, ...this.#results.querySelectorAll("button")];
    stops[stops.indexOf(document.activeElement) + step]?.focus();
  }

  #submitted(event) {
    event.preventDefault();
    if (this.#shown && this.#shown === queryOf(this.#field.value)) this.#chosen(this.#results.querySelector("button"));
    else this.#search();
  }

  #typed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#search(), PAUSE_MS);
  }

  async #search() {
    clearTimeout(this.#timer);
    const query = queryOf(this.#field.value);
    if (!query) return this.#forget();
    const answer = await this.#on.ask({ type: "search", query, limit: RESULTS_COUNT });
    // Only the last one asked for counts.
    if (query !== queryOf(this.#field.value)) return undefined;
    if (answer.type === "error") return this.#say(answer.message);
    this.#show(query, answer.messages);
    const count = answer.messages.length;
    return this.#say(["Nothing found.", "1 message"][count] ?? `${count} messages`);
  }

  #forget() {
    this.#show("", []);
    this.#say("");
  }

  #say(sentence) {
    this.#status.textContent = sentence;
  }

  #show(query, messages) {
    this.#shown = query;
    this.#results.replaceChildren(...messages.map((message) => resultOf(message, query)));
    this.#results.scrollTop = 0;
  }

  #chosen(button) {
    if (!button) return;
    if (!this.#beside.matches) this.close();
    this.#on.reveal(Number(button.dataset.offset));
  }
}

function resultOf({ offset, username, text, timestamp }, query) {
  const result = cloneOf("result-template");
  const button = result.firstElementChild;
  button.dataset.offset = offset;
  button.style.setProperty("--hue", hueOf(username));
  result.querySelector("bdi").textContent = username;
  fillMoment(result.querySelector("time"), new Date(timestamp));
  const pieces = piecesOf(text, query);
  result.querySelector(".result__text").append(...pieces.map((piece) => (piece.hit ? marked(piece.text) : piece.text)));
  return result;
}

function marked(text) {
  const mark = document.createElement("mark");
  mark.textContent = text;
  return mark;
}
