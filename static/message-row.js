import { cloneOf } from "./dom.js";
import { fillPerson } from "./names.js";
import { Reactions } from "./reactions.js";
import { dayOf, fillTime, wholeTime } from "./times.js";

const DELETED = "This message was deleted";

// One message on the page; keeps up with its entry from pending to confirmed, edited, deleted.
export class MessageRow {
  #entry;
  #revision = -1;
  #self;
  #reactions;

  element = cloneOf("message-template");
  author;
  day;
  sentAt;

  constructor(entry) {
    this.#entry = entry;
    this.#reactions = new Reactions(this.element.querySelector(".reactions"));
    this.author = entry.username;
    fillPerson(this.element, entry.username);
    if (entry.id) this.element.dataset.id = entry.id;
  }

  // `self` is the reader's name.
  update(self) {
    if (this.#revision === this.#entry.revision && this.#self === self) return;
    this.#revision = this.#entry.revision;
    this.#self = self;
    this.#fillText();
    this.#fillState();
    this.#fillTime();
    this.#reactions.show(this.#entry.reactions ?? new Map(), self);
  }

  // How it stands among its neighbours: grouped with the one before, or the first of its day.
  place({ continued, day }) {
    this.#mark("continued", continued);
    if (day) this.element.dataset.day = day;
    else delete this.element.dataset.day;
  }

  #fillText() {
    const { text, own, deleted, edited } = this.#entry;
    this.element.querySelector(".message__text").textContent = deleted ? DELETED : text;
    this.#mark("own", own);
    this.#mark("deleted", deleted);
    const note = this.element.querySelector(".message__edited");
    note.hidden = !edited;
    if (edited) note.title = wholeTime(new Date(edited));
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
