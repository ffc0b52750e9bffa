import { notifiedOf } from "./attention.js";
import { byId, make } from "../dom.js";
import { LANGUAGES, language, t } from "../text/translation.js";

// The dialog for the reader's preferences: colours, language, notifications and sound. They are stored in this browser.
export class Preferences {
  #dialog = byId("preferences");
  #form = byId("preferences-form");
  #storage;

  constructor(storage) {
    this.#storage = storage;
    for (const [value, name] of Object.entries(LANGUAGES)) {
      this.#field("language").append(make("option", { value, lang: value }, [name]));
    }
    // A click beside the dialog closes it. Its button does so by itself.
    this.#dialog.addEventListener("click", ({ target }) => target === this.#dialog && this.close());
    this.#form.onchange = ({ target }) => this.#changed(target);
  }

  close() {
    this.#dialog.close();
  }

  open() {
    this.#field("theme").value = this.#storage.get("theme");
    this.#field("language").value = language;
    this.#field("notify").value = notifiedOf(this.#storage);
    this.#field("sound").checked = this.#storage.get("sound") !== "";
    this.#tell("");
    this.#dialog.showModal();
  }

  #field(name) {
    return this.#form.elements[name];
  }

  #changed({ name, value, checked }) {
    if (name === "notify") return this.#askToNotify(value);
    this.#storage.set(name, name === "sound" ? checked && "on" : value);
    if (name === "theme") document.documentElement.dataset.theme = value;
    if (name === "language" && value !== language) this.#translate();
    return undefined;
  }

  // A language in the address would take precedence over the chosen one, so it is removed.
  #translate() {
    const url = new URL(location);
    url.searchParams.delete("lang");
    history.replaceState(null, "", url);
    location.reload();
  }

  async #askToNotify(level) {
    const permission = level && "Notification" in window ? await Notification.requestPermission() : "denied";
    this.#storage.set("notify", permission === "granted" && level);
    const notified = (this.#field("notify").value = notifiedOf(this.#storage));
    this.#tell(level && !notified ? t("notifyForbidden") : "");
  }

  #tell(sentence) {
    byId("preferences-note").textContent = sentence;
  }
}
