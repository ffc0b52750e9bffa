// The service worker. It stores the files of the page, so that a reload shows the page and its outbox even if the
// server cannot be reached. As long as the server answers, nothing is served from the store.

const CACHE = "fastchat";

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && keyOf(url)) event.respondWith(answer(event));
});
addEventListener("message", (event) => event.waitUntil(compare(event.data)));

async function answer(event) {
  const { request } = event;
  try {
    const response = await fetch(request);
    // A proxy answers like that if its server is down, and so does a server at its limit.
    if (response.status >= 500) return (await caches.match(keyOf(request.url))) ?? response;
    event.waitUntil(keep(request.url, response.clone()));
    return response;
  } catch {
    return (await caches.match(keyOf(request.url))) ?? Response.error();
  }
}

// A page sends the addresses of the files that it has `loaded` and of those that it may need `later`. Files that it has
// loaded before this worker was in control are stored now. Stored files that it has not loaded are fetched again,
// because they may be outdated.
async function compare({ loaded, later, controlled }) {
  const kept = (await (await caches.open(CACHE)).keys()).map(({ url }) => url);
  const wanted = new Set([...loaded, ...later, ...kept].map(keyOf));
  const here = new Set(controlled ? loaded.map(keyOf) : []);
  const missed = [...wanted].filter((key) => key && !here.has(key));
  await Promise.allSettled(missed.map(async (key) => keep(key, await fetch(key))));
}

async function keep(url, response) {
  const cache = await caches.open(CACHE);
  if (response.status === 200) await cache.put(keyOf(url), response);
  else if (response.status === 404) await cache.delete(keyOf(url));
}

// Returns the key under which a file of the page is stored, without query and fragment; "" for any other address.
function keyOf(address) {
  const { origin, pathname } = new URL(address, location);
  return origin === location.origin && /^\/($|static\/)/.test(pathname) ? origin + pathname : "";
}
