import { byId } from "./dom.js";

// How long the protocol lets a typing event hold.
const VALID_MS = 5_000;
const NAMES_LIMIT = 3;

const listFormat = new Intl.ListFormat("en-GB");

// The line that tells who is writing.
export class Typing {
  #timers = new Map();

  add(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(name, setTimeout(() => this.remove(name), VALID_MS));
    this.#show();
  }

  remove(name) {
    clearTimeout(this.#timers.get(name));
    if (this.#timers.delete(name)) this.#show();
  }

  clear() {
    for (const name of this.#timers.keys()) this.remove(name);
  }

  #show() {
    const names = [...this.#timers.keys()];
    const shown = names.slice(0, NAMES_LIMIT).map(isolated);
    if (names.length > NAMES_LIMIT) shown.push("others");
    byId("typing").replaceChildren(...listed(shown), ["", " is typing…"][names.length] ?? " are typing…");
  }
}

function isolated(name) {
  const element = document.createElement("bdi");
  element.textContent = name;
  return element;
}

// The words between come from the language, the names stay the elements they are.
function listed(parts) {
  const places = listFormat.formatToParts(parts.map((_, index) => `${index}`));
  return places.map(({ type, value }) => (type === "element" ? parts[value] : value));
}
