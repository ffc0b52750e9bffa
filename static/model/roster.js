import { locale } from "../text/translation.js";

// Guest 2 comes before Guest 10.
const inOrder = new Intl.Collator(locale, { numeric: true }).compare;

// The people in a room. In a big room the server does not list all names, so `online` can be more than there are names.
export class Roster {
  #names = new Set();

  self = "";
  online = 0;

  // The reader first, then the others in the alphabetical order of the reader's language.
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
