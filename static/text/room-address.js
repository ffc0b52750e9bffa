import { unaccented } from "./folding.js";

const DEFAULT_ROOM = "lobby";

// The server's rule, in src/fastchat/protocol/names.py.
const ROOM_PATTERN = /^[a-z0-9._-]{1,64}$/;

// Parses the part of the address after the #: a room, and possibly a message in it, as in #room/42. `room` is the name
// that was asked for, and `valid` says whether a room can have it.
export function roomFromHash(hash) {
  const [, asked, offset] = /^#?(.*?)(?:\/(\d{1,15}))?$/s.exec(hash);
  const room = decoded(asked).toLowerCase() || DEFAULT_ROOM;
  return { room, offset: Number(offset ?? 0), valid: isRoom(room) };
}

export const isRoom = (name) => ROOM_PATTERN.test(name);

// Returns the room name for what somebody typed: "#Café Sud" becomes cafe-sud. The address of a room is accepted, too.
export function roomNameOf(typed) {
  const asked = decoded(typed.trim().replace(/^.*#/s, "").replace(/\/\d*$/, ""));
  return unaccented(asked).replace(/\s+/g, "-");
}

export const addressOf = (room, offset) => `#${encodeURIComponent(room)}${offset ? `/${offset}` : ""}`;

// Decodes a part of an address; returns it unchanged if it is malformed.
export function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
