/**
 * Hostile files: `node testing/fuzz.js [files] [seed]`.
 *
 * Files made from the golden ones by random damage, most of them with the checksums made
 * right again, so that it reaches the coder. Each gives a picture of the header's size or
 * a StreamError, in a bounded time.
 */
import {fileURLToPath} from 'node:url';

import {LIMITS, adler32, joined, littleEndian, readHeader} from '../src/container.js';
import {StreamError} from '../src/errors.js';
import {codec} from '../src/node.js';
import {models, random, read, small} from './golden.js';

// Large enough for every golden file, small enough for many files a second.
const SMALL = {...LIMITS, pixels: 2 ** 17, side: 2 ** 12, tiles: 64, chunks: 256};
const SLOW = 10_000; // milliseconds of processor time
const TYPES = [0, 1, 2, 3, 0x7f, 0x81, 0x82, 0x83, 0xff];
const NUMBERS = [0, 1, 0x7f, 0x80, 0xff, 0xffff, 2 ** 31 - 1, 2 ** 32 - 1];

/** A file as its start and its chunks, as far as there is sense in it. */
function split(data) {
  let at = Math.min(data.length, 9 + (data[8] ?? 0));
  const start = data.slice(0, at);
  const chunks = [];
  while (at + 6 <= data.length) {
    const type = data[at++];
    let [size, place] = [0, 1];
    for (; ; place *= 128) {
      const byte = data[at++] ?? 0;
      size += (byte & 127) * place;
      if (byte < 128 || place > 2 ** 21) break;
    }
    at += 4;
    chunks.push({type, data: data.slice(at, at + size)});
    at += size;
  }
  return {start, chunks};
}

/** The inverse of `split`, with right lengths and checksums. */
function whole({start, chunks}) {
  const seed = adler32(start);
  const parts = [start];
  for (const {type, data} of chunks) {
    const size = [];
    let rest = data.length;
    for (; rest >= 128; rest = Math.floor(rest / 128)) size.push((rest % 128) + 128);
    const kind = Uint8Array.of(type);
    const checksum = adler32(data, adler32(kind, seed));
    parts.push(kind, Uint8Array.of(...size, rest), littleEndian(checksum, 4), data);
  }
  return joined(parts);
}

/** Bytes changed, put in, taken out, or taken from another place. */
function damaged(data, pick, other = new Uint8Array()) {
  for (let times = [1, 1, 2, 4, 16][pick(5)]; times > 0; times--) {
    const at = pick(data.length + 1);
    const size = Math.min([1, 1, 2, 4, 8, 64][pick(6)], data.length - at);
    const noise = (length) => Uint8Array.from({length}, () => pick(256));
    const [before, within, after] = [
      data.subarray(0, at), data.subarray(at, at + size), data.subarray(at + size),
    ];
    const from = pick(other.length + 1);
    data = joined([
      () => [before, within.map((byte, i) => (i ? byte : byte ^ (1 << pick(8)))), after],
      () => [before, noise(size), after],
      () => [before, littleEndian(NUMBERS[pick(NUMBERS.length)], 4).subarray(0, size), after],
      () => [before, after],
      () => [before, noise([1, 2, 4, 64][pick(4)]), within, after],
      () => [before, other.subarray(from, from + size), after],
      () => [before],
    ][pick(7)]());
  }
  return data;
}

/**
 * A hostile file.
 *
 * @param {Uint8Array} data a good one
 * @param {Uint8Array} another
 * @param {(below: number) => number} pick
 */
export function mutated(data, another, pick) {
  if (pick(5) === 0) return damaged(data, pick, another);
  const file = split(data);
  const others = split(another).chunks;
  for (let times = [1, 1, 2, 3][pick(4)]; times > 0; times--) {
    const {chunks} = file;
    const how = pick(8);
    const k = pick(chunks.length);
    if (how === 0 || !chunks.length) {
      const at = Math.min(17 + pick(8), file.start.length);
      file.start = joined([file.start.subarray(0, at), damaged(file.start.subarray(at), pick)]);
    } else if (how === 1) chunks.splice(pick(chunks.length + 1), 0, chunks[k]);
    else if (how === 2) chunks.splice(k, 1);
    else if (how === 3 && others.length) chunks[k] = others[pick(others.length)];
    else if (how === 4) chunks[k] = {...chunks[k], type: TYPES[pick(TYPES.length)]};
    else chunks[k] = {...chunks[k], data: damaged(chunks[k].data, pick, others[0]?.data)};
  }
  return whole(file);
}

/**
 * Tries so many files on the decoder.
 *
 * @param {number} count
 * @param {number} seed
 * @returns {Promise<Record<string, number>>} how many came to what; `slowest` in milliseconds of
 *     processor time
 */
export async function fuzz(count, seed) {
  const {decode} = await codec(models().model);
  const pick = random(seed);
  const files = small.map(read).filter((data) => data.length < 2 ** 14);
  await decode(files[0]); // Loads the model.
  /** @type {Record<string, number>} */
  const found = {decoded: 0, slowest: 0};
  for (let i = 0; i < count; i++) {
    const data = mutated(files[pick(files.length)], files[pick(files.length)], pick);
    const begin = process.cpuUsage();
    try {
      const image = await decode(data, {limits: SMALL});
      const {width, height} = readHeader(data, SMALL);
      if (image.rgba.length !== 4 * width * height) throw new Error('a picture of another size');
      found.decoded += 1;
    } catch (error) {
      if (!(error instanceof StreamError)) {
        throw new Error(`file ${i} of seed ${seed}: ${error.stack}`);
      }
      found[error.name] = (found[error.name] ?? 0) + 1;
    }
    const {user, system} = process.cpuUsage(begin);
    const took = Math.round((user + system) / 1000);
    if (took > SLOW) throw new Error(`file ${i} of seed ${seed} took ${took} ms`);
    found.slowest = Math.max(found.slowest, took);
  }
  return found;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [count = 1000, seed = 0] = process.argv.slice(2).map(Number);
  console.log(await fuzz(count, seed), `peak ${Math.round(process.resourceUsage().maxRSS / 1024)} MiB`);
}
