import { cloneOf } from "./dom.js";

const listFormat = new Intl.ListFormat("en-GB");

// The chips under a message: one for each emoji, with how many reacted by it. A chip stays the element it is, so that
// the focus stays on it.
export class Reactions {
  #element;
  #chips = new Map();

  constructor(element) {
    this.#element = element;
  }

  // `reactions` are the names by emoji; `self` is the reader's.
  show(reactions, self) {
    for (const [emoji, chip] of this.#chips) {
      if (reactions.has(emoji)) continue;
      chip.remove();
      this.#chips.delete(emoji);
    }
    for (const [emoji, names] of reactions) this.#fill(this.#chipOf(emoji), emoji, names, self);
    this.#element.hidden = reactions.size === 0;
  }

  #chipOf(emoji) {
    const known = this.#chips.get(emoji);
    if (known) return known;
    const chip = cloneOf("reaction-template");
    chip.firstElementChild.dataset.emoji = chip.querySelector("span").textContent = emoji;
    this.#element.append(chip);
    this.#chips.set(emoji, chip);
    return chip;
  }

  #fill(chip, emoji, names, self) {
    const button = chip.firstElementChild;
    const who = listFormat.format(names);
    button.lastElementChild.textContent = names.length;
    button.ariaPressed = String(names.includes(self));
    button.ariaLabel = `${emoji} ${names.length}: ${who}`;
    button.title = who;
  }
}
