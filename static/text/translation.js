// The page's words, in the language that before-paint.js has found for the reader. What users say is nobody's to translate.

export const LANGUAGES = { en: "English", ar: "العربية" };

// For dates, numbers and lists: of the reader's region, where he has one.
export const locale = document.documentElement.lang;
export const language = new Intl.Locale(locale).language;

const { words } = await import(`../lang/${language}.js`);
const numbers = new Intl.NumberFormat(locale);
const plurals = new Intl.PluralRules(locale);

// A text with its placeholders filled in; of several forms the one for `count`.
export function t(key, values) {
  return partsOf(key, values).join("");
}

// The same as a list, for values that are nodes.
export function partsOf(key, values = {}) {
  const found = words[key];
  const text = typeof found === "object" ? (found[plurals.select(values.count)] ?? found.other) : found;
  return text.split(/\{(\w+)\}/).map((part, index) => (index % 2 ? shown(values[part]) : part));
}

// Whether there is such a text.
export const has = (key) => Object.hasOwn(words, key);

// What an error says to the reader: in another language than the server's, what that has for its code.
export function errorOf(error) {
  const key = `error_${error.code}`;
  return has(key) ? t(key, error) : error.message;
}

// Fills the document and its templates.
export function translate(root = document) {
  for (const [attribute, fill] of Object.entries(FILLS)) {
    for (const element of root.querySelectorAll(`[${attribute}]`)) fill(element, element.getAttribute(attribute));
  }
  for (const template of root.querySelectorAll("template")) translate(template.content);
}

const FILLS = {
  "data-t": (element, key) => element.append(t(key)),
  "data-t-label": (element, key) => (element.ariaLabel = t(key)),
  "data-t-title": (element, key) => (element.ariaLabel = element.title = t(key)),
  "data-t-placeholder": (element, key) => (element.ariaLabel = element.placeholder = t(key)),
  // A text about the room: its name is filled in where there is an element for it.
  "data-t-room": (element, key) => element.replaceChildren(...partsOf(key, { room: roomElement() })),
};

function roomElement() {
  const element = document.createElement("bdi");
  element.dataset.room = "";
  return element;
}

// A number in the reader's digits; anything else as it is.
export function shown(value) {
  return typeof value === "number" ? numbers.format(value) : value;
}
