// Returns the same text for names that differ only in case or width.
export const folded = (name) => name.normalize("NFKC").toLowerCase();

// Returns the same text for texts that differ only in case, width or accents, for searching.
export const unaccented = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
