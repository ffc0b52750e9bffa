import { make, named } from "../dom.js";
import { partsOf, t } from "../text/translation.js";
import { listed } from "../text/times.js";

// If there are more names than this, their number is shown.
const NAMES_LIMIT = 3;

// The row that says who joined and who left. It belongs to no group and no day.
export class NoticeRow {
  #entry;
  #revision = -1;

  element = make("p", { class: "notice" });
  author = null;
  day = null;

  constructor(entry) {
    this.#entry = entry;
  }

  update() {
    if (this.#revision === this.#entry.revision) return;
    this.#revision = this.#entry.revision;
    const { join, leave } = this.#entry;
    const parts = [...sentence("joined", join), join.length && leave.length ? " · " : "", ...sentence("left", leave)];
    this.element.replaceChildren(...parts);
  }

  place() {}
}

function sentence(key, people) {
  const count = people.length;
  if (!count) return [];
  const who = count > NAMES_LIMIT ? [t("people", { count })] : listed(people.map(({ username }) => named(username)));
  return partsOf(key, { count, names: who }).flat();
}
