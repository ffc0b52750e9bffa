import { t } from "../text/translation.js";

// The commands that wait for their answer. Each gets an answer in the end: after a timeout or a lost connection, an
// error.

// The server answers within 5 s even if its relay is gone; the rest is for a slow network.
const TIMEOUT_MS = 10_000;
const LOST = { type: "error", temporary: true, message: t("lostOnTheWay") };

export class Requests {
  #waiting = new Map();

  // Resolves with the event that answers `command`: one with its `ref`, or, for a change, its publication.
  add(command) {
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#resolve(command.ref, LOST), TIMEOUT_MS);
      this.#waiting.set(command.ref, { command, resolve, timer });
    });
  }

  // Returns whether the event was an answer.
  settle(event) {
    return this.#resolve(event.ref, event);
  }

  // The answer to an edit, a deletion or a reaction is its publication.
  confirm(publication) {
    for (const [ref, { command }] of this.#waiting) {
      const same = command.type === publication.type && command.offset === publication.target;
      if (same && command.room === publication.room) return this.#resolve(ref, publication);
    }
    return false;
  }

  abandon() {
    for (const ref of this.#waiting.keys()) this.#resolve(ref, LOST);
  }

  #resolve(ref, answer) {
    const request = this.#waiting.get(ref);
    if (!request) return false;
    clearTimeout(request.timer);
    this.#waiting.delete(ref);
    request.resolve(answer);
    return true;
  }
}
