import { byId } from "../dom.js";

// A dialog that asks for one thing: a name, or an access token.
export class Question {
  #dialog;
  #field;
  #error;
  #required;
  #missing;
  #onDone;

  // The ids of the dialog's elements begin with `what`. `missing` is the sentence for an empty answer. `onDone` gets
  // the answer, or "" if the reader cancels.
  constructor(what, missing, onDone) {
    this.#dialog = byId(`${what}-dialog`);
    this.#field = byId(`${what}-input`);
    this.#error = byId(`${what}-error`);
    this.#missing = missing;
    this.#onDone = onDone;
    this.#dialog.onsubmit = (event) => this.#submitted(event);
    this.#dialog.onreset = () => this.#dialog.close("");
    this.#dialog.onclose = () => this.#closed();
    this.#field.oninput = () => this.#tell("");
  }

  // `required` means that the reader cannot cancel.
  open({ value = "", required, error = "" }) {
    this.#required = required;
    this.#dialog.classList.toggle("dialog--required", required);
    if (!this.#dialog.open) this.#dialog.showModal();
    this.#field.value = value;
    this.#field.select();
    this.#tell(error);
  }

  #submitted(event) {
    event.preventDefault();
    const answer = this.#field.value.trim().normalize("NFC");
    if (answer) this.#dialog.close(answer);
    else this.#tell(this.#missing);
  }

  // The browser closes a dialog on Escape. While an answer is required, it is opened again.
  #closed() {
    const answer = this.#dialog.returnValue;
    this.#dialog.returnValue = "";
    if (!answer && this.#required) return this.#dialog.showModal();
    this.#field.value = "";
    return this.#onDone(answer);
  }

  #tell(error) {
    this.#error.textContent = error;
    this.#field.ariaInvalid = String(Boolean(error));
  }
}
