import { byId } from "../dom.js";

const SHOWN_MS = 6_000;

// Shows a sentence to the reader for a while.
export class Toast {
  #element = byId("toast");
  #timer;

  say(sentence) {
    this.#element.textContent = sentence;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.#element.textContent = ""), SHOWN_MS);
  }
}
