import { cloneOf } from "../dom.js";
import { hasReacted } from "../model/entries.js";
import { shown, t } from "../text/translation.js";
import { listOf } from "../text/times.js";

// Further people are only counted.
const NAMES_LIMIT = 20;

// The reactions under a message: a button for each emoji with the number of people, and one to add another emoji. A
// button is kept when the numbers change, so that the focus stays on it.
export class Reactions {
  #element;
  #chips = new Map();

  constructor(element) {
    this.#element = element;
  }

  // Shows the reactions to a message. `user` is the reader's id; `mayReact` says whether they can react.
  show(entry, user, mayReact) {
    const { reactions = {} } = entry;
    for (const emoji of this.#chips.keys()) if (!Object.hasOwn(reactions, emoji)) this.#remove(emoji);
    for (const [emoji, people] of Object.entries(reactions)) {
      const chip = this.#chipOf(emoji);
      this.#fill(chip, emoji, people);
      chip.firstElementChild.ariaPressed = hasReacted(entry, emoji, user);
      chip.firstElementChild.disabled = !mayReact;
    }
    this.#element.lastElementChild.hidden = !mayReact;
    this.#element.hidden = this.#chips.size === 0;
  }

  // If the button has the focus, the focus goes to the message.
  #remove(emoji) {
    const chip = this.#chips.get(emoji);
    if (chip.contains(document.activeElement)) this.#element.closest(".message").focus();
    chip.remove();
    this.#chips.delete(emoji);
  }

  #chipOf(emoji) {
    const known = this.#chips.get(emoji);
    if (known) return known;
    const chip = cloneOf("reaction-template");
    chip.firstElementChild.dataset.emoji = chip.querySelector("span").textContent = emoji;
    this.#element.lastElementChild.before(chip);
    this.#chips.set(emoji, chip);
    return chip;
  }

  #fill(chip, emoji, people) {
    const button = chip.firstElementChild;
    const names = people.map(({ username }) => username);
    const more = names.length - NAMES_LIMIT;
    const who = listOf(more > 0 ? [...names.slice(0, NAMES_LIMIT), t("people", { count: more })] : names);
    button.lastElementChild.textContent = shown(names.length);
    button.ariaLabel = `${emoji} ${shown(names.length)}: ${who}`;
    button.title = who;
  }
}
