import { byId } from "./dom.js";

// The first screen, and the way to another name later.
export class NameDialog {
  #dialog = byId("name-dialog");
  #field = byId("name-input");
  #required = true;
  #onDone;

  // `onDone` gets the name, or nothing when the reader thought better of it.
  constructor(onDone) {
    this.#onDone = onDone;
    byId("name-form").addEventListener("submit", (event) => this.#submitted(event));
    byId("name-cancel").addEventListener("click", () => this.#dialog.close(""));
    this.#dialog.addEventListener("close", () => this.#closed());
    this.#field.addEventListener("input", () => this.#tell(""));
  }

  // `required` means that there is no name to go back to.
  open({ name, required, error = "" }) {
    this.#required = required;
    this.#dialog.classList.toggle("welcome--first", required);
    byId("name-title").textContent = required ? "What should we call you?" : "Change your name";
    byId("name-cancel").hidden = required;
    this.#dialog.returnValue = "";
    if (!this.#dialog.open) this.#dialog.showModal();
    this.#field.value = name;
    this.#field.select();
    this.#tell(error);
  }

  #submitted(event) {
    event.preventDefault();
    const name = this.#field.value.trim().normalize("NFC");
    if (name) this.#dialog.close(name);
    else this.#tell("Please type a name.");
  }

  // Escape closes a dialog, but not this one while a name is needed.
  #closed() {
    const name = this.#dialog.returnValue;
    if (name || !this.#required) this.#onDone(name);
    else this.open({ name: this.#field.value, required: true });
  }

  #tell(error) {
    byId("name-error").textContent = error;
    this.#field.ariaInvalid = String(Boolean(error));
  }
}
