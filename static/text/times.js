import { locale, t } from "./translation.js";

// One formatter each for the whole page: making one is far dearer than using it.
const timeFormat = new Intl.DateTimeFormat(locale, { timeStyle: "short" });
const dayFormat = new Intl.DateTimeFormat(locale, { weekday: "long", day: "numeric", month: "long" });
const yearFormat = new Intl.DateTimeFormat(locale, { dateStyle: "full" });
const fullFormat = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "medium" });
const momentFormat = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
const waitFormat = new Intl.RelativeTimeFormat(locale);
const listFormat = new Intl.ListFormat(locale);

// In minutes.
const LONGER_UNITS = [["day", 1_440], ["hour", 60]];

// A day's name; the year only where it is another.
export function dayOf(moment) {
  const format = moment.getFullYear() === new Date().getFullYear() ? dayFormat : yearFormat;
  return format.format(moment);
}

// The same for who reads it today.
export function nearDayOf(day) {
  const now = new Date();
  if (day === dayOf(now)) return t("today");
  return day === dayOf(new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1)) ? t("yesterday") : day;
}

export const wholeTime = (moment) => fullFormat.format(moment);

export function fillTime(element, moment) {
  fill(element, moment, timeFormat);
}

// Where no day is near that would say which.
export function fillMoment(element, moment) {
  fill(element, moment, momentFormat);
}

// A sentence that follows another, for who has to wait; none where nobody knows how long.
export function comeBack(afterMs) {
  const minutes = Math.ceil(afterMs / 60_000);
  if (!minutes) return "";
  const [unit, length] = LONGER_UNITS.find(([, length]) => minutes >= 2 * length) ?? ["minute", 1];
  return ` ${t("comeBack", { when: waitFormat.format(Math.ceil(minutes / length), unit) })}`;
}

export const listOf = (names) => listFormat.format(names);

// The words between come from the language, the nodes stay what they are.
export function listed(nodes) {
  const places = listFormat.formatToParts(nodes.map((_, index) => `${index}`));
  return places.map(({ type, value }) => (type === "element" ? nodes[value] : value));
}

function fill(element, moment, format) {
  element.dateTime = moment.toISOString();
  element.title = wholeTime(moment);
  element.textContent = format.format(moment);
}
