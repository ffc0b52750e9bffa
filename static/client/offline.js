// What comes when it is asked for, so that it does when there is no server, too.
const LATER = [
  "around/preferences.js",
  "around/search.js",
  "compose/emoji.js",
  "compose/picker.js",
  "icon-unread.svg",
  "styles/picker.css",
  "text/highlight.js",
];

// Has a service worker (sw.js) keep this page for when the server cannot be reached. Where there can be none, over http or
// because somebody forbids it, nothing is kept.
export async function keepOffline() {
  try {
    const { serviceWorker } = navigator;
    const controlled = Boolean(serviceWorker.controller);
    await serviceWorker.register("/sw.js");
    const { active } = await serviceWorker.ready;
    const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
    const later = LATER.map((name) => `/static/${name}`);
    active.postMessage({ loaded: ["/", ...loaded], later, controlled });
  } catch {
    // None.
  }
}
