import { byId } from "./dom.js";

// The server's limit: Unicode code points, after trimming white space at the end.
const TEXT_LIMIT = 4_000;
// What browsers report for a key that an input method took, where isComposing cannot be relied on (Safari).
const IME_KEY_CODE = 229;

// Where a message is written. What was typed leaves the field only when it has been handed on.
export class Composer {
  #form = byId("composer-form");
  #field = byId("composer");
  #button = byId("send");
  #hint = byId("composer-hint");
  #usualHint = this.#hint.textContent;
  #on;

  // `on` has a function each for: send, typing.
  constructor(on) {
    this.#on = on;
    this.#field.addEventListener("input", () => this.#edited());
    this.#field.addEventListener("keydown", (event) => this.#keyed(event));
    this.#form.addEventListener("submit", (event) => this.#submitted(event));
    // Keeps a phone's keyboard open.
    this.#button.addEventListener("pointerdown", (event) => event.preventDefault());
    // A browser may restore a draft on reload.
    this.#measure();
  }

  // The room to write to, or null for none.
  set room(room) {
    this.#form.hidden = this.#hint.hidden = room === null;
    this.#field.placeholder = `Message #${room}`;
  }

  focus() {
    this.#field.focus();
  }

  #keyed(event) {
    const composing = event.isComposing || event.keyCode === IME_KEY_CODE;
    if (event.key !== "Enter" || event.shiftKey || composing) return;
    event.preventDefault();
    this.#send();
  }

  #submitted(event) {
    event.preventDefault();
    this.#send();
    this.focus();
  }

  #edited() {
    this.#measure();
    if (this.#field.value.trimEnd()) this.#on.typing();
  }

  #send() {
    // A lone surrogate is no text: the server could not read the message, nor tell which one it was.
    const text = this.#field.value.toWellFormed?.().trimEnd() ?? this.#field.value.trimEnd();
    if (!text || codePointCount(text) > TEXT_LIMIT) return;
    this.#field.value = "";
    this.#measure();
    this.#on.send(text);
  }

  #measure() {
    const text = this.#field.value.trimEnd();
    const left = TEXT_LIMIT - codePointCount(text);
    this.#button.disabled = !text || left < 0;
    this.#field.ariaInvalid = String(left < 0);
    this.#form.classList.toggle("composer--too-long", left < 0);
    const hint = this.#hintFor(left);
    if (this.#hint.textContent !== hint) this.#hint.textContent = hint;
    this.#grow();
  }

  #hintFor(left) {
    if (left >= 0) return this.#usualHint;
    return `Too long by ${-left}: a message holds ${TEXT_LIMIT.toLocaleString()} characters`;
  }

  // For browsers whose style sheets cannot do it yet.
  #grow() {
    if (CSS.supports("field-sizing", "content")) return;
    this.#field.style.blockSize = "auto";
    this.#field.style.blockSize = `${this.#field.scrollHeight}px`;
  }
}

function codePointCount(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
