import { folded } from "./folding.js";

// People could not tell more hues apart.
const HUES = 24;

// Returns the hue of a name in degrees: the same in every browser, whatever the case or width of the letters. Lightness
// and chroma are in styles/person.css, which keeps the colours readable.
export function hueOf(name) {
  let hash = 0;
  for (const letter of folded(name)) hash = (hash * 31 + letter.codePointAt(0)) % 65_521;
  return (hash % HUES) * (360 / HUES);
}

// Fills the avatar and the name of an element, in the person's colour.
export function fillPerson(element, name) {
  element.style.setProperty("--hue", hueOf(name));
  element.querySelector(".avatar").textContent = String.fromCodePoint(name.codePointAt(0)).toUpperCase();
  element.querySelector("bdi").textContent = name;
}
