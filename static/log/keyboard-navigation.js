import { byId } from "../dom.js";

const STEPS = { ArrowUp: -1, ArrowDown: 1 };

// The arrow keys move the focus from message to message; Escape returns to the composer.
export class KeyboardNavigation {
  #log = byId("log");
  #leave;

  constructor(leave) {
    this.#leave = leave;
    this.#log.addEventListener("keydown", (event) => this.#keyed(event));
  }

  #keyed(event) {
    if (event.key === "Escape") this.#leave();
    const step = STEPS[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const row = this.#from(event.target.closest(".message"), step);
    row?.focus({ preventScroll: true });
    row?.scrollIntoView({ block: "nearest" });
  }

  // From the log itself, the first step leads to the last visible message.
  #from(current, step) {
    const rows = [...this.#log.querySelectorAll(".message[data-offset]")];
    if (current) return rows[rows.indexOf(current) + step];
    const end = this.#log.getBoundingClientRect().bottom;
    return rows.findLast((row) => row.getBoundingClientRect().top < end);
  }
}
