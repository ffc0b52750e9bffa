// The files that the page loads only when they are needed. The service worker fetches them early, so that the page has
// them even if the server cannot be reached.
const LATER = [
  "around/preferences.js",
  "around/search.js",
  "compose/emoji.js",
  "compose/picker.js",
  "icon-unread.svg",
  "styles/picker.css",
  "text/highlight.js",
  "text/words.js",
];

// Has a service worker (sw.js) store this page for when the server cannot be reached. Browsers allow service workers
// only over https and on localhost; elsewhere nothing is stored.
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
    // Service workers are not available here.
  }
}
