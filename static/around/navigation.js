import { addressOf, roomFromHash } from "../text/room-address.js";

// Connects the address with the room that is shown: #room, or #room/42 for a message in it.
//
// The address decides: links, the browser's buttons and typed addresses change it, and `show` gets the room that it
// names. As soon as the page has taken the offset of a message from it, the address names only the room, so that a
// reload does not return to the message.
export class Navigation {
  #chat;
  #on;
  // The names of the rooms that were shown, the last one at the end.
  #trail = [];
  // The offset of the message that the address asks for; 0 for none.
  #offset = 0;

  // `on` has a function each for: moved (the address has changed), show (a room by its name, which may be invalid), and
  // refused (an invalid name, while a room is shown).
  constructor(chat, on) {
    this.#chat = chat;
    this.#on = on;
    addEventListener("hashchange", () => {
      on.moved();
      this.follow();
    });
  }

  // Shows the room that the address names.
  follow() {
    const { room, offset, valid } = roomFromHash(location.hash);
    // If the name is invalid, the room that is shown stays.
    if (!valid && this.#chat.room) {
      this.#replace(this.#chat.room.name);
      this.#on.refused(room);
      return;
    }
    this.#offset = offset;
    this.#on.show(room, valid);
  }

  // Remembers that a room is shown.
  enter(room) {
    this.#trail = [...this.#trail.filter((name) => name !== room), room];
  }

  // Returns the offset of the message that the address asks for, and forgets it; 0 for none.
  takeOffset() {
    const offset = this.#offset;
    this.#offset = 0;
    if (offset) this.#replace(this.#chat.room.name);
    return offset;
  }

  // If this room is shown, goes back to the one that was shown before it.
  goBackFrom(name) {
    if (this.#chat.room.name !== name) return;
    const others = this.#chat.rooms.map((room) => room.name).filter((each) => each !== name);
    this.#replace(this.#trail.findLast((each) => others.includes(each)) ?? others[0]);
    this.follow();
  }

  // Goes `step` rooms on in the list, from its end to its beginning; with `unread`, to the next room with new messages.
  step(step, { unread }) {
    const { rooms, room } = this.#chat;
    const around = rooms.map((_, index) => rooms.at((rooms.indexOf(room) + step * (index + 1)) % rooms.length));
    const next = around.find((each) => each !== room && (!unread || each.unread.length));
    if (next) location.hash = addressOf(next.name);
  }

  #replace(room) {
    history.replaceState(null, "", addressOf(room));
  }
}
