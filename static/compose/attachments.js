// Files for a room: dropped on the page, pasted or chosen, and uploaded one after the other, each for the room that was
// shown when it was given.
//
// What the connection or the server is to blame for is tried again by itself, each time with a new ticket; the server
// keeps the same content once. A file waits above the field until the reader sends it with what he has written. Text and
// files are then a parcel, `{ room, text }`, which leaves the field at once; when the last of its files has arrived, it is
// said in a message, with all that protects one.

import { codePointCount, TEXT_LIMIT } from "./composer.js";
import { backoffMs } from "../client/connection.js";
import { byId } from "../dom.js";
import { sizeOf } from "../text/markup.js";
import { t } from "../text/translation.js";
import { Upload } from "./upload.js";

// With pauses of up to half a minute in all; while there is no connection nothing is tried.
const ATTEMPTS = 6;
// While files are over the page, it is told so more often than that.
const DRAG_PAUSE_MS = 1_000;
// What browsers call a picture that is no file.
const NAMELESS = /^image(\.\w+)$/;
// What somebody wrote: it is trimmed, so only a quote before nothing ends with a line break.
const OWN_END = /[^\n]$/;

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
  // Whether what is dragged is the page's own.
  #isOwn = false;

  // `changed` is called when files have come, failed or gone.
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

  // Those that wait to be sent in the room that is shown. What has failed stays where it is until the reader has seen to it.
  get staged() {
    const { room } = this.#chat;
    return this.#uploads.filter((each) => !each.parcel && each.room === room && each.state !== "failed");
  }

  // Says a text in the room that is shown, with the files that wait there; any of these may be missing.
  send(text) {
    const parcel = { room: this.#chat.room, text };
    for (const upload of this.staged) upload.join(parcel);
    this.#settle(parcel);
  }

  // After the reader has come to a room, or back, or has left one.
  refresh() {
    this.#button.hidden = !this.#chat.files;
    for (const upload of this.#uploads) {
      if (this.#chat.rooms.includes(upload.room)) upload.showIn(this.#chat.room);
      else this.#drop(upload);
    }
    this.#run();
  }

  // Gives all of them up.
  forget() {
    for (const upload of this.#uploads) this.#drop(upload);
  }

  // Not under a question, nor where no room is shown.
  get #takes() {
    return this.#chat.files && !byId("composer-form").hidden && !document.querySelector("dialog[open]");
  }

  // A file that is not taken would be opened in the page's place.
  #dragged(event) {
    if (this.#isOwn || !event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = this.#takes ? "copy" : "none";
    this.#target.hidden = !this.#takes;
    clearTimeout(this.#targetTimer);
    this.#targetTimer = setTimeout(() => (this.#target.hidden = true), DRAG_PAUSE_MS);
  }

  #dropped(event) {
    this.#dragged(event);
    this.#target.hidden = true;
    if (event.defaultPrevented && this.#takes) this.#add(event.dataTransfer.files);
  }

  // Offices put a picture of it beside the text that was copied; file managers its name beside a file.
  #pasted(event) {
    const { files, types } = event.clipboardData;
    const isText = types.includes("text/plain") && types.includes("text/html");
    if (!files.length || isText || !this.#takes || event.target.closest("input")) return;
    event.preventDefault();
    this.#add([...files].map(named));
  }

  #chosen() {
    this.#add(this.#field.files);
    // The same one may be chosen again.
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
    this.#drop(upload);
    byId("composer").focus();
    if (upload.parcel) this.#settle(upload.parcel);
  }

  #drop(upload) {
    const hadFocus = upload.element.contains(document.activeElement);
    this.#uploads = this.#uploads.filter((each) => each !== upload);
    upload.cancel();
    if (hadFocus) byId("composer").focus();
    this.#changed();
  }

  // Says a parcel, unless one of its files is missing. Without any, the text remains to be said.
  #settle(parcel) {
    const uploads = this.#uploads.filter((each) => each.parcel === parcel);
    for (const upload of uploads) if (upload.isStale) upload.wait();
    if (uploads.some(({ state }) => state !== "ready")) return this.#run();
    for (const upload of uploads) this.#drop(upload);
    for (const text of messagesOf(parcel.text, uploads.map(({ link }) => link))) this.#chat.send(text, parcel.room);
  }

  // Those for a room that cannot be reached wait until it is.
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
      if (upload.parcel) this.#settle(upload.parcel);
    } else if (answer.temporary && (upload.failures += 1) < ATTEMPTS) {
      upload.wait();
      await new Promise((done) => setTimeout(done, answer.retry_after_ms ?? backoffMs(upload.failures)));
    } else {
      upload.fail(answer.message, true);
      this.#changed();
    }
  }

  // Guards the page only while something would be lost: who listens to this all the time makes the way back slow.
  #changed() {
    const isBusy = this.#uploads.some(({ parcel, state }) => parcel || state !== "failed");
    window.onbeforeunload = isBusy ? (event) => event.preventDefault() : null;
    this.#onChanged();
  }
}

function named(file) {
  const [, ending] = NAMELESS.exec(file.name) ?? [];
  // Swedes write 2025-01-18 10:30:00; a colon may not be in a name everywhere.
  const date = new Date().toLocaleString("sv").replaceAll(":", ".");
  return ending ? new File([file], t("fileName", { date }) + ending, { type: file.type }) : file;
}

// One message: the text, then each link in a line of its own. What is too much for it goes on in the next one.
function messagesOf(text, links) {
  const messages = [text];
  for (const link of links) {
    const last = messages.at(-1);
    const longer = last + (OWN_END.test(last) ? "\n" : "") + link;
    if (codePointCount(longer) > TEXT_LIMIT) messages.push(link);
    else messages.splice(-1, 1, longer);
  }
  return messages.filter((message) => OWN_END.test(message));
}
