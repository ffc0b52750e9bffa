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
  // What the row depends on besides its entry: the reader's name and id, and whether they can write.
  #reader = [];
  #reactions;

  element = cloneOf("message-template");
  day;
  sentAt;

  constructor(entry) {
    this.#entry = entry;
    this.#reactions = new Reactions(this.element.querySelector(".reactions"));
    if (entry.id) this.element.dataset.id = entry.id;
  }

  // The person and the name that the message is by. The name can change when the message is confirmed.
  get author() {
    const { own, user, username } = this.#entry;
    return `${own ? "" : user}\n${username}`;
  }

  update(room) {
    const { roster, writes } = room;
    const reader = [roster.self, roster.user, writes];
    const isSame = reader.every((value, index) => value === this.#reader[index]);
    if (this.#revision === this.#entry.revision && isSame) return;
    this.#revision = this.#entry.revision;
    this.#reader = reader;
    fillPerson(this.element, this.#entry.username);
    this.#fillText(room);
    this.#fillState();
    this.#fillTime();
    this.#reactions.show(this.#entry, roster.user, writes);
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

  #fillText(room) {
    const { text, own, deleted, edited } = this.#entry;
    const nodes = deleted ? [t("deleted")] : nodesOf(text, room);
    this.element.querySelector(".message__text").replaceChildren(...nodes);
    this.#mark("own", own);
    this.#mark("deleted", deleted);
    this.#mark("emoji", !deleted && isEmojiOnly(text));
    this.#mark("mentioned", !own && !deleted && mentions(text, room));
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
