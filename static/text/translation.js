// The page's texts in the reader's language, which before-paint.js has determined. Messages are not translated.

export const LANGUAGES = { en: "English", ar: "العربية" };

// The locale includes the reader's region, if there is one, for dates, numbers and lists.
export const locale = document.documentElement.lang;
export const language = new Intl.Locale(locale).language;

const { words } = await import(`../lang/${language}.js`);
const numbers = new Intl.NumberFormat(locale);
const plurals = new Intl.PluralRules(locale);

// Returns a text with its placeholders filled in. If it has plural forms, `count` chooses the form.
export function t(key, values) {
  return partsOf(key, values).join("");
}

// The same as a list of parts, for values that are nodes.
export function partsOf(key, values = {}) {
  const found = words[key];
  const text = typeof found === "object" ? (found[plurals.select(values.count)] ?? found.other) : found;
  return text.split(/\{(\w+)\}/).map((part, index) => (index % 2 ? shown(values[part]) : part));
}

// Whether this language has a text for a key.
export const has = (key) => Object.hasOwn(words, key);

// Returns the sentence of a server's error: the language's own for its code, or the server's English sentence.
export function errorOf(error) {
  const key = `error_${error.code}`;
  return has(key) ? t(key, error) : error.message;
}

// Fills the texts into the document and its templates.
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
  // A text about the room, with an element that app.js fills with the room's name.
  "data-t-room": (element, key) => element.replaceChildren(...partsOf(key, { room: roomElement() })),
};

function roomElement() {
  const element = document.createElement("bdi");
  element.dataset.room = "";
  return element;
}

// Returns a number in the reader's digits, and anything else unchanged.
export function shown(value) {
  return typeof value === "number" ? numbers.format(value) : value;
}
