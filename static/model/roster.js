import { locale } from "../text/translation.js";

// Guest 2 comes before Guest 10.
const inOrder = new Intl.Collator(locale, { numeric: true }).compare;

// Who is in the room. The names may be fewer than the number: in a big room the server does not tell them all.
export class Roster {
  #names = new Set();

  self = "";
  online = 0;

  // Yourself first, then by the reader's alphabet.
  get names() {
    const others = [...this.#names].filter((name) => name !== this.self);
    others.sort(inOrder);
    return this.self ? [this.self, ...others] : others;
  }

  accept({ username, users, online }) {
    this.self = username;
    this.#names = new Set(users);
    this.online = online;
  }

  // Takes a `join`, a `leave` or a `presence` event.
  update({ type, username, online }) {
    if (type === "join") this.#names.add(username);
    if (type === "leave") this.#names.delete(username);
    this.online = online;
  }

  clear() {
    this.accept({ username: "", users: [], online: 0 });
  }
}
