/** Compression by the platform's streams, with a limit on the size of the output. */
import {joined} from './container.js';
import {CorruptStream} from './errors.js';

/** @typedef {'deflate' | 'deflate-raw' | 'gzip'} Format zlib, raw deflate, or gzip */

/**
 * Decompresses bytes.
 *
 * @param {Uint8Array} data
 * @param {Format} format
 * @param {number} limit largest output in bytes
 * @param {new (words: string) => Error} Over what is thrown if the output is larger
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 * @throws {CorruptStream} the stream is damaged
 */
export function inflated(data, format, limit, Over = CorruptStream) {
  return through(new DecompressionStream(format), data, limit, Over);
}

/**
 * Compresses bytes.
 *
 * @param {Uint8Array} data
 * @param {Format} format
 */
export function deflated(data, format) {
  return through(new CompressionStream(format), data, Infinity);
}

/**
 * @param {GenericTransformStream} stream
 * @param {Uint8Array} data
 * @param {number} limit
 * @param {new (words: string) => Error} Over
 */
async function through(stream, data, limit, Over = CorruptStream) {
  const reader = stream.readable.getReader();
  const writer = stream.writable.getWriter();
  // Errors of the writing side also appear on the reading side, so they are ignored here.
  const written = writer.write(data).then(() => writer.close()).catch(() => {});
  const parts = [];
  let size = 0;
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      size += value.length;
      if (size > limit) {
        reader.cancel().catch(() => {});
        throw new Over(`more than ${limit} bytes in a compressed part`);
      }
      parts.push(value);
    }
  } catch (error) {
    throw error instanceof Over ? error : new CorruptStream('a damaged compressed part');
  }
  await written;
  return joined(parts);
}
