/*
 * Keeps the page for when there is no network: then its files as fetched last are used.
 * Models and WebAssembly (.gz) are kept by src/beside.js, which checks their hashes.
 */
const CACHE = 'tfcodec-page';
const KEPT = /(\/|\.(html|js|css|svg|json))$/;

self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (event) => {
  const {request} = event;
  const {origin, pathname} = new URL(request.url);
  if (request.method === 'GET' && origin === location.origin && KEPT.test(pathname)) {
    event.respondWith(newest(event));
  }
});

/** What the network has, or else what it had. @param {FetchEvent} event */
async function newest(event) {
  const {request} = event;
  try {
    const response = await fetch(request);
    if (response.ok) event.waitUntil(keep(request, response.clone()));
    return response;
  } catch (error) {
    const cache = await caches.open(CACHE);
    const kept = await cache.match(request, {ignoreSearch: true});
    if (kept) return kept;
    throw error;
  }
}

/** Puts a response into the cache, if there is room. */
async function keep(request, response) {
  const cache = await caches.open(CACHE);
  await cache.put(request, response).catch(() => {});
}
