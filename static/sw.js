// Keeps the page for when the server cannot be reached, so that a reload still shows it and its outbox. While it can be,
// nothing comes from here.

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
    // So says a proxy whose server is away, or a server that is full.
    if (response.status >= 500) return (await caches.match(keyOf(request.url))) ?? response;
    event.waitUntil(keep(request.url, response.clone()));
    return response;
  } catch {
    return (await caches.match(keyOf(request.url))) ?? Response.error();
  }
}

// A page has `loaded` this, and may need that `later`. What it got before there was a worker is kept now; what it does
// without so far may be outdated.
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

// What a file of the page is kept under, whatever is asked of it; nothing for all that is not the page's.
function keyOf(address) {
  const { origin, pathname } = new URL(address, location);
  return origin === location.origin && /^\/($|static\/)/.test(pathname) ? origin + pathname : "";
}
