// A message on this page is one object, an entry, from pending to confirmed. Its `revision` grows with every change, so
// that a row of the log knows when to render again.

import { changesOf } from "../client.js";

export function change(entry, fields) {
  return Object.assign(entry, fields, { revision: entry.revision + 1 });
}

// Whether a person, by their id, is among those who have reacted to a message with an emoji.
export function hasReacted({ reactions }, emoji, user) {
  return Object.hasOwn(reactions ?? {}, emoji) && reactions[emoji].some((person) => person.user === user);
}

// Turns an entry into the confirmed message that a publication describes.
export function confirm(entry, { type, room, ...message }, own) {
  return change(entry, { ...message, own, order: message.offset, state: "confirmed" });
}

// Applies an edit, a deletion or a reaction. Applying it again changes nothing.
export function amend(entry, publication) {
  if (!entry.deleted) change(entry, changesOf(publication, entry));
}
