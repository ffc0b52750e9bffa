import { codePointCount, TEXT_LIMIT } from "../client.js";
import { Completion } from "./completion.js";
import { byId, named, writeInto } from "../dom.js";
import { answerOf, fileOf, filesOf } from "../text/markup.js";
import { partsOf, t } from "../text/translation.js";
import { listOf } from "../text/times.js";

// The key code that browsers report for a key that an input method has used. Safari does not set isComposing reliably.
const IME_KEY_CODE = 229;

// The field in which messages are written and edited.
//
// States: writing a new message (`#edited` is null), possibly as a reply (`#quote`), or editing one. A text is stored
// with every change, for each room: the new message as `draft`, the edited one as `edit`. While a message is edited,
// the draft waits. Both outlive a reload and a visit to another room.
export class Composer {
  #form = byId("composer-form");
  #field = byId("composer");
  #button = byId("send");
  #hint = byId("composer-hint");
  #answer = byId("composer-answer");
  #storage;
  #on;
  #completion;
  #room = null;
  // The entry that is being edited, or null.
  #edited = null;
  // The quote of the message that is answered. It is sent before the text and is not in the field.
  #quote = "";
  // The links of the files of the message that is edited. They are sent after the text and are not in the field.
  #links = [];

  // `on` has a function each for: send, typing, save (an edited entry), last (the entry to edit by Arrow Up), mark (an
  // entry as being edited or not), pick (resolves with an emoji or null), hasFiles (whether files will be sent with the
  // text), and people and rooms (return the names to suggest).
  constructor(storage, on) {
    this.#storage = storage;
    this.#on = on;
    this.#completion = new Completion(this.#field, on);
    this.#field.addEventListener("input", () => this.#changed());
    this.#field.addEventListener("keydown", (event) => this.#keyed(event));
    this.#form.addEventListener("submit", (event) => this.#submitted(event));
    byId("composer-cancel").addEventListener("click", () => this.#stopEditing());
    byId("composer-unquote").addEventListener("click", () => this.#unquote());
    byId("emoji").addEventListener("click", (event) => this.#pick(event.currentTarget));
    // A tap on the button must not take the focus from the field, which would close a phone's keyboard.
    this.#button.addEventListener("pointerdown", (event) => event.preventDefault());
  }

  // The name of the room to write to; null if there is none.
  set room(room) {
    this.#field.placeholder = t("messageTo", { room });
    if (room !== this.#room) {
      this.#room = room;
      this.#edit(null);
      this.#write(this.#draft);
    }
    this.enable(true);
  }

  // Shows the field if the reader can write to the room, and otherwise `sentence` in its place. Drafts stay.
  enable(mayWrite, sentence = "") {
    byId("read-only").textContent = sentence;
    this.#form.hidden = this.#hint.hidden = this.#room === null || !mayWrite;
    byId("read-only").hidden = this.#room === null || mayWrite;
  }

  get isEmpty() {
    return this.#field.value === "";
  }

  focus() {
    this.#field.focus();
  }

  // Files were added, have failed or were removed.
  refresh() {
    this.#measure();
  }

  // Removes all drafts and unfinished edits, of all rooms.
  forget() {
    this.#write("");
    for (const key of ["draft.", "edit."].flatMap((start) => this.#storage.keys(start))) this.#storage.set(key, "");
  }

  // Continues an edit that a reload or a visit to another room has interrupted. If the message is gone, its text
  // becomes the draft of a new one. `find` returns the entry with an offset.
  resume(find) {
    const [, offset, text] = /^(\d+) (.*)$/s.exec(this.#kept) ?? [];
    if (!offset || this.#edited) return;
    const entry = find(Number(offset));
    if (entry?.own && !entry.deleted) return this.#begin(entry, text);
    this.#kept = "";
    this.propose(text);
  }

  // Proposes a text for a new message, unless the field contains something else.
  propose(text) {
    if (!this.isEmpty) return;
    this.#draft = text;
    this.#write(text);
  }

  // Begins to edit one of the reader's messages. The draft waits until that is done.
  edit(entry, text = entry.text) {
    this.#begin(entry, text);
    this.focus();
    const { length } = this.#field.value;
    this.#field.setSelectionRange(length, length);
  }

  #begin(entry, text) {
    this.#edit(entry);
    this.#write(text);
    this.#kept = `${entry.offset} ${text}`;
  }

  // Makes the draft a reply. `text` is the quote of the message that is answered.
  quote(text) {
    if (this.#edited) this.#stopEditing();
    this.#answerTo(text);
    this.#changed();
    this.focus();
  }

  #unquote() {
    this.#answerTo("");
    this.#changed();
    this.focus();
  }

  #answerTo(quote) {
    const { name, quoted } = answerOf(quote);
    this.#quote = quote;
    this.#answer.hidden = !quote;
    byId("composer-answered").replaceChildren(...(quote ? partsOf("answering", { name: named(name) }) : []));
    byId("composer-quoted").textContent = quoted;
  }

  async #pick(button) {
    const emoji = await this.#on.pick(button);
    const { selectionStart, selectionEnd } = this.#field;
    if (emoji) writeInto(this.#field, emoji, selectionStart, selectionEnd);
  }

  #keyed(event) {
    const composing = event.isComposing || event.keyCode === IME_KEY_CODE;
    if (composing || this.#completion.keyed(event)) return;
    if (event.key === "Escape" && this.#edited) this.#stopEditing();
    else if (event.key === "Escape" && this.#quote) this.#unquote();
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
    if (this.#edited) {
      this.#kept = `${this.#edited.offset} ${this.#text}`;
      return;
    }
    this.#draft = this.#quote + this.#field.value;
    if (this.#field.value.trimEnd()) this.#on.typing();
  }

  #send() {
    // The server rejects a text with a lone surrogate as invalid JSON, and could not say which message it rejects.
    const text = this.#text.toWellFormed?.() ?? this.#text;
    if (!(text || this.#hasFiles) || codePointCount(text) > TEXT_LIMIT) return;
    const edited = this.#edited;
    if (edited) this.#stopEditing();
    else this.#write((this.#draft = ""));
    if (!edited) this.#on.send(text);
    else if (text !== edited.text) this.#on.save(edited, text);
  }

  // The whole text to send. A quote alone is not sent, but a quote with a file is.
  get #text() {
    const own = this.#field.value.trimEnd();
    const whole = [own, ...this.#links].filter(Boolean).join("\n");
    return whole || this.#hasFiles ? this.#quote + whole : "";
  }

  // Files are not added to a message that is edited.
  get #hasFiles() {
    return !this.#edited && this.#on.hasFiles();
  }

  #stopEditing() {
    this.#kept = "";
    this.#edit(null);
    this.#write(this.#draft);
    this.focus();
  }

  // The new message, with the quote that it begins with.
  get #draft() {
    return this.#storage.get(`draft.${this.#room}`);
  }

  set #draft(text) {
    this.#storage.set(`draft.${this.#room}`, text);
  }

  // The edit, as the offset of the message and the text so far.
  get #kept() {
    return this.#storage.get(`edit.${this.#room}`);
  }

  set #kept(kept) {
    this.#storage.set(`edit.${this.#room}`, kept);
  }

  #edit(entry) {
    if (this.#edited) this.#on.mark(this.#edited, false);
    if (entry) this.#on.mark(entry, true);
    this.#edited = entry;
    this.#form.classList.toggle("composer--editing", entry !== null);
    this.#button.ariaLabel = this.#button.title = t(entry ? "save" : "send");
    this.#field.ariaLabel = t(entry ? "editYours" : "message");
  }

  #write(whole) {
    const { quote, text } = answerOf(whole);
    const [own, links] = this.#edited ? filesOf(text) : [text, []];
    this.#answerTo(quote);
    this.#field.value = own;
    this.#links = links;
    const names = listOf(links.map((link) => fileOf(link).name));
    byId("composer-edited").textContent = names ? t("editingWith", { names }) : t("editing");
    this.#completion.close();
    this.#measure();
  }

  #measure() {
    const left = TEXT_LIMIT - codePointCount(this.#text);
    this.#button.disabled = !(this.#text || this.#hasFiles) || left < 0;
    this.#field.ariaInvalid = String(left < 0);
    this.#form.classList.toggle("composer--too-long", left < 0);
    const hint = this.#hintFor(left);
    if (this.#hint.textContent !== hint) this.#hint.textContent = hint;
    this.#grow();
  }

  #hintFor(left) {
    if (left < 0) return t("tooLong", { count: -left, limit: TEXT_LIMIT });
    return t(this.#edited ? "hintEdit" : "hintSend");
  }

  // Adapts the height of the field to its text in browsers without `field-sizing`.
  #grow() {
    if (CSS.supports("field-sizing", "content")) return;
    this.#field.style.blockSize = "auto";
    this.#field.style.blockSize = `${this.#field.scrollHeight}px`;
  }
}
