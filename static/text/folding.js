// Letters of scripts without spaces between words, and of Korean, whose particles follow a word without a space. It is
// for regular expressions with the flag u or v.
const SCRIPTS = "Han Hira Kana Bopo Hang Yiii Thai Laoo Khmr Mymr Java Bali".split(" ");
export const UNSPACED = `[${SCRIPTS.map((script) => `\\p{scx=${script}}`).join("")}]`;

// Returns the same text for names that differ only in case or width.
export const folded = (name) => name.normalize("NFKC").toLowerCase();

// Returns the same text for texts that differ only in case, width or accents, for searching.
export const unaccented = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
