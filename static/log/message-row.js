import { cloneOf } from "../dom.js";
import { isEmojiOnly, mentions, nodesOf } from "../text/markup.js";
import { fillPerson } from "../text/avatar.js";
import { Reactions } from "./reactions.js";
import { t } from "../text/translation.js";
import { dayOf, fillTime, wholeTime } from "../text/times.js";

// The row of a message. It follows its entry from pending to confirmed, edited or deleted.
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

  update(room) {
    const { self } = room.roster;
    if (this.#revision === this.#entry.revision && this.#self === self) return;
    this.#revision = this.#entry.revision;
    this.#self = self;
    this.#fillText(room);
    this.#fillState();
    this.#fillTime();
    this.#reactions.show(this.#entry.reactions ?? new Map(), self);
  }

  // Shows what depends on the neighbours: whether the message continues a group, is the first of a day, or is the first
  // new one.
  place({ continued, day, isFresh }) {
    this.#mark("continued", continued);
    this.#tell("day", day);
    this.#tell("fresh", isFresh ? t("newLine") : "");
  }

  #tell(what, text) {
    if (text) this.element.dataset[what] = text;
    else delete this.element.dataset[what];
  }

  #fillText({ roster }) {
    const { text, own, deleted, edited } = this.#entry;
    const nodes = deleted ? [t("deleted")] : nodesOf(text, roster);
    this.element.querySelector(".message__text").replaceChildren(...nodes);
    this.#mark("own", own);
    this.#mark("deleted", deleted);
    this.#mark("emoji", !deleted && isEmojiOnly(text));
    this.#mark("mentioned", !own && !deleted && mentions(text, roster));
    const note = this.element.querySelector(".message__edited");
    note.hidden = !edited;
    if (edited) note.title = wholeTime(new Date(edited));
  }

  #fillState() {
    const { state, offset, error, editing } = this.#entry;
    this.#mark("editing", editing);
    this.#mark("pending", state === "pending");
    this.#mark("failed", state === "failed");
    if (offset) this.element.dataset.offset = offset;
    const note = state === "pending" ? [t("sending")] : state === "failed" ? [failureOf(error)] : [];
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
