import { locale } from "../text/translation.js";

// Guest 2 comes before Guest 10.
const inOrder = new Intl.Collator(locale, { numeric: true }).compare;

// The people in a room. A crowded room has no list of them, only their number, `online`.
export class Roster {
  // The people's ids by their names, which are unique in a room. One person can have several names, in several tabs.
  #ids = new Map();

  // The reader's id, which every publication of theirs has, and their name here; "" if they are unknown.
  user = "";
  self = "";
  online = 0;
  isCrowd = false;

  // The people as `{ user, username }`: the reader first, then the others in the alphabetical order of the reader's
  // language. In a crowd only the reader is known.
  get people() {
    const others = [...this.#ids].map(([username, user]) => ({ user, username }));
    const listed = others.filter(({ username }) => username !== this.self);
    listed.sort((a, b) => inOrder(a.username, b.username));
    return this.self ? [{ user: this.user, username: this.self }, ...listed] : listed;
  }

  get names() {
    return this.people.map(({ username }) => username);
  }

  // Takes the state of a room, as the client has it. `users` is null in a crowd. A reader without a name is in no list.
  accept({ user, username, users, online }) {
    this.user = user;
    this.self = username ?? "";
    this.isCrowd = users === null;
    this.#ids = new Map(users?.map((person) => [person.username, person.user]));
    this.online = online;
  }

  clear() {
    this.accept({ user: "", username: "", users: [], online: 0 });
  }
}
