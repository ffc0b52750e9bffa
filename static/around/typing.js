import { byId, named } from "../dom.js";
import { partsOf, t } from "../text/translation.js";
import { listed } from "../text/times.js";

// How long a typing event counts (docs/protocol.md).
const VALID_MS = 5_000;
const NAMES_LIMIT = 3;

// The line that says who is typing.
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
    const shown = names.slice(0, NAMES_LIMIT).map(named);
    if (names.length > NAMES_LIMIT) shown.push(t("others"));
    const sentence = names.length ? partsOf("typing", { count: names.length, names: listed(shown) }) : [];
    byId("typing").replaceChildren(...sentence.flat());
  }
}
