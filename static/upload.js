import { cloneOf } from "./dom.js";
import { sizeOf } from "./markup.js";
import { errorOf, t } from "./text.js";

// What a browser hands to the network may be megabytes, and of the last of them it tells nothing until they are gone.
const STALLED_MS = 120_000;
// No answer; a ticket that was used or is too old, for the next one is new; too slow; too often.
const TEMPORARY = [0, 401, 408, 429];
// The server counts a name's bytes, systems its letters.
const NAME_BYTES = 255;

// A file on its way to a room, and its row on the page.
export class Upload {
  #file;
  #name;
  #request;

  element = cloneOf("upload-template");
  room;
  // "waiting", "sending", "failed", or "gone".
  state;
  // How often it was tried in vain.
  failures = 0;

  constructor(file, room) {
    this.#file = file;
    this.#name = nameOf(file.name);
    this.room = room;
    this.#part("name").textContent = this.#part("progress").ariaLabel = this.#name;
    this.#part("size").textContent = sizeOf(file.size);
    this.#part("room").textContent = `#${room.name}`;
    this.#part("cancel").ariaLabel = this.#part("cancel").title = t("cancelFile", { name: this.#name });
    this.wait();
  }

  // What the reader sees says where it goes, if that is not the room he is in.
  showIn(room) {
    this.#part("room").hidden = room === this.room;
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
    this.#become("waiting", this.failures ? t("trying") : "");
  }

  fail(reason, mayRetry) {
    this.#become("failed", reason);
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

  #become(state, note) {
    this.state = state;
    this.element.classList.toggle("upload--failed", state === "failed");
    this.#tell(0, note);
  }

  #tell(progress, note) {
    this.#part("progress").value = progress;
    this.#part("note").textContent = note;
  }

  // Not by fetch, which does not say how far it is.
  #post({ url, ticket }) {
    const request = (this.#request = new XMLHttpRequest());
    let timer;
    const watch = ({ loaded, total }) => {
      clearTimeout(timer);
      timer = setTimeout(() => request.abort(), STALLED_MS);
      this.#tell(loaded / total, "");
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
