import { backoffMs } from "../client.js";
import { byId } from "../dom.js";
import { fileOf } from "../text/markup.js";
import { t } from "../text/translation.js";

// Attempts to load an image if the server is busy or unreachable; the pauses between them add up to half a minute. If
// the server does have the image (200), it was busy for a moment or the image is broken, and the attempt counts twice.
const ATTEMPTS = 6;

// Opens an image of the log in its full size, retries images that cannot be loaded, and marks files that are gone.
export class Viewer {
  #dialog = byId("viewer");
  #image = byId("viewer-image");
  #download = byId("viewer-download");
  #left = new WeakMap();

  constructor() {
    const log = byId("log");
    log.addEventListener("click", (event) => this.#clicked(event));
    // An `error` does not bubble.
    log.addEventListener("error", (event) => this.#failed(event), true);
    this.#dialog.onclick = ({ target }) => target === this.#download || this.#dialog.close();
    this.#dialog.onclose = () => this.#image.removeAttribute("src");
  }

  #clicked(event) {
    const link = event.target.closest(".file[href]");
    // With a modifier key the browser opens or saves the file, as with any link.
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (!link.matches(".file--image")) return check(link);
    event.preventDefault();
    this.#image.src = this.#download.href = link.href;
    this.#image.alt = this.#download.download = byId("viewer-name").textContent = fileOf(link.href).name;
    this.#dialog.showModal();
  }

  // Retries an image. While it does, the error event does not reach text/markup.js, so the image stays an image. After
  // the last attempt an error event of our own makes it a link and tells the log that rows have moved.
  async #failed(event) {
    if (!event.isTrusted) return;
    event.stopPropagation();
    const image = event.target;
    const { src } = image;
    const status = await check(image.closest(".file"));
    const left = (this.#left.get(image) ?? ATTEMPTS) - (status === 200 ? 2 : 1);
    this.#left.set(image, left);
    if (left <= 0 || (status >= 400 && status < 500)) return image.dispatchEvent(new Event("error"));
    await new Promise((done) => setTimeout(done, backoffMs(ATTEMPTS - left)));
    image.src = src;
  }
}

// Checks whether a file exists, and marks it if it is gone. Resolves with the status; undefined if no server answers.
async function check(link) {
  const { status } = await fetch(link.href, { method: "HEAD", cache: "no-store" }).catch(() => ({}));
  if (status !== 404 && status !== 410) return status;
  link.removeAttribute("href");
  link.classList.add("file--gone");
  link.dataset.size = t("fileGone");
  return status;
}
