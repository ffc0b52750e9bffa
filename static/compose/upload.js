import { cloneOf } from "../dom.js";
import { fileOf, sizeOf } from "../text/markup.js";
import { errorOf, t } from "../text/translation.js";

// What a browser hands to the network may be megabytes, and of the last of them it tells nothing until they are gone.
const STALLED_MS = 120_000;
// The server keeps for an hour what no message has.
const KEPT_MS = 50 * 60_000;
// No answer; a ticket that was used or is too old, for the next one is new; too slow; too often.
const TEMPORARY = [0, 401, 408, 429];
// The server counts a name's bytes, systems its letters.
const NAME_BYTES = 255;

// A file on its way to a room and in wait of its message, and its row on the page.
export class Upload {
  #file;
  #name;
  #request;
  #arrivedAt;

  element = cloneOf("upload-template");
  room;
  // "waiting", "sending", "ready", "failed", or "gone".
  state;
  // What the reader has sent it with; null until then.
  parcel = null;
  // Once it is ready.
  link;
  // How often it was tried in vain.
  failures = 0;

  constructor(file, room) {
    this.#file = file;
    this.#name = nameOf(file.name);
    this.room = room;
    this.#part("name").textContent = this.#part("progress").ariaLabel = this.#name;
    this.#part("size").textContent = sizeOf(file.size);
    this.#part("room").textContent = `#${room.name}`;
    this.#part("cancel").ariaLabel = this.#part("cancel").title = t("removeFile", { name: this.#name });
    this.wait();
  }

  // Whether the server may have forgotten it.
  get isStale() {
    return this.state === "ready" && Date.now() - this.#arrivedAt > KEPT_MS;
  }

  // What the reader sees says where it goes, if that is not the room he is in. What he has not sent waits unseen there.
  showIn(room) {
    const isHere = room === this.room;
    this.#part("room").hidden = isHere;
    this.element.hidden = !isHere && !this.parcel;
  }

  // From now on it goes with what was sent.
  join(parcel) {
    this.parcel = parcel;
    this.#say();
  }

  // Resolves with what the server says: the file with its `link`, or an `error`. `ask` is for the ticket.
  async send(ask) {
    this.state = "sending";
    // A folder cannot be read, nor what was changed since it was chosen.
    const isReadable = await this.#file.slice(-1).arrayBuffer().then(Boolean, () => false);
    if (!isReadable) return { type: "error", message: t("fileUnreadable") };
    const answer = await ask({ type: "upload", name: this.#name, size: this.#file.size }, this.room);
    return answer.type === "error" || this.state === "gone" ? answer : this.#post(answer);
  }

  // To be sent, or sent once more.
  wait() {
    if (this.#part("retry") === document.activeElement) this.#part("cancel").focus();
    this.#become("waiting");
    this.#part("progress").value = 0;
  }

  // The server has it.
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
    this.#become("failed", this.parcel ? `${reason} ${t("fileSends")}` : reason);
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

  // What is said again would be read out again.
  #say(note = this.#note) {
    const part = this.#part("note");
    if (part.textContent !== note) part.textContent = note;
  }

  get #note() {
    if (this.state === "waiting" && this.failures) return t("trying");
    if (this.parcel) return t("fileSends");
    return this.state === "ready" ? t("fileReady") : "";
  }

  // Not by fetch, which does not say how far it is.
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
      request.setRequestHeader("authorization", `Bearer ${ticket}`);
      request.responseType = "json";
      request.send(this.#file);
      watch({ loaded: 0, total: 1 });
    });
  }
}

// Its ending says what it is, so what is too much is left out before.
function nameOf(name) {
  const letters = [...name.toWellFormed()];
  while (new Blob(letters).size > NAME_BYTES) letters.splice(letters.length / 2, 1);
  return letters.join("");
}

function answerOf(request) {
  const { status, response } = request;
  if (status === 201 && response?.link) return response;
  const temporary = TEMPORARY.includes(status) || status >= 500;
  const message = response?.message ? errorOf(response) : t(temporary ? "lostOnTheWay" : "fileRefused");
  const afterMs = 1_000 * request.getResponseHeader("retry-after");
  return { type: "error", message, temporary, retry_after_ms: afterMs || undefined };
}
