import { byId } from "../dom.js";

// A panel that is beside the log if the window is wide enough, and a drawer over the log otherwise. At most one panel
// is open at a time.
export class Drawer {
  static #last = null;

  #panel;
  #toggle;
  #beside;
  #before = null;

  // `panel` and `toggle` are ids. `beside` is the media query for when the panel is beside the log. The element
  // `[data-close]` in the panel closes it.
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

  // `focus` is the element that gets the focus; by default it is the button that closes.
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
    // The element that had the focus before may be gone by now, for instance a message's button.
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
