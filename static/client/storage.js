const PREFIX = "fastchat.";

// What this browser remembers, or this tab. Where that is forbidden, it lasts as long as the page.
export class Storage {
  #area = {};

  // `area` is the name of the window's: localStorage or sessionStorage. To look at it may be an error already.
  constructor(area = "localStorage") {
    try {
      this.#area = window[area] ?? this.#area;
    } catch {
      // Forbidden.
    }
  }

  get(key) {
    return this.#area[PREFIX + key] ?? "";
  }

  // Nothing is remembered as no key at all.
  set(key, value) {
    try {
      if (value) this.#area[PREFIX + key] = value;
      else delete this.#area[PREFIX + key];
    } catch {
      // Full.
    }
  }

  // Tells the rest of each key that begins like this and is changed by another tab.
  watch(start, tell) {
    const whole = PREFIX + start;
    addEventListener("storage", ({ key }) => key?.startsWith(whole) && tell(key.slice(whole.length)));
  }

  // The keys that begin like this.
  keys(start) {
    const found = Object.keys(this.#area).filter((key) => key.startsWith(PREFIX + start));
    return found.map((key) => key.slice(PREFIX.length));
  }
}
