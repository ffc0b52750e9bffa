import { atNextFrame, byId, cloneOf, named } from "../dom.js";
import { Drawer } from "./drawer.js";
import { fillPerson } from "../text/avatar.js";
import { unaccented } from "../text/folding.js";
import { partsOf, t } from "../text/translation.js";

// How long a removed person cannot come back.
const REMOVAL_MINUTES = 10;
// If there are at least this many people, there is a field to search for a person.
const SEARCH_FROM = 8;

// The list of the people in the room that is shown.
export class People {
  #drawer = new Drawer("panel", "people-toggle", "(width > 60rem)");
  #field = byId("people-search");
  #question = byId("remove-dialog");
  #roster = null;
  #moderates = false;
  #fillSoon = atNextFrame(() => this.#fill());

  // `remove` is called with the id of the person to remove, and for how many seconds.
  constructor(remove) {
    byId("people").addEventListener("click", ({ target }) => {
      const { remove: username, user } = target.closest("[data-remove]")?.dataset ?? {};
      if (user) this.ask({ user, username });
    });
    this.#question.addEventListener("close", () => {
      const { returnValue, dataset } = this.#question;
      if (returnValue) remove(dataset.user, REMOVAL_MINUTES * 60);
      // The button that had the focus may have been replaced since.
      if (document.activeElement === document.body) this.#focus(dataset.name);
    });
    this.#field.addEventListener("input", () => this.#fill());
  }

  // Shows a room's people at the next frame. `moderates` says whether the reader can remove them.
  show(roster, moderates) {
    if (this.#roster !== roster) this.#field.value = "";
    this.#roster = roster;
    this.#moderates = moderates;
    this.#fillSoon();
  }

  close() {
    this.#drawer.close();
  }

  // Asks the moderator whether to remove a person from the room. Resolves when that is answered.
  ask({ user, username }) {
    this.#question.returnValue = "";
    Object.assign(this.#question.dataset, { name: username, user });
    byId("remove-title").replaceChildren(...partsOf("removeTitle", { name: named(username) }));
    byId("remove-hint").textContent = t("removeHint", { count: REMOVAL_MINUTES });
    this.#question.showModal();
    return new Promise((resolve) => this.#question.addEventListener("close", resolve, { once: true }));
  }

  #fill() {
    const { people, online, user, isCrowd } = this.#roster;
    // There is no list to search in, and the field is hidden.
    if (isCrowd) this.#field.value = "";
    const wanted = unaccented(this.#field.value);
    const found = people.filter(({ username }) => unaccented(username).includes(wanted));
    const more = online - people.length;
    byId("online-count").textContent = online ? t("here", { count: online }) : "";
    const held = document.activeElement?.dataset.remove;
    byId("people").replaceChildren(...found.map((each) => personOf(each, each.user === user, this.#moderates)));
    if (held) this.#focus(held);
    const rest = more > 0 ? t(people.length ? "morePeople" : "people", { count: more }) : "";
    byId("people-more").textContent = wanted && !found.length ? t("nobodyFound") : rest;
    this.#field.hidden = people.length < SEARCH_FROM && !wanted;
  }

  #focus(name) {
    byId("people").querySelector(`[data-remove="${CSS.escape(name)}"]`)?.focus();
  }
}

function personOf({ user, username: name }, isSelf, moderates) {
  const person = cloneOf("person-template");
  fillPerson(person, name);
  person.querySelector("bdi").title = name;
  const button = person.querySelector("button");
  button.hidden = isSelf || !moderates;
  Object.assign(button.dataset, { remove: name, user });
  button.ariaLabel = button.title = t("removePerson", { name });
  person.querySelector(".person__you").hidden = !isSelf;
  return person;
}
