// One formatter each for the whole page: making one is far dearer than using it.
const timeFormat = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const dayFormat = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const fullFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export const dayOf = (moment) => dayFormat.format(moment);

export function fillTime(element, moment) {
  element.dateTime = moment.toISOString();
  element.title = fullFormat.format(moment);
  element.textContent = timeFormat.format(moment);
}
