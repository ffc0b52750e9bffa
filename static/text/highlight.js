// Which words of a text a search has found. The rules are the server's: words count without case and accents, and a
// star after a word stands for how it may go on.

import { unaccented } from "./folding.js";

const WORD = /([\p{L}\p{N}\p{M}]+)/u;
const QUERY_WORD = /([\p{L}\p{N}\p{M}]+)(\*?)/gu;
const BEFORE_HIT_CHARS = 60;

// What was typed so far, as a query: the last word may be unfinished.
export function queryOf(typed) {
  const query = typed.trim();
  return /[\p{L}\p{N}\p{M}]$/u.test(query) && query.split('"').length % 2 ? `${query}*` : query;
}

// A text in pieces, of which every second is a hit; the first is not long.
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
