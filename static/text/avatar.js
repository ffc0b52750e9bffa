import { folded } from "./folding.js";

const HUES = 24;

// The same hue for the same person in every browser, whatever the case or width of the letters.
// Only the hue: lightness and chroma belong to the style sheet, which keeps them readable.
export function hueOf(name) {
  let hash = 0;
  for (const letter of folded(name)) hash = (hash * 31 + letter.codePointAt(0)) % 65_521;
  return (hash % HUES) * (360 / HUES);
}

// Fills an element's avatar and name, in the person's colour.
export function fillPerson(element, name) {
  element.style.setProperty("--hue", hueOf(name));
  element.querySelector(".avatar").textContent = String.fromCodePoint(name.codePointAt(0)).toUpperCase();
  element.querySelector("bdi").textContent = name;
}
