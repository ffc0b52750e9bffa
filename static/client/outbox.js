// The messages that are not confirmed yet, stored in the browser in case the page is closed before they are.
//
// All tabs share the outbox, and each tab sends what it finds there. That is safe because the server stores a message
// with the same `id` once. Each message has a storage key of its own, so that tabs do not overwrite each other's
// messages.
//
// A message belongs to the person with its `user`. If the page had not joined a room yet, `user` is "", and earlier
// versions of the page stored none: then the name says whose it is.

const PREFIX = "outbox.";
// Browsers give a site 5 MB of local storage; a message can take 16 kB.
const LIMIT = 100;

export class Outbox {
  #storage;

  constructor(storage) {
    this.#storage = storage;
  }

  // The drafts for a room, in the order of writing.
  of(room) {
    const drafts = this.#storage.keys(PREFIX).map((key) => this.#read(key));
    return drafts.filter((draft) => draft?.room === room).sort((a, b) => a.at - b.at);
  }

  has(id) {
    return Boolean(this.#storage.get(PREFIX + id));
  }

  // Returns whether the message is stored: not if the outbox is full.
  put({ id, room, user, username, text, timestamp, at, sentAt }) {
    if (!this.has(id) && this.#storage.keys(PREFIX).length >= LIMIT) return false;
    this.#storage.set(PREFIX + id, JSON.stringify({ id, room, user, username, text, timestamp, at, sentAt }));
    return this.has(id);
  }

  remove(id) {
    this.#storage.set(PREFIX + id, "");
  }

  // Removes all messages by one person.
  forget(person) {
    for (const key of this.#storage.keys(PREFIX)) {
      const draft = this.#read(key);
      if (draft && isSame(draft, person)) this.#storage.set(key, "");
    }
  }

  #read(key) {
    try {
      return JSON.parse(this.#storage.get(key));
    } catch {
      return null;
    }
  }
}

// Whether two `{ user, username }` are one person. Without both ids, the names decide.
export function isSame(one, other) {
  return one.user && other.user ? one.user === other.user : one.username === other.username;
}
