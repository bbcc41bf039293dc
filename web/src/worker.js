/*
 * The worker. It is a plain script, not a module, as LiteRT's loader calls `importScripts`,
 * which modules do not have. Messages that arrive before the module is loaded wait for it.
 */
const service = import('./service.js');
self.addEventListener('message', async ({data}) => (await service).received(data));
