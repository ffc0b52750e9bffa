// A message on this page is one object, an entry, from pending to confirmed. Its `revision` grows with every change, so
// that a row of the log knows when to render again.

export function change(entry, fields) {
  return Object.assign(entry, fields, { revision: entry.revision + 1 });
}

// Whether a person, by their id, is among those who have reacted to a message with an emoji.
export function hasReacted({ reactions }, emoji, user) {
  return reactions.get(emoji)?.some((person) => person.user === user) ?? false;
}

// Turns an entry into the confirmed message that a publication describes.
export function confirm(entry, { type, room, ...message }, own) {
  const reactions = new Map(Object.entries(message.reactions ?? {}));
  return change(entry, { ...message, reactions, own, order: message.offset, state: "confirmed" });
}

// Applies an edit, a deletion or a reaction. Applying it again changes nothing.
export function amend(entry, publication) {
  const fieldsOf = AMENDMENTS[publication.type];
  if (fieldsOf && !entry.deleted) change(entry, fieldsOf(publication, entry));
}

const AMENDMENTS = {
  edit: ({ text, timestamp }) => ({ text, edited: timestamp }),
  delete: () => ({ text: "", deleted: true, edited: null, reactions: new Map() }),
  react: (publication, { reactions }) => ({ reactions: reacted(reactions, publication) }),
};

function reacted(reactions, { emoji, user, username, remove }) {
  const result = new Map(reactions);
  const people = (result.get(emoji) ?? []).filter((person) => person.user !== user);
  if (!remove) people.push({ user, username });
  if (people.length) result.set(emoji, people);
  else result.delete(emoji);
  return result;
}
