import { backoffMs } from "../client/connection.js";
import { byId } from "../dom.js";
import { fileOf } from "../text/markup.js";
import { t } from "../text/translation.js";

// Of an image whose server is busy or out of reach: half a minute in all. One that is there was refused for a moment,
// or is broken, and costs two.
const ATTEMPTS = 6;

// Shows an image of the log at its own size, and says of files that they are gone.
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
    // With a key: in a tab of its own, or saved, as any link.
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (!link.matches(".file--image")) return check(link);
    event.preventDefault();
    this.#image.src = this.#download.href = link.href;
    this.#image.alt = this.#download.download = byId("viewer-name").textContent = fileOf(link.href).name;
    this.#dialog.showModal();
  }

  // What comes later stays an image until then. What does not is said to have failed once more, by us, and so becomes a
  // link, and the log knows that something has moved.
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

// Says of a file that it is gone; resolves with the status of it, or nothing where no server answers.
async function check(link) {
  const { status } = await fetch(link.href, { method: "HEAD", cache: "no-store" }).catch(() => ({}));
  if (status !== 404 && status !== 410) return status;
  link.removeAttribute("href");
  link.classList.add("file--gone");
  link.dataset.size = t("fileGone");
  return status;
}
