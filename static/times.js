// One formatter each for the whole page: making one is far dearer than using it.
const timeFormat = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const dayFormat = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const fullFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const momentFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const waitFormat = new Intl.RelativeTimeFormat("en");

// In minutes.
const LONGER_UNITS = [["day", 1_440], ["hour", 60]];

export const dayOf = (moment) => dayFormat.format(moment);

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
  return ` You may come back ${waitFormat.format(Math.ceil(minutes / length), unit)}.`;
}

function fill(element, moment, format) {
  element.dateTime = moment.toISOString();
  element.title = wholeTime(moment);
  element.textContent = format.format(moment);
}
