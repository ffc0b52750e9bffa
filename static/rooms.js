const DEFAULT_ROOM = "lobby";

const ROOM_PATTERN = /^[a-z0-9._-]{1,64}$/;

// Reads the room from the address. `valid` tells whether it is one; `room` is what was asked for either way.
export function roomFromHash(hash) {
  const room = decoded(hash.replace(/^#/, "")).toLowerCase() || DEFAULT_ROOM;
  return { room, valid: ROOM_PATTERN.test(room) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
