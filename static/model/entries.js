// What a message is on this page: one object from pending to confirmed, whose `revision` grows with every change, so
// that a view can follow it.

export function change(entry, fields) {
  return Object.assign(entry, fields, { revision: entry.revision + 1 });
}

// Makes an entry the message that a publication describes, in its present state.
export function confirm(entry, { type, room, ...message }, own) {
  const reactions = new Map(Object.entries(message.reactions ?? {}));
  return change(entry, { ...message, reactions, own, order: message.offset, state: "confirmed" });
}

// Carries out an edit, a deletion or a reaction; once more changes nothing.
export function amend(entry, publication) {
  const fieldsOf = AMENDMENTS[publication.type];
  if (fieldsOf && !entry.deleted) change(entry, fieldsOf(publication, entry));
}

const AMENDMENTS = {
  edit: ({ text, timestamp }) => ({ text, edited: timestamp }),
  delete: () => ({ text: "", deleted: true, edited: null, reactions: new Map() }),
  react: (publication, { reactions }) => ({ reactions: reacted(reactions, publication) }),
};

function reacted(reactions, { emoji, username, remove }) {
  const result = new Map(reactions);
  const names = (result.get(emoji) ?? []).filter((name) => name !== username);
  if (!remove) names.push(username);
  if (names.length) result.set(emoji, names);
  else result.delete(emoji);
  return result;
}
