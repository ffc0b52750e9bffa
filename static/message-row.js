import { cloneOf } from "./dom.js";
import { fillPerson } from "./names.js";
import { dayOf, fillTime } from "./times.js";

// One message on the page; keeps up with its entry from pending to confirmed.
export class MessageRow {
  #entry;
  #revision = -1;

  element = cloneOf("message-template");
  author;
  day;
  sentAt;

  constructor(entry) {
    this.#entry = entry;
    this.author = entry.username;
    fillPerson(this.element, entry.username);
    if (entry.id) this.element.dataset.id = entry.id;
  }

  update() {
    if (this.#revision === this.#entry.revision) return;
    this.#revision = this.#entry.revision;
    this.#fillText();
    this.#fillState();
    this.#fillTime();
  }

  // How it stands among its neighbours: grouped with the one before, or the first of its day.
  place({ continued, day }) {
    this.#mark("continued", continued);
    if (day) this.element.dataset.day = day;
    else delete this.element.dataset.day;
  }

  #fillText() {
    this.element.querySelector(".message__text").textContent = this.#entry.text;
    this.#mark("own", this.#entry.own);
  }

  #fillState() {
    const { state, offset, error } = this.#entry;
    this.#mark("pending", state === "pending");
    this.#mark("failed", state === "failed");
    if (offset) this.element.dataset.offset = offset;
    const note = state === "pending" ? ["Sending…"] : state === "failed" ? [failureOf(error)] : [];
    this.element.querySelector(".message__note").replaceChildren(...note);
  }

  #fillTime() {
    const moment = new Date(this.#entry.timestamp);
    this.sentAt = moment.getTime();
    this.day = dayOf(moment);
    fillTime(this.element.querySelector("time"), moment);
  }

  #mark(state, on) {
    this.element.classList.toggle(`message--${state}`, Boolean(on));
  }
}

function failureOf({ message, temporary }) {
  const failure = cloneOf("failure-template");
  failure.querySelector("span").textContent = message;
  failure.querySelector("[data-action=retry]").hidden = !temporary;
  return failure;
}
