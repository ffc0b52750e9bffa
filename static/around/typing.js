import { byId, named } from "../dom.js";
import { partsOf, t } from "../text/translation.js";
import { listed } from "../text/times.js";

// How long a typing event counts (docs/protocol.md).
const VALID_MS = 5_000;
const NAMES_LIMIT = 3;

// The line that says who is typing.
export class Typing {
  // The people who are typing, by their ids, as `{ username, timer }`.
  #people = new Map();

  add({ user, username }) {
    clearTimeout(this.#people.get(user)?.timer);
    this.#people.set(user, { username, timer: setTimeout(() => this.remove(user), VALID_MS) });
    this.#show();
  }

  remove(user) {
    clearTimeout(this.#people.get(user)?.timer);
    if (this.#people.delete(user)) this.#show();
  }

  clear() {
    for (const user of this.#people.keys()) this.remove(user);
  }

  #show() {
    const names = [...this.#people.values()].map(({ username }) => username);
    const shown = names.slice(0, NAMES_LIMIT).map(named);
    if (names.length > NAMES_LIMIT) shown.push(t("others"));
    const sentence = names.length ? partsOf("typing", { count: names.length, names: listed(shown) }) : [];
    byId("typing").replaceChildren(...sentence.flat());
  }
}
