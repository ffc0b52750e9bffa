const PREFIX = "fastchat.";

// Key-value storage in the browser or the tab. If the browser forbids it, values last as long as the page.
export class Storage {
  #area = {};

  // `area` is localStorage or sessionStorage. Even reading that property throws if storage is forbidden.
  constructor(area = "localStorage") {
    try {
      this.#area = window[area] ?? this.#area;
    } catch {
      // Storage is forbidden: an object takes its place.
    }
  }

  get(key) {
    return this.#area[PREFIX + key] ?? "";
  }

  // An empty value removes the key. If the storage is full, the old value stays.
  set(key, value) {
    try {
      if (value) this.#area[PREFIX + key] = value;
      else delete this.#area[PREFIX + key];
    } catch {
      // The storage is full.
    }
  }

  // Calls `tell` with the rest of each key that begins with `start` and is changed by another tab.
  watch(start, tell) {
    const whole = PREFIX + start;
    addEventListener("storage", ({ key }) => key?.startsWith(whole) && tell(key.slice(whole.length)));
  }

  // Returns the keys that begin with `start`.
  keys(start) {
    const found = Object.keys(this.#area).filter((key) => key.startsWith(PREFIX + start));
    return found.map((key) => key.slice(PREFIX.length));
  }
}
