/**
 * The `.tfc` file: header, chunks, limits, checksums, as described in docs/format.md,
 * "File". tfcodec/bitstream.py is the same in Python.
 */
import {CorruptStream, UnsupportedStream} from './errors.js';

export const MAGIC = Uint8Array.of(0x89, 0x74, 0x66, 0x63, 0x0d, 0x0a, 0x0a);
export const VERSION = 1;
export const CHUNK = {TILE: 0x01, ALPHA: 0x02, ALPHA_TILE: 0x03, ICC: 0x81, EXIF: 0x82, XMP: 0x83};
const KNOWN = new Set(Object.values(CHUNK));
const METADATA = [CHUNK.ICC, CHUNK.EXIF, CHUNK.XMP];
const OPTIONAL = 0x80;
const UINT32 = 2 ** 32;
const OVERHEAD = 4096; // bytes that a chunk may have however few its pixels
const PADDED = 64; // pixels; no model pads more than to multiples of this

export const LAYOUT = {RGB: 0, GREY: 1, RGBA: 2, GREY_ALPHA: 3};
const CHANNELS = [3, 1, 4, 2];

/** How much a file may make a reader decode. 0 means unlimited. */
export const LIMITS = Object.freeze({
  pixels: 2 ** 26, // width times height: 256 MiB as RGBA
  side: 2 ** 20,
  tiles: 2 ** 14,
  tilePixels: 2 ** 22, // padded; this much is decoded at a time
  chunks: 2 ** 16,
  fileBytes: 2 ** 31,
  bytesPerPixel: 4, // of coded tiles and alpha; noise at quality 100 takes 1
  escapes: 2 ** 22, // in each string: latents outside their tables
  metadata: 2 ** 24, // bytes of each kind, decompressed
});

/**
 * @typedef {object} Header
 * @property {string} fingerprint of the model, 16 hexadecimal digits
 * @property {number} width pixels
 * @property {number} height pixels
 * @property {number} layout one of `LAYOUT`
 * @property {number} tileSide pixels; 0 if the image is a single tile
 * @property {number} quality 0 to 100, in steps of a hundredth
 *
 * @typedef {object} Chunk
 * @property {number} type 1 to 255
 * @property {Uint8Array} data
 *
 * @typedef {{[name in keyof typeof LIMITS]: number}} Limits
 */

/** Whether a layout has alpha. @param {Header} header */
export const hasAlpha = (header) => (header.layout & 2) !== 0;

/** Whether a layout has one colour. @param {Header} header */
export const isGrey = (header) => (header.layout & 1) !== 0;

/** How many tiles an image has. @param {Header} header */
export function tilesOf({width, height, tileSide}) {
  const side = tileSide || Math.max(width, height);
  return Math.ceil(width / side) * Math.ceil(height / side);
}

/** Pixels of the largest tile, with the most padding of any model. @param {Header} header */
function tileArea({width, height, tileSide}) {
  const side = tileSide || UINT32;
  const padded = (length) => Math.ceil(Math.min(length, side) / PADDED) * PADDED;
  return padded(width) * padded(height);
}

/** Reads bytes in order; every read checks that enough are left. */
class Reader {
  /** @param {Uint8Array} data */
  constructor(data) {
    this.data = data;
    this.at = 0;
  }

  get left() {
    return this.data.length - this.at;
  }

  /** @param {number} size */
  take(size) {
    if (size > this.left) {
      throw new CorruptStream(
        `truncated: ${size} bytes wanted at ${this.at}, ${this.data.length} in all`,
      );
    }
    this.at += size;
    return this.data.subarray(this.at - size, this.at);
  }

  /** Reads a little-endian number of `size` bytes. @param {number} size */
  number(size) {
    return this.take(size).reduceRight((value, byte) => value * 256 + byte, 0);
  }

  varint() {
    let value = 0;
    for (let place = 0; place < 5; place++) {
      const byte = this.number(1);
      value += (byte & 0x7f) * 2 ** (7 * place);
      if (byte < 0x80) {
        if (byte === 0 && place) {
          throw new CorruptStream(`a longer number than needed at ${this.at}`);
        }
        if (value >= UINT32) break;
        return value;
      }
    }
    throw new CorruptStream(`a number over 32 bits at ${this.at}`);
  }
}

/**
 * Adler-32 of bytes, continuing from that of the bytes before, if there are any.
 *
 * @param {Uint8Array} data
 * @param {number} [before]
 */
export function adler32(data, before = 1) {
  let a = before & 0xffff;
  let b = before >>> 16;
  // At most 3800 bytes at a time, so that neither sum reaches 2^32.
  for (let begin = 0; begin < data.length; begin += 3800) {
    const end = Math.min(begin + 3800, data.length);
    for (let i = begin; i < end; i++) {
      a += data[i];
      b += a;
    }
    a %= 65521;
    b %= 65521;
  }
  return b * 65536 + a;
}

/**
 * The header of a file; its first 64 bytes are enough.
 *
 * @param {Uint8Array} data
 * @param {Limits} [limits]
 * @returns {Header}
 * @throws {StreamError}
 */
export function readHeader(data, limits = LIMITS) {
  return start(data, limits).header;
}

/**
 * The header and the known chunks of a whole file, in the file's order.
 *
 * @param {Uint8Array} data
 * @param {Limits} [limits]
 * @returns {{header: Header, chunks: Chunk[]}}
 * @throws {StreamError}
 */
export function unpack(data, limits = LIMITS) {
  const {reader, header} = start(data, limits);
  const seed = adler32(data.subarray(0, reader.at));
  const wanted = tilesOf(header);
  /** @type {Chunk[]} */
  const chunks = [];
  let count = 0;
  let tiles = 0;
  while (reader.left) {
    if (tiles === wanted) throw new CorruptStream(`${reader.left} bytes after the last tile`);
    count += 1;
    if (limits.chunks && count > limits.chunks) {
      throw new UnsupportedStream(`over the limit of ${limits.chunks} chunks`);
    }
    const kind = reader.take(1);
    const type = kind[0];
    const size = reader.varint();
    const checksum = reader.number(4);
    const body = reader.take(size);
    checkChunk(header, type, size, limits);
    if (adler32(body, adler32(kind, seed)) !== checksum) {
      throw new CorruptStream('checksum: the file was damaged on its way');
    }
    if (KNOWN.has(type)) chunks.push({type, data: body});
    else if (!(type & OPTIONAL)) {
      throw new UnsupportedStream(`needs a newer tfcodec: chunk type ${type}`);
    }
    tiles += Number(type === CHUNK.TILE);
  }
  if (tiles < wanted) throw new CorruptStream(`truncated: ${tiles} of ${wanted} tiles`);
  checkCounts(header, chunks);
  return {header, chunks};
}

/**
 * @param {Uint8Array} data
 * @param {Limits} limits
 */
function start(data, limits) {
  const reader = new Reader(data);
  checkMagic(data);
  if (limits.fileBytes && data.length > limits.fileBytes) {
    throw new UnsupportedStream(`${data.length} bytes: over the limit of ${limits.fileBytes}`);
  }
  reader.take(MAGIC.length);
  const version = reader.number(1);
  if (version !== VERSION) {
    throw new UnsupportedStream(`format version ${version}, and this reads ${VERSION}`);
  }
  const fields = new Reader(reader.take(reader.number(1)));
  const fingerprint = Array.from(fields.take(8), (byte) => byte.toString(16).padStart(2, '0'));
  const width = fields.varint();
  const height = fields.varint();
  const layout = fields.number(1);
  const quality = fields.number(2);
  if (!width || !height) throw new CorruptStream(`an image of ${width}x${height} pixels`);
  if (quality > 10000) throw new CorruptStream(`quality must be from 0 to 100, not ${quality / 100}`);
  if ((layout & 15) > 3) {
    throw new UnsupportedStream(`needs a newer tfcodec: colour layout ${layout & 15}`);
  }
  /** @type {Header} */
  const header = {
    fingerprint: fingerprint.join(''),
    width,
    height,
    layout: layout & 15,
    tileSide: layout >> 4 ? 64 * 2 ** ((layout >> 4) - 1) : 0,
    quality: quality / 100,
  };
  checkLimits(header, limits);
  return {reader, header};
}

/** @param {Uint8Array} data */
function checkMagic(data) {
  if (MAGIC.every((byte, i) => i >= data.length || data[i] === byte)) {
    if (data.length >= MAGIC.length) return;
    throw new CorruptStream(data.length ? 'truncated: not even a header' : 'empty file');
  }
  const text = String.fromCharCode(...data.subarray(0, 6));
  if (text.includes('tfc') && [0x09, 0x89, 0xc2, 0xef, 0x3f].includes(data[0])) {
    throw new CorruptStream(
      'damaged by a transfer as text (line ends or 8th bits changed); send it again as binary',
    );
  }
  throw new UnsupportedStream('not a .tfc file');
}

/**
 * Throws UnsupportedStream if an image is larger than the limits allow.
 *
 * @param {Header} header
 * @param {Limits} limits
 */
export function checkLimits(header, limits) {
  const {width, height} = header;
  const check = (value, limit, unit) => {
    if (limit && value > limit) {
      throw new UnsupportedStream(`${width}x${height}: over the limit of ${limit} ${unit}`);
    }
  };
  check(width * height, limits.pixels, 'pixels');
  check(Math.max(width, height), limits.side, 'a side');
  check(tilesOf(header), limits.tiles, 'tiles');
  check(tileArea(header), limits.tilePixels, 'pixels a tile');
}

/**
 * Throws UnsupportedStream if a chunk has too many bytes for its pixels.
 *
 * @param {Header} header
 * @param {number} type
 * @param {number} size
 * @param {Limits} limits
 */
function checkChunk(header, type, size, limits) {
  const area = {
    [CHUNK.TILE]: tileArea(header),
    [CHUNK.ALPHA_TILE]: tileArea(header),
    [CHUNK.ALPHA]: header.width * header.height,
  }[type];
  if (limits.bytesPerPixel && area && size > OVERHEAD + limits.bytesPerPixel * area) {
    throw new UnsupportedStream(
      `a chunk of ${size} bytes: over the limit of ${limits.bytesPerPixel} bytes per pixel`,
    );
  }
}

/**
 * Throws CorruptStream if there is a wrong number of any kind of chunk.
 *
 * @param {Header} header
 * @param {Chunk[]} chunks
 */
function checkCounts(header, chunks) {
  const count = (type) => chunks.filter((chunk) => chunk.type === type).length;
  const tiles = tilesOf(header);
  const alpha = `${count(CHUNK.ALPHA)},${count(CHUNK.ALPHA_TILE)}`;
  const fitting = hasAlpha(header) ? ['1,0', `0,${tiles}`] : ['0,0'];
  if (
    count(CHUNK.TILE) !== tiles ||
    !fitting.includes(alpha) ||
    METADATA.some((type) => count(type) > 1)
  ) {
    throw new CorruptStream('a wrong number of chunks of a kind');
  }
}

/**
 * Returns the file of a header and chunks, which are put in order.
 *
 * @param {Header} header
 * @param {Chunk[]} chunks
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function pack(header, chunks) {
  checkCounts(header, chunks);
  const tile = header.tileSide ? Math.log2(header.tileSide / 64) + 1 : 0;
  const hundredths = Math.round(header.quality * 100);
  const fields = [
    ...(header.fingerprint.match(/../g) ?? []).map((pair) => parseInt(pair, 16)),
    ...varint(header.width),
    ...varint(header.height),
    header.layout + 16 * tile,
    hundredths & 255,
    hundredths >> 8,
  ];
  const begin = Uint8Array.of(...MAGIC, VERSION, fields.length, ...fields);
  const seed = adler32(begin);
  const rank = ({type}) => (type & OPTIONAL ? 0 : type === CHUNK.TILE ? 2 : 1);
  /** @type {Uint8Array[]} */
  const parts = [begin];
  for (const chunk of [...chunks].sort((a, b) => rank(a) - rank(b))) {
    const type = Uint8Array.of(chunk.type);
    const checksum = adler32(chunk.data, adler32(type, seed));
    parts.push(type, varint(chunk.data.length), littleEndian(checksum, 4), chunk.data);
  }
  return joined(parts);
}

/** @param {number} value 0 to 2^32 - 1 */
function varint(value) {
  const bytes = [];
  for (; value >= 0x80; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return Uint8Array.of(...bytes, value);
}

/**
 * @param {number} value
 * @param {number} size bytes
 */
export function littleEndian(value, size) {
  return Uint8Array.from({length: size}, (_, i) => Math.floor(value / 256 ** i) % 256);
}

/**
 * @param {Uint8Array[]} parts
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
