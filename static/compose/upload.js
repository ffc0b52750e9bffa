import { fileNameOf } from "../client.js";
import { cloneOf } from "../dom.js";
import { fileOf, sizeOf } from "../text/markup.js";
import { errorOf, t } from "../text/translation.js";

// Browsers buffer megabytes for the network and report no progress while the buffer is sent.
const STALLED_MS = 120_000;
// The server deletes files that no message links to after an hour.
const KEPT_MS = 50 * 60_000;
// Statuses after which an upload is tried again: no answer (0), a used or expired ticket (401), too slow (408), too
// many requests (429).
const TEMPORARY = [0, 401, 408, 429];

// A file that is uploaded to a room and waits for its message, and its row on the page.
//
// States: "waiting" for its turn, then "sending", then "ready". From each of these it can become "failed", and from
// there "waiting" again. "gone" is final: the reader has removed it, or its message was sent.
export class Upload {
  #file;
  #name;
  #request;
  #arrivedAt;

  element = cloneOf("upload-template");
  room;
  state;
  // The submission with which the reader has sent it; null until then.
  submission = null;
  // The server's link, once it is ready.
  link;
  // The number of failed attempts.
  failures = 0;

  constructor(file, room) {
    this.#file = file;
    this.#name = fileNameOf(file.name);
    this.room = room;
    this.#part("name").textContent = this.#part("progress").ariaLabel = this.#name;
    this.#part("size").textContent = sizeOf(file.size);
    this.#part("room").textContent = `#${room.name}`;
    this.#part("cancel").ariaLabel = this.#part("cancel").title = t("removeFile", { name: this.#name });
    this.wait();
  }

  // Whether the server may have deleted it.
  get isStale() {
    return this.state === "ready" && Date.now() - this.#arrivedAt > KEPT_MS;
  }

  // Adapts the row to the room that is shown. A file for another room is shown, with that room's name, only if it has
  // been sent; otherwise it is hidden until the reader returns to its room.
  showIn(room) {
    const isHere = room === this.room;
    this.#part("room").hidden = isHere;
    this.element.hidden = !isHere && !this.submission;
  }

  // The reader has sent the file as a part of a submission.
  attachTo(submission) {
    this.submission = submission;
    this.#say();
  }

  // Uploads the file. Resolves with the server's answer: the file with its `link`, or an `error`. `ask` gets the
  // ticket.
  async send(ask) {
    this.state = "sending";
    // Folders cannot be read, nor files that have changed since they were chosen.
    const isReadable = await this.#file.slice(-1).arrayBuffer().then(Boolean, () => false);
    if (!isReadable) return { type: "error", message: t("fileUnreadable") };
    const answer = await ask({ type: "upload", name: this.#name, size: this.#file.size }, this.room);
    return answer.type === "error" || this.state === "gone" ? answer : this.#post(answer);
  }

  // The file waits to be uploaded, for the first time or again.
  wait() {
    if (this.#part("retry") === document.activeElement) this.#part("cancel").focus();
    this.#become("waiting");
    this.#part("progress").value = 0;
  }

  // The server has stored the file.
  arrive(link) {
    this.link = link;
    this.failures = 0;
    this.#arrivedAt = Date.now();
    this.#become("ready");
    const image = this.#part("image");
    image.onerror = () => (image.hidden = true);
    if (!fileOf(link)?.width) return;
    image.hidden = false;
    image.src = link;
  }

  fail(reason, mayRetry) {
    this.#become("failed", this.submission ? `${reason} ${t("fileSends")}` : reason);
    this.#part("retry").hidden = !mayRetry;
  }

  cancel() {
    this.state = "gone";
    this.#request?.abort();
    this.element.remove();
  }

  #part(name) {
    return this.element.querySelector(`.upload__${name}`);
  }

  #become(state, reason) {
    this.state = state;
    this.element.className = `upload upload--${state}`;
    this.#say(reason);
  }

  // Screen readers would read out the same note again if it was set again.
  #say(note = this.#note) {
    const part = this.#part("note");
    if (part.textContent !== note) part.textContent = note;
  }

  get #note() {
    if (this.state === "waiting" && this.failures) return t("trying");
    if (this.submission) return t("fileSends");
    return this.state === "ready" ? t("fileReady") : "";
  }

  // Uses XMLHttpRequest because fetch does not report the progress of an upload.
  #post({ url, ticket }) {
    const request = (this.#request = new XMLHttpRequest());
    let timer;
    const watch = ({ loaded, total }) => {
      clearTimeout(timer);
      timer = setTimeout(() => request.abort(), STALLED_MS);
      this.#part("progress").value = loaded / total;
      this.#say();
    };
    return new Promise((resolve) => {
      request.upload.onprogress = watch;
      request.onloadend = () => {
        clearTimeout(timer);
        resolve(answerOf(request));
      };
      request.open("POST", url);
      request.setRequestHeader("x-upload-ticket", ticket);
      request.responseType = "json";
      request.send(this.#file);
      watch({ loaded: 0, total: 1 });
    });
  }
}

function answerOf(request) {
  const { status, response } = request;
  if (status === 201 && response?.link) return response;
  const temporary = TEMPORARY.includes(status) || status >= 500;
  const message = response?.message ? errorOf(response) : t(temporary ? "lostOnTheWay" : "fileRefused");
  const afterMs = 1_000 * request.getResponseHeader("retry-after");
  return { type: "error", message, temporary, retry_after_ms: afterMs || undefined };
}
