/** The worker's program: decodes and encodes, one picture after the other. */
import {Beside} from './beside.js';
import {LIMITS, readHeader} from './container.js';
import {Decoder} from './decoder.js';
import {Encoder} from './encoder.js';
import {packed} from './errors.js';
import {managed} from './colours.js';

/**
 * @typedef {{id: number, verb: 'decode' | 'encode' | 'stop', base: string, input?: any,
 *     options?: any}} Order
 */

/** @type {Map<string, Beside>} by URL */
const places = new Map();
/** @type {Map<number, AbortController>} of orders that wait or are being processed */
const running = new Map();
let last = Promise.resolve();
/** @type {(message: object, transfer?: Transferable[]) => void} */
let tell = () => {};

/** @param {Order} order */
export function received(order) {
  if (order.verb === 'stop') {
    running.get(order.id)?.abort();
    return;
  }
  const controller = new AbortController();
  running.set(order.id, controller);
  last = last.then(() => work(order, controller.signal));
}

/**
 * @param {Order} order
 * @param {AbortSignal} signal
 */
async function work({id, verb, base, input, options}, signal) {
  tell = (message, transfer = []) => self.postMessage({id, ...message}, {transfer});
  try {
    signal.throwIfAborted();
    const result = await VERBS[verb](beside(base), input, {
      ...options,
      signal,
      onProgress: (done, total) => tell({progress: {what: verb, done, total}}),
    });
    const data = verb === 'encode' ? result : result.rgba;
    tell({result}, [data.buffer]);
  } catch (error) {
    tell({error: packed(error)});
  } finally {
    running.delete(id);
  }
}

const VERBS = {
  async decode(place, data, options) {
    const limits = {...LIMITS, ...options.limits};
    const header = readHeader(data, limits);
    const model = await place.model(header.fingerprint);
    const onPiece = options.pieces
      ? (box, rgba) => tell({piece: {box, rgba}}, [rgba.buffer])
      : undefined;
    const image = await new Decoder(model).decode(data, {...options, limits, onPiece});
    return managed(image, data, limits);
  },

  async encode(place, image, options) {
    return new Encoder(await place.first()).encode(image, options);
  },
};

/** @param {string} base */
function beside(base) {
  let place = places.get(base);
  if (!place) {
    place = new Beside(base, (done, total) => tell({progress: {what: 'fetch', done, total}}));
    places.set(base, place);
  }
  return place;
}
