// What this browser remembers. Where that is forbidden, it lasts as long as the page.
export class Storage {
  #fallback = new Map();

  get(key) {
    try {
      return localStorage.getItem(`fastchat.${key}`) ?? "";
    } catch {
      return this.#fallback.get(key) ?? "";
    }
  }

  set(key, value) {
    this.#fallback.set(key, value);
    try {
      localStorage.setItem(`fastchat.${key}`, value);
    } catch {
      // Forbidden or full.
    }
  }
}
