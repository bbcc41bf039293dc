/**
 * `.tfc` images in a browser.
 *
 *     import {decode, encode} from './tfcodec/src/index.js';
 *     const {width, height, rgba} = await decode(bytes);
 *     const file = await encode(imageData, {quality: 60});
 *
 * The work is done in a worker, by files beside this module: see docs/web.md.
 */
import {readHeader} from './container.js';
import {ModelError, unpacked} from './errors.js';

export {readHeader};
export {CorruptStream, ModelError, StreamError, UnsupportedStream} from './errors.js';

/**
 * @typedef {import('./decoder.js').Image} Image
 * @typedef {import('./tiling.js').Box} Box
 * @typedef {{what: 'fetch' | 'decode' | 'encode', done: number, total: number}} Progress
 *     `fetch` counts bytes of the model and of LiteRT
 *
 * @typedef {object} Common
 * @property {AbortSignal} [signal] stops the work
 * @property {(progress: Progress) => void} [onProgress]
 *
 * @typedef {object} DecodeOptions
 * @property {number} [realism] 0 for the picture nearest to the original, up to 1 for one
 *     with synthesised texture; by default the model's for the file's quality
 * @property {Box} [region] pixels that are wanted; only what they need is decoded
 * @property {Partial<import('./container.js').Limits>} [limits] on what a file may decode to
 * @property {(piece: {box: Box, rgba: Uint8ClampedArray<ArrayBuffer>}) => void} [onPiece]
 *     called with each part of the picture when it is decoded
 *
 * @typedef {object} EncodeOptions
 * @property {number} [quality] 0 to 100; 60 by default
 */

/** URL of models and LiteRT; a page may change it before it decodes. */
export const settings = {beside: new URL('../beside/', import.meta.url).href};

/** @type {Worker | null} */
let worker = null;
/** @type {Map<number, {resolve: Function, reject: Function, options: any}>} */
const waiting = new Map();
let orders = 0;

/**
 * Decodes a file. It throws a `StreamError` if anything is wrong with the bytes, and a
 * `ModelError` if something is wrong with the page's files or the browser.
 *
 * @param {Uint8Array | ArrayBuffer | Blob} data a whole file
 * @param {DecodeOptions & Common} [options]
 * @returns {Promise<Image>} in sRGB; only the region, if one is given
 */
export async function decode(data, options = {}) {
  const bytes = await bytesOf(data);
  const {realism, region, limits, onPiece} = options;
  return ordered('decode', bytes, {realism, region, limits, pieces: Boolean(onPiece)}, options);
}

/**
 * Encodes pixels.
 *
 * @param {ImageData | import('./encoder.js').Pixels} image sRGB
 * @param {EncodeOptions & Common} [options]
 * @returns {Promise<Uint8Array<ArrayBuffer>>} a `.tfc` file
 */
export async function encode(image, options = {}) {
  const {width, height, data} = image;
  return ordered('encode', {width, height, data}, {quality: options.quality}, options);
}

/** Ends the worker, which frees its memory. A later call starts another one. */
export function close() {
  failed(new ModelError('closed'));
}

/** @param {Uint8Array | ArrayBuffer | Blob} data */
async function bytesOf(data) {
  if (data instanceof Blob) return new Uint8Array(await data.arrayBuffer());
  return data instanceof Uint8Array ? data : new Uint8Array(data);
}

/**
 * Sends an order to the worker; returns a promise of its result.
 *
 * @param {'decode' | 'encode'} verb
 * @param {any} input
 * @param {object} wishes the options to send to the worker
 * @param {any} options all options, with functions that are called here
 * @returns {Promise<any>}
 */
function ordered(verb, input, wishes, options) {
  const {signal} = options;
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const id = ++orders;
    const stop = () => {
      worker?.postMessage({id, verb: 'stop'});
      settled(id);
      reject(signal.reason);
    };
    const release = () => signal?.removeEventListener('abort', stop);
    signal?.addEventListener('abort', stop);
    waiting.set(id, {
      options,
      resolve: (value) => { release(); resolve(value); },
      reject: (error) => { release(); reject(error); },
    });
    started().postMessage({id, verb, base: settings.beside, input, options: wishes});
  });
}

function started() {
  if (worker) return worker;
  worker = new Worker(new URL('./worker.js', import.meta.url));
  worker.addEventListener('message', ({data}) => received(data));
  worker.addEventListener('error', (event) => {
    event.preventDefault();
    failed(new ModelError(`the worker failed: ${event.message ?? 'it did not start'}`));
  });
  return worker;
}

/** Removes an order from the list; returns it. @param {number} id */
function settled(id) {
  const order = waiting.get(id);
  waiting.delete(id);
  return order;
}

function received({id, progress, piece, result, error}) {
  const order = waiting.get(id);
  if (!order) return; // Stopped meanwhile.
  if (progress) order.options.onProgress?.(progress);
  if (piece) order.options.onPiece?.(piece);
  if (result) settled(id).resolve(result);
  if (error) settled(id).reject(unpacked(error));
}

/** Ends the worker, and rejects all waiting orders. @param {Error} error */
function failed(error) {
  worker?.terminate();
  worker = null;
  for (const id of [...waiting.keys()]) settled(id).reject(error);
}
