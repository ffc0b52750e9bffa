// Files that are dropped on the page, pasted or chosen. Each belongs to the room that was shown at that time. They are
// uploaded one after the other.
//
// An uploaded file waits above the field until the reader sends it with a text. Text and files then form a submission,
// `{ room, text }`, and the field is free for the next message. When the last file of a submission has been uploaded,
// the submission becomes one or more messages, which the outbox protects like any others.
//
// An upload that fails because of the connection or the server is tried again, each time with a new ticket. The server
// stores the same content in a room once, so nothing is stored twice.

import { backoffMs, textsOf } from "../client.js";
import { byId } from "../dom.js";
import { sizeOf } from "../text/markup.js";
import { t } from "../text/translation.js";
import { Upload } from "./upload.js";

// Attempts to upload a file. The pauses between them add up to half a minute. Time without a connection does not count,
// because attempts need one.
const ATTEMPTS = 6;
// Browsers fire `dragover` about every 350 ms (HTML standard, 6.11.5), so a pause of this length means that the files
// have left the page.
const DRAG_PAUSE_MS = 1_000;
// The name that browsers give to an image that is pasted from another program.
const NAMELESS = /^image(\.\w+)$/;

export class Attachments {
  #chat;
  #onChanged;
  #uploads = [];
  #isSending = false;
  #list = byId("uploads");
  #button = byId("attach");
  #field = byId("attach-field");
  #target = byId("drop-target");
  #targetTimer;
  // Whether the dragged object is from this page.
  #isOwn = false;

  // `changed` is called when files are added, have failed or are removed.
  constructor(chat, changed) {
    this.#chat = chat;
    this.#onChanged = changed;
    this.#button.onclick = () => this.#field.click();
    this.#field.onchange = () => this.#chosen();
    this.#list.onclick = ({ target }) => this.#clicked(target);
    this.#target.ondragleave = () => (this.#target.hidden = true);
    document.ondragstart = () => (this.#isOwn = true);
    document.addEventListener("dragend", () => (this.#isOwn = false));
    document.ondragenter = document.ondragover = (event) => this.#dragged(event);
    document.ondrop = (event) => this.#dropped(event);
    document.onpaste = (event) => this.#pasted(event);
  }

  // The files that will be sent with the next message to the room that is shown. A file that has failed is not among
  // them; it stays until the reader retries or removes it.
  get staged() {
    const { room } = this.#chat;
    return this.#uploads.filter((each) => !each.submission && each.room === room && each.state !== "failed");
  }

  // Sends a text and the waiting files to the room that is shown. Either can be missing.
  send(text) {
    const submission = { room: this.#chat.room, text };
    for (const upload of this.staged) upload.attachTo(submission);
    this.#settle(submission);
  }

  // The reader has come to a room or left one.
  refresh() {
    this.#button.hidden = !this.#chat.files;
    for (const upload of this.#uploads) {
      if (this.#chat.rooms.includes(upload.room)) upload.showIn(this.#chat.room);
      else this.#discard(upload);
    }
    this.#run();
  }

  // Removes all files.
  forget() {
    for (const upload of this.#uploads) this.#discard(upload);
  }

  // Whether files can be added: a room is shown, and no dialog is open.
  get #canAdd() {
    return this.#chat.files && !byId("composer-form").hidden && !document.querySelector("dialog[open]");
  }

  // The default action would open the file in place of the page.
  #dragged(event) {
    if (this.#isOwn || !event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = this.#canAdd ? "copy" : "none";
    this.#target.hidden = !this.#canAdd;
    clearTimeout(this.#targetTimer);
    this.#targetTimer = setTimeout(() => (this.#target.hidden = true), DRAG_PAUSE_MS);
  }

  #dropped(event) {
    this.#dragged(event);
    this.#target.hidden = true;
    if (event.defaultPrevented && this.#canAdd) this.#add(event.dataTransfer.files);
  }

  // Office programs add an image of the copied text to the clipboard, so a text with formatting is pasted as text. File
  // managers add the name of the copied file as plain text, so in that case the file is pasted.
  #pasted(event) {
    const { files, types } = event.clipboardData;
    const isText = types.includes("text/plain") && types.includes("text/html");
    if (!files.length || isText || !this.#canAdd || event.target.closest("input")) return;
    event.preventDefault();
    this.#add([...files].map(named));
  }

  #chosen() {
    this.#add(this.#field.files);
    // So that the same file can be chosen again.
    this.#field.value = "";
  }

  #add(files) {
    for (const file of files) {
      const upload = new Upload(file, this.#chat.room);
      this.#uploads.push(upload);
      this.#list.append(upload.element);
      const reason = this.#reasonAgainst(file);
      if (reason) upload.fail(reason, false);
    }
    this.refresh();
    this.#list.lastElementChild?.scrollIntoView({ block: "nearest" });
    byId("composer").focus();
  }

  #reasonAgainst({ size }) {
    const limit = this.#chat.files.max_bytes;
    if (size > limit) return t("fileTooBig", { size: sizeOf(limit) });
    return size ? "" : t("fileEmpty");
  }

  #clicked(target) {
    const upload = this.#uploads.find(({ element }) => element.contains(target));
    if (target.closest(".upload__cancel")) this.#remove(upload);
    if (!target.closest(".upload__retry")) return;
    upload.failures = 0;
    upload.wait();
    this.#run();
  }

  #remove(upload) {
    this.#discard(upload);
    byId("composer").focus();
    if (upload.submission) this.#settle(upload.submission);
  }

  #discard(upload) {
    const hadFocus = upload.element.contains(document.activeElement);
    this.#uploads = this.#uploads.filter((each) => each !== upload);
    upload.cancel();
    if (hadFocus) byId("composer").focus();
    this.#changed();
  }

  // Sends a submission when all of its files are uploaded. If all were removed, only the text is sent.
  #settle(submission) {
    const uploads = this.#uploads.filter((each) => each.submission === submission);
    for (const upload of uploads) if (upload.isStale) upload.wait();
    if (uploads.some(({ state }) => state !== "ready")) return this.#run();
    for (const upload of uploads) this.#discard(upload);
    const texts = textsOf(submission.text, uploads.map(({ link }) => link));
    for (const text of texts) this.#chat.send(text, submission.room);
  }

  // Uploads what waits. Files for a room that is not joined wait until it is.
  async #run() {
    this.#changed();
    if (this.#isSending) return;
    this.#isSending = true;
    const next = () => this.#uploads.find(({ state, room }) => state === "waiting" && room.joined);
    for (let upload; (upload = next()); ) await this.#upload(upload);
    this.#isSending = false;
  }

  async #upload(upload) {
    const answer = await upload.send((command, room) => this.#chat.ask(command, room));
    if (upload.state === "gone") return;
    if (answer.type !== "error") {
      upload.arrive(answer.link);
      if (upload.submission) this.#settle(upload.submission);
    } else if (answer.temporary && (upload.failures += 1) < ATTEMPTS) {
      upload.wait();
      await new Promise((done) => setTimeout(done, answer.retry_after_ms ?? backoffMs(upload.failures)));
    } else {
      upload.fail(answer.message, true);
      this.#changed();
    }
  }

  // Warns before the page is closed, but only while files would be lost: with a permanent listener, browsers do not
  // keep the page in their back/forward cache.
  #changed() {
    const isBusy = this.#uploads.some(({ submission, state }) => submission || state !== "failed");
    window.onbeforeunload = isBusy ? (event) => event.preventDefault() : null;
    this.#onChanged();
  }
}

function named(file) {
  const [, ending] = NAMELESS.exec(file.name) ?? [];
  // The Swedish format is 2025-01-18 10:30:00. Some systems do not allow a colon in a file name.
  const date = new Date().toLocaleString("sv").replaceAll(":", ".");
  return ending ? new File([file], t("fileName", { date }) + ending, { type: file.type }) : file;
}
