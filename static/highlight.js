// Which words of a text a search has found. The rules are the server's: words count without case and accents, and a
// star after a word stands for how it may go on.

const WORD = /[\p{L}\p{N}\p{M}]+/gu;
const QUERY_WORD = /([\p{L}\p{N}\p{M}]+)(\*?)/gu;
const BEFORE_HIT_CHARS = 60;

// What was typed so far, as a query: the last word may be unfinished.
export function queryOf(typed) {
  const query = typed.trim();
  return /[\p{L}\p{N}\p{M}]$/u.test(query) && query.split('"').length % 2 ? `${query}*` : query;
}

// A text in pieces, `{ text, hit }`, beginning not long before the first hit.
export function piecesOf(text, query) {
  const terms = [...query.matchAll(QUERY_WORD)].map(([, word, star]) => ({ word: folded(word), prefix: star !== "" }));
  const pieces = [];
  let end = 0;
  for (const { 0: word, index } of text.matchAll(WORD)) {
    if (!isHit(folded(word), terms)) continue;
    pieces.push({ text: text.slice(end, index), hit: false }, { text: word, hit: true });
    end = index + word.length;
  }
  pieces.push({ text: text.slice(end), hit: false });
  if (pieces.length > 1) pieces[0].text = shortened(pieces[0].text);
  return pieces.filter((piece) => piece.text);
}

function isHit(word, terms) {
  return terms.some((term) => (term.prefix ? word.startsWith(term.word) : word === term.word));
}

function folded(word) {
  return word.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

function shortened(text) {
  const letters = [...text];
  if (letters.length <= BEFORE_HIT_CHARS) return text;
  const kept = letters.slice(-BEFORE_HIT_CHARS).join("");
  return `…${kept.slice(kept.indexOf(" ") + 1)}`;
}
