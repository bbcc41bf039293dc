/**
 * The entropy coder: integers to a string of bytes and back. docs/format.md, "A string",
 * says what the bytes are; tfcodec/lanes.py is the same in NumPy.
 *
 * A string is coded by many rANS states side by side, its lanes. Within a step, lanes take
 * words in ascending order, so symbols can simply be decoded one by one in their order.
 */
import {joined} from './container.js';
import {CorruptStream} from './errors.js';

const TOTAL = 4096; // the frequencies of a row add up to this
const LOWEST = 65536; // the least state: where an encoder starts and a decoder ends
const MAX_LANES = 1024;
const SYMBOLS_PER_LANE = 4096;
const LARGE = 255; // the byte that says: this escape is one of the 16-bit ones
const MAX_EXCESS = 32767; // of an escape; zigzag coded, it still fits 16 bits
const HEADER = 3; // 16-bit units before the states

/** Distributions over runs of consecutive integers, one for each row. */
export class Tables {
  /**
   * @param {ArrayLike<number>} frequency of each symbol, row after row
   * @param {ArrayLike<number>} size symbols of each row, its escape included
   * @param {ArrayLike<number>} offset value of the first symbol of each row
   */
  constructor(frequency, size, offset) {
    const rows = size.length;
    this.size = Int32Array.from(size);
    this.offset = Int32Array.from(offset);
    this.first = new Int32Array(rows); // index of each row's first symbol
    this.frequency = Int32Array.from(frequency);
    this.start = new Int32Array(frequency.length); // sum of frequencies before, in its row
    // The symbol of each of a row's 4096 slots, counted within the row.
    this.symbol = new Uint16Array(rows * TOTAL);
    let index = 0;
    for (let row = 0; row < rows; row++) {
      this.first[row] = index;
      let slot = 0;
      for (let symbol = 0; symbol < size[row]; symbol++, index++) {
        const end = slot + frequency[index];
        if (!(end > slot && end <= TOTAL)) throw new RangeError('tables of another model');
        this.start[index] = slot;
        this.symbol.fill(symbol, row * TOTAL + slot, row * TOTAL + end);
        slot = end;
      }
      if (slot !== TOTAL) throw new RangeError('tables of another model');
    }
  }
}

/** The number of lanes of a string of so many symbols. @param {number} count */
export function lanesFor(count) {
  return Math.min(Math.max(Math.floor(count / SYMBOLS_PER_LANE), 1), MAX_LANES);
}

/** @param {unknown} condition */
function check(condition) {
  if (!condition) throw new CorruptStream('the coded pixels are damaged');
}

/**
 * Decodes the segments of a string, in order. Used once. Time and memory are bounded by
 * the length of the string and the number of symbols that the caller asks for.
 */
export class Reader {
  /**
   * @param {Tables} tables
   * @param {Uint8Array} string
   * @throws {CorruptStream} (also from each method) no encoder wrote the string
   */
  constructor(tables, string) {
    this.tables = tables;
    check(string.length % 2 === 0 && string.length >= 2 * HEADER);
    const units = new Uint16Array(string.length / 2);
    for (let i = 0; i < units.length; i++) units[i] = string[2 * i] + 256 * string[2 * i + 1];
    const lanes = units[0];
    const escapes = units[1] + 65536 * units[2];
    const begin = HEADER + 2 * lanes;
    const end = units.length - Math.ceil(escapes / 2);
    check(lanes >= 1 && lanes <= MAX_LANES && begin <= end);
    this.states = new Uint32Array(lanes);
    for (let lane = 0; lane < lanes; lane++) {
      this.states[lane] = units[HEADER + 2 * lane] + 65536 * units[HEADER + 2 * lane + 1];
      check(this.states[lane] >= LOWEST);
    }
    check(escapes % 2 === 0 || string[string.length - 1] === 0);
    this.escapes = Uint16Array.from(string.subarray(2 * end, 2 * end + escapes));
    let large = 0;
    for (const value of this.escapes) large += Number(value === LARGE);
    let middle = end - large;
    check(begin <= middle);
    this.words = units.subarray(begin, middle);
    for (let i = 0; i < escapes; i++) {
      if (this.escapes[i] !== LARGE) continue;
      this.escapes[i] = units[middle++];
      check(this.escapes[i] >= LARGE);
    }
    this.count = this.wordsRead = this.escapesRead = 0;
  }

  /**
   * Decodes the next segment.
   *
   * @param {ArrayLike<number>} rows of the tables, one for each symbol
   * @param {number} count how many there are
   * @returns {Int32Array} values
   */
  read(rows, count) {
    const {states, words} = this;
    const {size, offset, symbol, first, frequency, start} = this.tables;
    const lanes = states.length;
    this.count += count;
    // A string with fewer lanes than a writer would choose is forged.
    check(lanes >= lanesFor(this.count));
    const values = new Int32Array(count);
    let taken = this.wordsRead;
    for (let i = 0, lane = 0; i < count; i++) {
      const row = rows[i];
      const state = states[lane];
      const slot = state & (TOTAL - 1);
      const k = symbol[row * TOTAL + slot];
      const index = first[row] + k;
      let x = frequency[index] * (state >>> 12) + slot - start[index];
      if (x < LOWEST) {
        check(taken < words.length);
        x = x * 65536 + words[taken++];
      }
      states[lane] = x;
      values[i] = (k === size[row] - 1 ? this.escaped(k) : k) + offset[row];
      if (++lane === lanes) lane = 0;
    }
    this.wordsRead = taken;
    return values;
  }

  /** Reads the symbol that an escape stands for. @param {number} most symbols before the escape */
  escaped(most) {
    check(this.escapesRead < this.escapes.length);
    const zigzag = this.escapes[this.escapesRead++];
    return zigzag % 2 ? -1 - (zigzag >> 1) : most + (zigzag >> 1);
  }

  /** Checks that all of the string was read, and all states are initial ones. */
  finish() {
    check(
      this.states.length === lanesFor(this.count) &&
        this.states.every((state) => state === LOWEST) &&
        this.wordsRead === this.words.length &&
        this.escapesRead === this.escapes.length,
    );
  }
}

/** Codes segments, in order, into one string. Used once. */
export class Writer {
  /** @param {Tables} tables */
  constructor(tables) {
    this.tables = tables;
    /** @type {Int32Array[]} indexes of symbols, segment by segment */
    this.segments = [];
    /** @type {number[]} */
    this.escapes = [];
  }

  /**
   * Appends a segment. Values more than 32767 outside a row's range are clipped to that.
   *
   * @param {ArrayLike<number>} rows of the tables, one for each value
   * @param {ArrayLike<number>} values integers
   * @param {number} count how many there are
   */
  write(rows, values, count) {
    const {size, offset, first} = this.tables;
    const segment = new Int32Array(count);
    for (let i = 0; i < count; i++) {
      const row = rows[i];
      const escape = size[row] - 1;
      let k = values[i] - offset[row];
      if (k < 0 || k >= escape) {
        const excess = Math.min(k < 0 ? -1 - k : k - escape, MAX_EXCESS);
        this.escapes.push(2 * excess + Number(k < 0));
        k = escape;
      }
      segment[i] = first[row] + k;
    }
    this.segments.push(segment);
  }

  /** @returns {Uint8Array<ArrayBuffer>} the string */
  finish() {
    const {frequency, start} = this.tables;
    const lanes = lanesFor(this.segments.reduce((sum, part) => sum + part.length, 0));
    const states = new Float64Array(lanes).fill(LOWEST);
    const words = [];
    for (const segment of this.segments.reverse()) {
      for (let i = segment.length - 1; i >= 0; i--) {
        const f = frequency[segment[i]];
        let x = states[i % lanes];
        if (x >= f * 2 ** 20) {
          words.push(x % 65536);
          x = Math.floor(x / 65536);
        }
        states[i % lanes] = Math.floor(x / f) * TOTAL + (x % f) + start[segment[i]];
      }
    }
    const {escapes} = this;
    const large = escapes.filter((value) => value >= LARGE);
    const small = Uint8Array.from({length: escapes.length + (escapes.length % 2)}, (_, i) =>
      Math.min(escapes[i] ?? 0, LARGE),
    );
    return joined([
      units([lanes, escapes.length % 65536, Math.floor(escapes.length / 65536)]),
      units(Array.from(states).flatMap((x) => [x % 65536, Math.floor(x / 65536)])),
      units(words.reverse()),
      units(large),
      small,
    ]);
  }
}

/**
 * Numbers below 2^16 as little-endian bytes.
 *
 * @param {number[]} values
 */
function units(values) {
  const bytes = new Uint8Array(2 * values.length);
  values.forEach((value, i) => {
    bytes[2 * i] = value;
    bytes[2 * i + 1] = value >> 8;
  });
  return bytes;
}
