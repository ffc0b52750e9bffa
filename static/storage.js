const PREFIX = "fastchat.";

// What this browser remembers. Where that is forbidden, it lasts as long as the page.
export class Storage {
  #fallback = new Map();

  get(key) {
    try {
      return localStorage.getItem(PREFIX + key) ?? "";
    } catch {
      return this.#fallback.get(key) ?? "";
    }
  }

  // Nothing is remembered as no key at all.
  set(key, value) {
    this.#fallback.set(key, value);
    try {
      if (value) localStorage.setItem(PREFIX + key, value);
      else localStorage.removeItem(PREFIX + key);
    } catch {
      // Forbidden or full.
    }
  }

  // The keys that begin like this.
  keys(start) {
    try {
      const names = Object.keys(localStorage).filter((name) => name.startsWith(PREFIX + start));
      return names.map((name) => name.slice(PREFIX.length));
    } catch {
      return [...this.#fallback.keys()].filter((key) => key.startsWith(start) && this.#fallback.get(key));
    }
  }
}
