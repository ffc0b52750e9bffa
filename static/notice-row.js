import { cloneOf } from "./dom.js";

const VERBS = { join: "joined the chat", leave: "left the chat" };

// The quiet line that says somebody came or went. It never changes, and belongs to no group and no day.
export class NoticeRow {
  element = cloneOf("notice-template");
  author = null;
  day = null;

  constructor({ kind, username }) {
    this.element.querySelector("bdi").textContent = username;
    this.element.querySelector("span").textContent = VERBS[kind];
  }

  update() {}

  place() {}
}
