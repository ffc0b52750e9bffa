// Finds the words of a text that a search matched.

import { splitWords, wordsOf } from "./words.js";

// A quoted phrase or a word; a star after it stands for any ending.
const TERM = /"([^"]*)"(\*?)|\S+/g;
const BEFORE_HIT_CHARS = 60;

// Returns the query for what was typed so far: the last word may be unfinished.
export function queryOf(typed) {
  const query = typed.trim();
  return /[\p{L}\p{N}\p{M}]$/u.test(query) && query.split('"').length % 2 ? `${query}*` : query;
}

// Divides a text into pieces, every second of which is a match. The first piece is shortened.
export function piecesOf(text, query) {
  const parts = splitWords(text);
  const hits = hitsIn(parts, query);
  const pieces = [""];
  for (const [at, part] of parts.entries()) {
    if (!hits.has(at)) pieces[pieces.length - 1] += part;
    else if (pieces.length > 1 && !pieces.at(-1)) pieces[pieces.length - 2] += part;
    else pieces.push(part, "");
  }
  if (pieces.length > 1) pieces[0] = shortened(pieces[0]);
  return pieces;
}

// Returns the indexes of the parts of a text that belong to a match.
function hitsIn(parts, query) {
  // Most words occur several times, and folding takes time.
  const known = new Map();
  const words = parts.flatMap((part, at) => {
    if (at % 2 === 0) return [];
    if (!known.has(part)) known.set(part, wordsOf(part));
    return known.get(part).map((word) => ({ word, at }));
  });
  const hits = new Set();
  for (const [term, phrase, star] of query.matchAll(TERM)) {
    const wanted = wordsOf(phrase ?? term);
    const isPrefix = star === "*" || (phrase === undefined && /[*＊]$/.test(term));
    const matches = (word, index) =>
      word === wanted[index] || (isPrefix && index === wanted.length - 1 && word?.startsWith(wanted[index]));
    for (let start = 0; wanted.length && start + wanted.length <= words.length; start += 1) {
      const found = words.slice(start, start + wanted.length);
      if (found.every(({ word }, index) => matches(word, index))) for (const { at } of found) hits.add(at);
    }
  }
  return hits;
}

function shortened(text) {
  const letters = [...text];
  if (letters.length <= BEFORE_HIT_CHARS) return text;
  const kept = letters.slice(-BEFORE_HIT_CHARS).join("");
  return `…${kept.slice(kept.indexOf(" ") + 1)}`;
}
