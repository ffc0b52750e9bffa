import { byId } from "./dom.js";

// The server's limit: Unicode code points, after trimming white space at the end.
const TEXT_LIMIT = 4_000;
// What browsers report for a key that an input method took, where isComposing cannot be relied on (Safari).
const IME_KEY_CODE = 229;
const EDITING_HINT = "Enter saves, Esc cancels";

// Where a message is written, and written anew. What was typed leaves the field only when it has been handed on.
export class Composer {
  #form = byId("composer-form");
  #field = byId("composer");
  #button = byId("send");
  #hint = byId("composer-hint");
  #usualHint = this.#hint.textContent;
  #storage;
  #on;
  #room = null;
  // The entry that is being edited, or null.
  #edited = null;

  // `on` has a function each for: send, typing, save (of an edited entry), last (the entry to edit by Arrow Up).
  constructor(storage, on) {
    this.#storage = storage;
    this.#on = on;
    this.#field.addEventListener("input", () => this.#changed());
    this.#field.addEventListener("keydown", (event) => this.#keyed(event));
    this.#form.addEventListener("submit", (event) => this.#submitted(event));
    byId("composer-cancel").addEventListener("click", () => this.#stopEditing());
    // Keeps a phone's keyboard open.
    this.#button.addEventListener("pointerdown", (event) => event.preventDefault());
  }

  // The room to write to, or null for none.
  set room(room) {
    this.#form.hidden = this.#hint.hidden = room === null;
    this.#field.placeholder = `Message #${room}`;
    if (room === this.#room) return;
    this.#room = room;
    this.#edit(null);
    this.#write(this.#draft);
  }

  get isEmpty() {
    return this.#field.value === "";
  }

  focus() {
    this.#field.focus();
  }

  // Forgets all that was begun, in whatever room.
  forget() {
    this.#write("");
    for (const key of this.#storage.keys("draft.")) this.#storage.set(key, "");
  }

  // Takes a message of the reader's for editing. What he was writing waits until that is done.
  edit(entry, text = entry.text) {
    this.#edit(entry);
    this.#write(text);
    this.focus();
    this.#field.setSelectionRange(text.length, text.length);
  }

  #keyed(event) {
    const composing = event.isComposing || event.keyCode === IME_KEY_CODE;
    if (composing) return;
    if (event.key === "Escape" && this.#edited) this.#stopEditing();
    if (event.key === "ArrowUp" && !this.#edited && this.isEmpty) this.#editLast(event);
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    this.#send();
  }

  #editLast(event) {
    const entry = this.#on.last();
    if (!entry) return;
    event.preventDefault();
    this.edit(entry);
  }

  #submitted(event) {
    event.preventDefault();
    this.#send();
    this.focus();
  }

  #changed() {
    this.#measure();
    if (this.#edited) return;
    this.#draft = this.#field.value;
    if (this.#field.value.trimEnd()) this.#on.typing();
  }

  #send() {
    // A lone surrogate is no text: the server could not read the message, nor tell which one it was.
    const text = this.#field.value.toWellFormed?.().trimEnd() ?? this.#field.value.trimEnd();
    if (!text || codePointCount(text) > TEXT_LIMIT) return;
    const edited = this.#edited;
    if (edited) this.#stopEditing();
    else this.#write((this.#draft = ""));
    if (!edited) this.#on.send(text);
    else if (text !== edited.text) this.#on.save(edited, text);
  }

  #stopEditing() {
    this.#edit(null);
    this.#write(this.#draft);
    this.focus();
  }

  // Outlives a reload.
  get #draft() {
    return this.#storage.get(`draft.${this.#room}`);
  }

  set #draft(text) {
    this.#storage.set(`draft.${this.#room}`, text);
  }

  #edit(entry) {
    this.#edited = entry;
    this.#form.classList.toggle("composer--editing", entry !== null);
    this.#button.ariaLabel = entry ? "Save" : "Send";
    byId("composer-label").textContent = entry ? "Edit your message" : "Message";
  }

  #write(text) {
    this.#field.value = text;
    this.#measure();
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
    if (left < 0) return `Too long by ${-left}: a message holds ${TEXT_LIMIT.toLocaleString()} characters`;
    return this.#edited ? EDITING_HINT : this.#usualHint;
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
