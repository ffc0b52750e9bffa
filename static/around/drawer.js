import { byId } from "../dom.js";

// A panel beside the log where there is room for one, else a drawer over it. One is open at a time.
export class Drawer {
  static #last = null;

  #panel;
  #toggle;
  #beside;
  #before = null;

  // `beside` is the media query for the panel's having a place of its own. Its buttons: `toggle`, and one `[data-close]`.
  constructor(panel, toggle, beside) {
    this.#panel = byId(panel);
    this.#toggle = byId(toggle);
    this.#beside = matchMedia(beside);
    this.#toggle.addEventListener("click", () => (this.isOpen ? this.close() : this.open()));
    this.#panel.querySelector("[data-close]").addEventListener("click", () => this.close());
    this.#panel.addEventListener("keydown", (event) => this.#keyed(event));
    byId("scrim").addEventListener("click", () => this.close());
    this.#beside.addEventListener("change", () => this.close());
  }

  static closeOpen() {
    Drawer.#last?.close();
  }

  get isOpen() {
    return this.#panel.classList.contains("panel--open");
  }

  get isBeside() {
    return this.#beside.matches;
  }

  // `focus` is what gets the focus; else it is the button that closes.
  open(focus = this.#panel.querySelector("[data-close]")) {
    if (Drawer.#last !== this) Drawer.#last?.close();
    Drawer.#last = this;
    if (!this.isOpen) this.#before = document.activeElement;
    this.#slide(true);
    focus.focus();
  }

  close() {
    if (!this.isOpen) return;
    const hadFocus = this.#panel.contains(document.activeElement) || document.activeElement === document.body;
    this.#slide(false);
    // What had it may be gone by now, as a message's button.
    if (hadFocus) (this.#before?.isConnected ? this.#before : byId("composer")).focus();
  }

  #slide(open) {
    this.#panel.classList.toggle("panel--open", open);
    this.#toggle.ariaExpanded = open;
    byId("chat").inert = open && !this.isBeside;
  }

  #keyed(event) {
    if (event.key !== "Escape" || !this.isOpen || event.defaultPrevented) return;
    event.preventDefault();
    this.close();
  }
}
