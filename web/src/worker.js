/*
 * The worker. A plain script, not a module: LiteRT's own loader calls `importScripts`,
 * which modules do not have. Messages that come before the module wait for it.
 */
const service = import('./service.js');
self.addEventListener('message', async ({data}) => (await service).received(data));
