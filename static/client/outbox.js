// The messages that are on their way, kept for the case that this page does not live to see them arrive.
//
// All tabs share them, and any tab sends what it finds: by its `id` the server takes a message once. Each has a key of
// its own, so that no tab overwrites another's.

const PREFIX = "outbox.";
// A browser gives a site 5 MB; a message may take 16 kB.
const LIMIT = 100;

export class Outbox {
  #storage;

  constructor(storage) {
    this.#storage = storage;
  }

  // What waits for a room, in the order of writing.
  of(room) {
    const drafts = this.#storage.keys(PREFIX).map((key) => this.#read(key));
    return drafts.filter((draft) => draft?.room === room).sort((a, b) => a.at - b.at);
  }

  has(id) {
    return Boolean(this.#storage.get(PREFIX + id));
  }

  // Returns whether it is kept.
  put({ id, room, username, text, timestamp, at, sentAt }) {
    if (!this.has(id) && this.#storage.keys(PREFIX).length >= LIMIT) return false;
    this.#storage.set(PREFIX + id, JSON.stringify({ id, room, username, text, timestamp, at, sentAt }));
    return this.has(id);
  }

  remove(id) {
    this.#storage.set(PREFIX + id, "");
  }

  // Forgets what somebody wrote.
  forget(username) {
    for (const key of this.#storage.keys(PREFIX)) {
      if (this.#read(key)?.username === username) this.#storage.set(key, "");
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
