/*
 * Keeps the page for when there is no network: what it was made of last is shown then.
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
    event.respondWith(newest(request));
  }
});

/** What the network has, or else what it had. @param {Request} request */
async function newest(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(request, {ignoreSearch: true});
    if (kept) return kept;
    throw error;
  }
}
