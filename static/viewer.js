import { byId } from "./dom.js";
import { fileOf } from "./markup.js";
import { t } from "./text.js";

// Shows an image of the log at its own size, and says of files that they are gone.
export class Viewer {
  #dialog = byId("viewer");
  #image = byId("viewer-image");
  #download = byId("viewer-download");

  constructor() {
    const log = byId("log");
    log.addEventListener("click", (event) => this.#clicked(event));
    // An `error` does not bubble.
    log.addEventListener("error", ({ target }) => check(target.closest(".file")), true);
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
}

async function check(link) {
  const { status } = await fetch(link.href, { method: "HEAD", cache: "no-store" }).catch(() => ({}));
  if (status !== 404 && status !== 410) return;
  link.removeAttribute("href");
  link.classList.add("file--gone");
  link.dataset.size = t("fileGone");
}
