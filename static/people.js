import { byId, cloneOf } from "./dom.js";
import { fillPerson } from "./names.js";

// Who is here: a panel beside the log where there is room for one, else a drawer.
export class People {
  #panel = byId("panel");
  #toggle = byId("people-toggle");
  #close = byId("people-close");
  #scheduled = false;

  constructor() {
    this.#toggle.addEventListener("click", () => this.open());
    this.#close.addEventListener("click", () => this.close());
    byId("scrim").addEventListener("click", () => this.close());
    document.addEventListener("keydown", ({ key }) => key === "Escape" && this.close());
    // Where the style sheet shows no toggle, the panel is always there and an open drawer is over.
    addEventListener("resize", () => this.#toggle.offsetParent ?? this.close());
  }

  // At the next frame.
  show(roster) {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => this.#fill(roster));
  }

  open() {
    this.#slide(true);
    this.#close.focus();
  }

  close() {
    if (!this.#panel.classList.contains("panel--open")) return;
    this.#slide(false);
    this.#toggle.focus();
  }

  #slide(open) {
    this.#panel.classList.toggle("panel--open", open);
    this.#toggle.ariaExpanded = String(open);
    byId("chat").inert = open;
  }

  #fill({ names, online, self }) {
    this.#scheduled = false;
    byId("online-count").textContent = online || "";
    byId("people").replaceChildren(...names.map((name) => personOf(name, name === self)));
    byId("people-more").textContent = online > names.length ? `and ${online - names.length} more` : "";
  }
}

function personOf(name, isSelf) {
  const person = cloneOf("person-template");
  fillPerson(person, name);
  person.querySelector(".person__you").hidden = !isSelf;
  return person;
}
