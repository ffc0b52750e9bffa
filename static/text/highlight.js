// Finds the words of a text that a search matched. The rules are the server's: case and accents do not count, and a
// star after a word stands for any ending.

import { unaccented } from "./folding.js";

const WORD = /([\p{L}\p{N}\p{M}]+)/u;
const QUERY_WORD = /([\p{L}\p{N}\p{M}]+)(\*?)/gu;
const BEFORE_HIT_CHARS = 60;

// Returns the query for what was typed so far: the last word may be unfinished.
export function queryOf(typed) {
  const query = typed.trim();
  return /[\p{L}\p{N}\p{M}]$/u.test(query) && query.split('"').length % 2 ? `${query}*` : query;
}

// Divides a text into pieces, every second of which is a match. The first piece is shortened.
export function piecesOf(text, query) {
  const terms = [...query.matchAll(QUERY_WORD)].map(([, word, star]) => [unaccented(word), star]);
  const isHit = (word) => terms.some(([term, star]) => (star ? word.startsWith(term) : word === term));
  const pieces = [""];
  for (const [index, part] of text.split(WORD).entries()) {
    if (index % 2 && isHit(unaccented(part))) pieces.push(part, "");
    else pieces[pieces.length - 1] += part;
  }
  if (pieces.length > 1) pieces[0] = shortened(pieces[0]);
  return pieces;
}

function shortened(text) {
  const letters = [...text];
  if (letters.length <= BEFORE_HIT_CHARS) return text;
  const kept = letters.slice(-BEFORE_HIT_CHARS).join("");
  return `…${kept.slice(kept.indexOf(" ") + 1)}`;
}
