import { byId, cloneOf, make } from "../dom.js";
import { piecesOf, queryOf } from "../text/highlight.js";
import { plainOf } from "../text/markup.js";
import { hueOf } from "../text/avatar.js";
import { t } from "../text/translation.js";
import { fillMoment } from "../text/times.js";

const RESULTS_COUNT = 100;
// The page searches after a pause in the typing, not after each letter.
const PAUSE_MS = 250;

// Searches the room that is shown. The results are in a panel (`Drawer`).
export class Search {
  #drawer;
  #field = byId("search-field");
  #status = byId("search-status");
  #results = byId("results");
  #on;
  #timer;
  #shown = "";

  // `on` has a function each for: ask (resolves with the answer to a command), reveal (shows the message with an
  // offset).
  constructor(drawer, on) {
    this.#drawer = drawer;
    this.#on = on;
    byId("search-form").onsubmit = (event) => this.#submitted(event);
    this.#field.oninput = () => this.#typed();
    this.#results.onclick = ({ target }) => this.#chosen(target.closest("[data-offset]"));
    byId("search").onkeydown = (event) => this.#keyed(event);
    this.#typed();
  }

  // Another room is shown, so the results are removed.
  clear() {
    this.#field.value = "";
    this.#forget();
  }

  #keyed(event) {
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
    // The query has changed since, so another answer follows.
    if (query !== queryOf(this.#field.value)) return undefined;
    if (answer.type === "error") return this.#say(answer.message);
    this.#show(query, answer.messages);
    const count = answer.messages.length;
    const sentence = count < RESULTS_COUNT ? "hits" : "newestHits";
    return this.#say(count ? t(sentence, { count }) : t("nothingFound"));
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
    if (!this.#drawer.isBeside) this.#drawer.close();
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
  const pieces = piecesOf(plainOf(text), query).map((piece, index) => (index % 2 ? make("mark", {}, [piece]) : piece));
  result.querySelector(".result__text").append(...pieces);
  return result;
}
