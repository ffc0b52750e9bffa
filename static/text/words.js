// Divides texts into words as the server's search does. The rules are those of src/fastchat/history/words.py.

import { UNSPACED } from "./folding.js";

// Some apostrophes are letters, and divide words like the others.
const LETTER = "[[\\p{L}\\p{M}\\p{N}\\p{Cf}]--[\\u02b9\\u02bb\\u02bc\\u02be\\u02bf]]";
const SINGLE = `(?=${UNSPACED})${LETTER}`;
const SPACED = `(?:(?!${UNSPACED})${LETTER})+`;
const WORD = new RegExp(`(${SINGLE}\\p{M}*|${SPACED})`, "v");
const FOLDED_WORD = new RegExp(`${SINGLE}|${SPACED}`, "gv");

// The marks of alphabets, and characters without a shape. The marks of voiced kana count.
const IGNORED =
  /[[\p{M}&&[\p{sc=Zinh}\p{sc=Arab}\p{sc=Hebr}\p{sc=Cyrl}\p{sc=Syrc}]]--[\u3099\u309a]]|[\p{Cf}\p{DI}\u0640]/gv;
const LETTERS = /[đħıłøŧƀɨƶðæœþٱىیېۍےکڪةھہۃەς\u30a1-\u30f6\u30fd\u30fe]|\p{Nd}/gu;
const OTHERS = new Map([
  ...pairs("đħıłøŧƀɨƶð", "dhilotbizd"),
  ...pairs("ٱىیېۍےکڪةھہۃەς", "ايييييككهههههσ"),
  ...Object.entries({ æ: "ae", œ: "oe", þ: "th" }),
]);
const KATAKANA = 0x30a1;
const TO_HIRAGANA = 0x60;

// Divides a text into pieces, every second of which is a word as it was written.
export const splitWords = (text) => text.split(WORD);

// Returns the words of a text without all differences that do not count: case, accents, widths and forms of letters.
export function wordsOf(text) {
  const bare = text.normalize("NFKD").replace(IGNORED, "");
  // In capital letters, ß and SS are the same.
  const lower = bare.toLowerCase().toUpperCase().toLowerCase().replace(LETTERS, plain);
  return lower.normalize("NFC").match(FOLDED_WORD) ?? [];
}

function plain(letter) {
  const other = OTHERS.get(letter);
  if (other) return other;
  const code = letter.codePointAt(0);
  if (code >= KATAKANA && code < KATAKANA + TO_HIRAGANA) return String.fromCodePoint(code - TO_HIRAGANA);
  return valueOf(code);
}

// Returns the value of a digit. The ten digits of a script follow each other.
function valueOf(code) {
  let zero = code;
  while (/\p{Nd}/u.test(String.fromCodePoint(zero - 1))) zero -= 1;
  return String(code - zero);
}

function pairs(letters, others) {
  return [...letters].map((letter, index) => [letter, [...others][index]]);
}
