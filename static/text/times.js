import { locale, t } from "./translation.js";

// Creating a formatter costs far more than using one, so each exists once.
const timeFormat = new Intl.DateTimeFormat(locale, { timeStyle: "short" });
const dayFormat = new Intl.DateTimeFormat(locale, { weekday: "long", day: "numeric", month: "long" });
const yearFormat = new Intl.DateTimeFormat(locale, { dateStyle: "full" });
const fullFormat = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "medium" });
const momentFormat = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
const waitFormat = new Intl.RelativeTimeFormat(locale);
const listFormat = new Intl.ListFormat(locale);

// Units with their lengths in minutes.
const LONGER_UNITS = [["day", 1_440], ["hour", 60]];

// Returns the name of a day, with the year if it is not the present one.
export function dayOf(moment) {
  const format = moment.getFullYear() === new Date().getFullYear() ? dayFormat : yearFormat;
  return format.format(moment);
}

// The same with "Today" and "Yesterday".
export function nearDayOf(day) {
  const now = new Date();
  if (day === dayOf(now)) return t("today");
  return day === dayOf(new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1)) ? t("yesterday") : day;
}

export const wholeTime = (moment) => fullFormat.format(moment);

export function fillTime(element, moment) {
  fill(element, moment, timeFormat);
}

// Fills a time element with date and time, for places without a day above.
export function fillMoment(element, moment) {
  fill(element, moment, momentFormat);
}

// Returns a sentence that says when the reader can come back, to be appended to another sentence; "" if nobody knows.
export function comeBack(afterMs) {
  const minutes = Math.ceil(afterMs / 60_000);
  if (!minutes) return "";
  const [unit, length] = LONGER_UNITS.find(([, length]) => minutes >= 2 * length) ?? ["minute", 1];
  return ` ${t("comeBack", { when: waitFormat.format(Math.ceil(minutes / length), unit) })}`;
}

export const listOf = (names) => listFormat.format(names);

// Returns nodes as a list in the reader's language, with the words between them.
export function listed(nodes) {
  const places = listFormat.formatToParts(nodes.map((_, index) => `${index}`));
  return places.map(({ type, value }) => (type === "element" ? nodes[value] : value));
}

function fill(element, moment, format) {
  element.dateTime = moment.toISOString();
  element.title = wholeTime(moment);
  element.textContent = format.format(moment);
}
