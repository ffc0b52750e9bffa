// One formatter each for the whole page: making one is far dearer than using it.
const timeFormat = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const dayFormat = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const fullFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const momentFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export const dayOf = (moment) => dayFormat.format(moment);

export const wholeTime = (moment) => fullFormat.format(moment);

export function fillTime(element, moment) {
  fill(element, moment, timeFormat);
}

// Where no day is near that would say which.
export function fillMoment(element, moment) {
  fill(element, moment, momentFormat);
}

function fill(element, moment, format) {
  element.dateTime = moment.toISOString();
  element.title = wholeTime(moment);
  element.textContent = format.format(moment);
}
