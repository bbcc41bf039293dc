/** PNG files: reads alpha, 8-bit greyscale; writes that, and pictures. */
import {joined} from './container.js';
import {CorruptStream} from './errors.js';
import {deflated, inflated} from './zlib.js';

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const MOST_CHUNKS = 2 ** 16;
// Number of channels -> colour type of PNG.
const COLOUR_TYPES = {1: 0, 3: 2, 4: 6};

const CRC = Uint32Array.from({length: 256}, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** @param {Uint8Array} data */
function crc32(data) {
  let crc = 0xffffffff;
  for (const byte of data) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** @param {number} value */
const bigEndian = (value) => {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
};

/**
 * Reads the pixels of an 8-bit greyscale PNG.
 *
 * @param {Uint8Array} data
 * @param {number} height that it must have
 * @param {number} width that it must have
 * @returns {Promise<Uint8Array>} [height, width]
 * @throws {CorruptStream} it is damaged, or of another size or kind
 */
export async function readGrey(data, height, width) {
  const check = (condition) => {
    if (!condition) throw new CorruptStream('damaged alpha');
  };
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  check(SIGNATURE.every((byte, i) => data[i] === byte));
  const parts = [];
  for (let at = 8, count = 0; ; count++) {
    check(at + 12 <= data.length && count < MOST_CHUNKS);
    const size = view.getUint32(at);
    check(at + 12 + size <= data.length);
    const body = data.subarray(at + 8, at + 8 + size);
    check(crc32(data.subarray(at + 4, at + 8 + size)) === view.getUint32(at + 8 + size));
    const type = String.fromCharCode(...data.subarray(at + 4, at + 8));
    check((count === 0) === (type === 'IHDR'));
    if (type === 'IHDR') {
      check(size === 13 && view.getUint32(at + 8) === width && view.getUint32(at + 12) === height);
      // 8 bits, grey, deflate, no interlacing.
      check([8, 0, 0, 0, 0].every((byte, i) => body[8 + i] === byte));
    }
    if (type === 'IDAT') parts.push(body);
    if (type === 'IEND') break;
    at += 12 + size;
  }
  const rows = await inflated(joined(parts), 'deflate', height * (width + 1));
  check(rows.length === height * (width + 1));
  return unfiltered(rows, height, width, check);
}

/**
 * Undoes the filters of an 8-bit greyscale PNG.
 *
 * @param {Uint8Array} rows each after the number of its filter
 * @param {number} height
 * @param {number} width
 * @param {(condition: boolean) => void} check
 */
function unfiltered(rows, height, width, check) {
  const pixels = new Uint8Array(height * width);
  for (let row = 0; row < height; row++) {
    const from = row * (width + 1) + 1;
    const filter = rows[from - 1];
    check(filter <= 4);
    for (let column = 0, at = row * width; column < width; column++, at++) {
      const left = column ? pixels[at - 1] : 0;
      const up = row ? pixels[at - width] : 0;
      const corner = row && column ? pixels[at - width - 1] : 0;
      pixels[at] = rows[from + column] + guess(filter, left, up, corner);
    }
  }
  return pixels;
}

/** The prediction of a pixel by a filter, from neighbours before it. */
function guess(filter, left, up, corner) {
  if (filter < 2) return filter && left;
  if (filter === 2) return up;
  if (filter === 3) return (left + up) >> 1;
  // Paeth: the one of three that is nearest to left + up - corner.
  const a = Math.abs(up - corner);
  const b = Math.abs(left - corner);
  const c = Math.abs(left + up - 2 * corner);
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

/**
 * Writes a PNG.
 *
 * @param {Uint8Array | Uint8ClampedArray} pixels [height, width, channels]
 * @param {number} height
 * @param {number} width
 * @param {1 | 3 | 4} channels
 * @param {Uint8Array} [profile] ICC, as a zlib stream
 * @returns {Promise<Uint8Array<ArrayBuffer>>} a PNG
 */
export async function png(pixels, height, width, channels, profile) {
  const length = width * channels;
  const rows = new Uint8Array(height * (length + 1));
  for (let row = 0; row < height; row++) {
    rows[row * (length + 1)] = 2; // filter "up": each row minus the one above
    for (let i = 0, at = row * length; i < length; i++, at++) {
      rows[row * (length + 1) + 1 + i] = pixels[at] - (row ? pixels[at - length] : 0);
    }
  }
  const about = joined([
    bigEndian(width), bigEndian(height), Uint8Array.of(8, COLOUR_TYPES[channels], 0, 0, 0),
  ]);
  const chunk = (type, data) => {
    const body = joined([Uint8Array.from(type, (letter) => letter.charCodeAt(0)), data]);
    return joined([bigEndian(data.length), body, bigEndian(crc32(body))]);
  };
  return joined([
    SIGNATURE,
    chunk('IHDR', about),
    ...(profile ? [chunk('iCCP', joined([Uint8Array.of(0x49, 0x43, 0x43, 0, 0), profile]))] : []),
    chunk('IDAT', await deflated(rows, 'deflate')),
    chunk('IEND', new Uint8Array()),
  ]);
}
