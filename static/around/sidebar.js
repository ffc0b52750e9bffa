import { byId, cloneOf } from "../dom.js";
import { Drawer } from "./drawer.js";
import { addressOf, isRoom, roomNameOf } from "../text/room-address.js";
import { shown, t } from "../text/translation.js";

// Larger numbers are shown as 99+.
const COUNT_LIMIT = 99;

// The list of the reader's rooms, with the number of unread messages in each.
export class Sidebar {
  #drawer = new Drawer("sidebar", "rooms-toggle", "(width > 60rem)");
  #list = byId("rooms");
  #field = byId("room-field");
  #error = byId("room-error");
  #items = new Map();
  #leave;

  // `leave` is called with the name of a room to leave.
  constructor(leave) {
    this.#leave = leave;
    this.#list.addEventListener("click", ({ target }) => this.#clicked(target));
    byId("room-form").addEventListener("submit", (event) => this.#submitted(event));
    this.#field.addEventListener("input", () => this.#tell(""));
  }

  close() {
    this.#drawer.close();
  }

  // `shown` is the room that is shown, one of `rooms`.
  show(rooms, shown) {
    for (const [name, item] of this.#items) {
      if (rooms.some((room) => room.name === name)) continue;
      const hadFocus = item.contains(document.activeElement);
      item.remove();
      this.#items.delete(name);
      if (hadFocus) this.#list.querySelector("a")?.focus();
    }
    for (const room of rooms) this.#fillItem(this.#itemOf(room.name), room, room === shown);
    // The last room cannot be left.
    for (const button of this.#list.querySelectorAll("[data-leave]")) button.hidden = rooms.length < 2;
    const others = rooms.filter((room) => room !== shown);
    const toggle = byId("rooms-toggle");
    fillBadge(toggle.lastElementChild, sumOf(others), others);
  }

  #itemOf(name) {
    const known = this.#items.get(name);
    if (known) return known;
    const item = cloneOf("room-template");
    const link = item.querySelector("a");
    link.href = addressOf(name);
    link.querySelector("bdi").textContent = name;
    const button = item.querySelector("button");
    button.dataset.leave = name;
    button.ariaLabel = button.title = t("leaveRoom", { room: name });
    this.#items.set(name, item);
    this.#list.append(item);
    return item;
  }

  #fillItem(item, room, isShown) {
    const link = item.querySelector("a");
    const count = isShown ? 0 : sumOf([room]);
    if (isShown && !link.ariaCurrent) item.scrollIntoView({ block: "nearest" });
    link.ariaCurrent = isShown ? "page" : null;
    link.title = room.refusal?.message ?? "";
    item.classList.toggle("room-item--refused", Boolean(room.refusal));
    item.classList.toggle("room-item--unread", count !== 0);
    // Failed messages of the room that is shown are visible in its log.
    fillBadge(link.lastElementChild, count, isShown ? [] : [room]);
  }

  #clicked(target) {
    const name = target.closest("[data-leave]")?.dataset.leave;
    if (name) this.#leave(name);
    if (target.closest("a")) this.close();
  }

  #submitted(event) {
    event.preventDefault();
    const name = roomNameOf(this.#field.value);
    if (!name) return;
    if (!isRoom(name)) return this.#tell(t("badRoomHint", { room: this.#field.value }));
    this.#field.value = "";
    this.close();
    location.hash = addressOf(name);
  }

  #tell(error) {
    this.#error.textContent = error;
    this.#field.ariaInvalid = String(Boolean(error));
  }
}

// Returns the number of unread messages in rooms as it is shown, for instance "99+"; 0 if there are none.
export function sumOf(rooms) {
  const count = rooms.reduce((sum, { unread }) => sum + unread.length, 0);
  const more = count > COUNT_LIMIT || rooms.some(({ hasMoreUnread }) => hasMoreUnread);
  return count && `${shown(Math.min(count, COUNT_LIMIT))}${more ? "+" : ""}`;
}

// Fills a badge. A failed message takes precedence over unread ones.
function fillBadge(badge, count, rooms) {
  const failed = rooms.some(({ hasFailed }) => hasFailed);
  badge.hidden = !count && !failed;
  badge.classList.toggle("badge--failed", failed);
  badge.classList.toggle("badge--mentioned", !failed && count !== 0 && rooms.some(({ isMentioned }) => isMentioned));
  badge.firstElementChild.textContent = failed ? "!" : count || "";
  badge.lastElementChild.textContent = failed ? ` ${t("notSent")}` : count ? t("unreadSuffix") : "";
}
