/** Deflate by the platform's streams, with a limit on what comes out. */
import {joined} from './container.js';
import {CorruptStream} from './errors.js';

/** @typedef {'deflate' | 'deflate-raw' | 'gzip'} Format of the bytes around */

/**
 * @param {Uint8Array} data
 * @param {Format} format
 * @param {number} limit bytes that may come out
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 * @throws {CorruptStream} it is no such stream, or more than `limit` comes out
 */
export function inflated(data, format, limit) {
  return through(new DecompressionStream(format), data, limit);
}

/**
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
 */
async function through(stream, data, limit) {
  const reader = stream.readable.getReader();
  const writer = stream.writable.getWriter();
  // Errors of the writing side come out of the reading side as well.
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
        throw new CorruptStream(`more than ${limit} bytes in a compressed part`);
      }
      parts.push(value);
    }
  } catch (error) {
    throw error instanceof CorruptStream ? error : new CorruptStream('a damaged compressed part');
  }
  await written;
  return joined(parts);
}
