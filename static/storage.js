const PREFIX = "fastchat.";

// What this browser remembers, or this tab. Where that is forbidden, it lasts as long as the page.
export class Storage {
  #area;
  #fallback = new Map();

  // `area` is the name of the window's: localStorage or sessionStorage. To look at it may be an error already.
  constructor(area = "localStorage") {
    this.#area = area;
  }

  get(key) {
    try {
      return window[this.#area].getItem(PREFIX + key) ?? "";
    } catch {
      return this.#fallback.get(key) ?? "";
    }
  }

  // Nothing is remembered as no key at all.
  set(key, value) {
    this.#fallback.set(key, value);
    try {
      if (value) window[this.#area].setItem(PREFIX + key, value);
      else window[this.#area].removeItem(PREFIX + key);
    } catch {
      // Forbidden or full.
    }
  }

  // The keys that begin like this.
  keys(start) {
    try {
      const names = Object.keys(window[this.#area]).filter((name) => name.startsWith(PREFIX + start));
      return names.map((name) => name.slice(PREFIX.length));
    } catch {
      return [...this.#fallback.keys()].filter((key) => key.startsWith(start) && this.#fallback.get(key));
    }
  }
}
