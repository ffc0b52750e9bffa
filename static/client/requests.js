import { t } from "../text/translation.js";

// What was asked of the server and is not answered yet. Every answer comes in the end, if only as an error.

const TIMEOUT_MS = 10_000;
const LOST = { type: "error", temporary: true, message: t("lostOnTheWay") };

export class Requests {
  #waiting = new Map();

  // Resolves with the event that answers `command`, by its `ref`; or, for a change, with its publication.
  add(command) {
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#resolve(command.ref, LOST), TIMEOUT_MS);
      this.#waiting.set(command.ref, { command, resolve, timer });
    });
  }

  // Whether the event was an answer.
  settle(event) {
    return this.#resolve(event.ref, event);
  }

  // A change is answered by being published.
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
