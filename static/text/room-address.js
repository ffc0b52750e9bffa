const DEFAULT_ROOM = "lobby";

// The server's rules, in src/fastchat/protocol/names.py. The server also refuses a few letters of new scripts.
const NAME = /^(?!\p{M})[[\p{L}\p{Mn}\p{Mc}\p{Nd}._\-]--\p{DI}]{1,64}$/v;
const MAX_BYTES = 192;

// Parses the part of the address after the #: a room, and possibly a message in it, as in #room/42. `room` is the key of
// the name that was asked for, and `valid` says whether a room can have it.
export function roomFromHash(hash) {
  const [, asked, offset] = /^#?(.*?)(?:\/(\d{1,15}))?$/s.exec(hash);
  const room = keyOf(decoded(asked)) || DEFAULT_ROOM;
  return { room, offset: Number(offset ?? 0), valid: isRoom(room) };
}

// Returns the name by which the server knows a room: in small letters and in NFC.
export const keyOf = (name) => [...name.normalize("NFD")].map(folded).join("").normalize("NFC");

// Whether a room can have a key.
export const isRoom = (key) => NAME.test(key) && new TextEncoder().encode(key).length <= MAX_BYTES;

// Returns the room name for what somebody typed: "#Café Sud" becomes café-sud. The address of a room is accepted, too.
export function roomNameOf(typed) {
  const asked = decoded(typed.trim().replace(/^.*[#＃]/s, "").replace(/\/\d*$/, ""));
  return keyOf(asked.replace(/\s+/g, "-"));
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

// Folds the case of a letter as Unicode does. In capital letters, ß and SS are the same. The dotless i has the capital
// of another letter, and Cherokee is folded to capitals.
function folded(letter) {
  if (letter === "ı") return letter;
  if (/\p{sc=Cher}/u.test(letter)) return letter.toUpperCase();
  return letter.toLowerCase().toUpperCase().toLowerCase();
}
