import { unaccented } from "./folding.js";

const DEFAULT_ROOM = "lobby";

const ROOM_PATTERN = /^[a-z0-9._-]{1,64}$/;

// Reads from the address the room, and the message there if it names one: #room/42. `valid` tells whether it is a room;
// `room` is what was asked for either way.
export function roomFromHash(hash) {
  const [, asked, offset] = /^#?(.*?)(?:\/(\d{1,15}))?$/s.exec(hash);
  const room = decoded(asked).toLowerCase() || DEFAULT_ROOM;
  return { room, offset: Number(offset ?? 0), valid: isRoom(room) };
}

export const isRoom = (name) => ROOM_PATTERN.test(name);

// What somebody typed, as far as it can be a room: "#Café Sud" is cafe-sud. It may also be a room's whole address.
export function roomNameOf(typed) {
  const asked = decoded(typed.trim().replace(/^.*#/s, "").replace(/\/\d*$/, ""));
  return unaccented(asked).replace(/\s+/g, "-");
}

export const addressOf = (room, offset) => `#${encodeURIComponent(room)}${offset ? `/${offset}` : ""}`;

// A part of an address as what it means, or as it is if it means nothing.
export function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
