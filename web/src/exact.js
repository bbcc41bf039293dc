/**
 * Exact convolutions: integers in, integers out, the same everywhere. They run in
 * kernel/kernel.ts, WebAssembly of 0.7 kB; here is what memory looks like.
 *
 * All is 16-bit integers, channels last. A board is a picture of places with zeros
 * around it, so that a tap of a kernel sees, of each place, one address further on.
 */
import {ModelError} from './errors.js';
import {KERNEL} from './kernel.js';

const PAGE = 65536; // bytes; memory grows by these
const ROWS = 4; // places that the kernel takes at a time
const PANEL = 8; // outputs likewise

/** @typedef {{shape: number[], data: ArrayLike<number>}} Array_ an array of a `.npz` file */

const roundUp = (value, to) => Math.ceil(value / to) * to;

/** Memory of WebAssembly, taken from the front and given back from the end. */
export class Machine {
  constructor() {
    const bytes = Uint8Array.from(atob(KERNEL), (letter) => letter.charCodeAt(0));
    this.memory = new WebAssembly.Memory({initial: 1});
    const module = new WebAssembly.Module(bytes);
    const {exports} = new WebAssembly.Instance(module, {env: {memory: this.memory}});
    this.products = /** @type {(...values: number[]) => void} */ (exports.products);
    this.activate = /** @type {(...values: number[]) => void} */ (exports.activate);
    this.end = 16;
  }

  /**
   * The address of so many bytes of zeros. Arrays made before see memory no more.
   *
   * @param {number} bytes
   */
  reserve(bytes) {
    const address = this.end;
    this.end = roundUp(address + bytes, 16);
    const short = this.end - this.memory.buffer.byteLength;
    if (short > 0) {
      try {
        this.memory.grow(Math.ceil(short / PAGE));
      } catch {
        this.end = address;
        throw new ModelError(`not enough memory: ${short} bytes more wanted`);
      }
    }
    new Uint8Array(this.memory.buffer, address, this.end - address).fill(0);
    return address;
  }

  /** @param {number} address @param {number} length */
  shorts(address, length) {
    return new Int16Array(this.memory.buffer, address, length);
  }

  /** @param {number} address @param {number} length */
  words(address, length) {
    return new Int32Array(this.memory.buffer, address, length);
  }

  /** An address of these 32-bit integers. @param {ArrayLike<number>} values */
  stored(values) {
    const address = this.reserve(4 * values.length);
    this.words(address, values.length).set(values);
    return address;
  }

  /**
   * Runs a function; what it reserved is free again at its end.
   *
   * @template T
   * @param {() => T} work
   * @returns {T}
   */
  scratch(work) {
    const {end} = this;
    try {
      return work();
    } finally {
      this.end = end;
    }
  }
}

/** Places [height, width] of some channels, with `edge` places of zeros around. */
export class Board {
  /**
   * @param {Machine} machine
   * @param {number} height
   * @param {number} width
   * @param {number} channels
   * @param {number} [edge]
   */
  constructor(machine, height, width, channels, edge = 1) {
    this.machine = machine;
    this.height = height;
    this.width = width;
    this.channels = channels;
    this.edge = edge;
    this.wide = width + 2 * edge;
    this.stride = roundUp(channels, 2); // a tap sees channels in pairs
    const places = this.wide * (height + 2 * edge);
    // The last pair of the last place may begin at an odd channel.
    this.address = machine.reserve(2 * (places * this.stride + 2));
  }

  /** Where a place begins, in 16-bit integers. @param {number} row @param {number} column */
  at(row, column) {
    return this.stride * ((row + this.edge) * this.wide + column + this.edge);
  }

  /** All of it, until memory grows. */
  get values() {
    return this.machine.shorts(
      this.address,
      this.stride * this.wide * (this.height + 2 * this.edge),
    );
  }
}

/** Which places of a board are computed: row after row. */
export class Places {
  /**
   * @param {Board} board
   * @param {(row: number, column: number) => boolean} chosen
   */
  constructor(board, chosen) {
    const {machine, height, width} = board;
    const rows = [];
    const columns = [];
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        if (!chosen(row, column)) continue;
        rows.push(row);
        columns.push(column);
      }
    }
    this.count = rows.length;
    this.rows = Int32Array.from(rows);
    this.columns = Int32Array.from(columns);
    // Numbers of places, and where they begin on the board.
    this.numbers = this.rows.map((row, i) => row * width + columns[i]);
    this.at = this.rows.map((row, i) => board.at(row, columns[i]));
    this.padded = roundUp(this.count, ROWS);
    this.offsets = machine.stored(
      Int32Array.from({length: this.padded}, (_, i) => 2 * (this.at[i] ?? 0)),
    );
  }
}

/** An exact convolution: clip(floor((sum W X + B) / 2^r), low, high). */
export class Layer {
  /**
   * @param {Machine} machine
   * @param {Array_} kernel [k, k, in, out]
   * @param {Array_} numbers [4, out]: B, r, low, high
   * @param {number[][]} [taps] places (row, column) of the kernel that count; by default all
   */
  constructor(machine, kernel, numbers, taps) {
    const [side, , inputs, outputs] = kernel.shape;
    const edge = (side - 1) / 2;
    this.machine = machine;
    this.side = side;
    this.inputs = inputs;
    this.outputs = outputs;
    this.taps = taps ?? Array.from({length: side * side}, (_, i) => [Math.floor(i / side), i % side]);
    this.steps = this.taps.map(([row, column]) => [row - edge, column - edge]);
    this.pairs = Math.ceil(inputs / 2);
    this.stride = roundUp(outputs, PANEL);
    this.numbers = machine.stored(Int32Array.from(numbers.data));
    this.low = numbers.data[2 * outputs];
    const limits = Array.from(numbers.data).slice(2 * outputs);
    if (Math.min(...limits) < -32768 || Math.max(...limits) > 32767) {
      throw new ModelError('an exact network of more than 16 bits');
    }
    this.weights = machine.reserve(2 * this.stride * this.taps.length * 2 * this.pairs);
    this.pack(kernel);
  }

  /** Puts weights where the kernel expects them. @param {Array_} kernel */
  pack({data}) {
    const {side, inputs, outputs, pairs} = this;
    const packed = this.machine.shorts(this.weights, this.stride * this.taps.length * 2 * pairs);
    this.taps.forEach(([row, column], tap) => {
      for (let input = 0; input < inputs; input++) {
        const from = ((row * side + column) * inputs + input) * outputs;
        const pair = tap * pairs + (input >> 1);
        for (let output = 0; output < outputs; output++) {
          const panel = (output >> 3) * this.taps.length * pairs;
          packed[16 * (panel + pair) + 2 * (output & 7) + (input & 1)] = data[from + output];
        }
      }
    });
  }

  /**
   * The address of the sums of W X, 32-bit [count, stride].
   *
   * @param {Board} board
   * @param {Places} places
   * @param {number} [channel] of the board, that the layer sees first
   * @param {number} [sums] address of what to add to
   */
  sums(board, places, channel = 0, sums = 0) {
    const {machine, steps, stride, pairs} = this;
    const taps = machine.stored(
      steps.map(([row, column]) => 2 * board.stride * (row * board.wide + column)),
    );
    const result = sums || machine.reserve(4 * places.padded * stride);
    machine.products(
      board.address + 2 * channel, places.offsets, places.padded, taps, steps.length,
      pairs, this.weights, stride, result, Number(sums !== 0),
    );
    return result;
  }

  /**
   * The address of what the layer makes of its sums: 16-bit [count, stride].
   *
   * @param {number} sums their address
   * @param {number} count places
   */
  activated(sums, count) {
    const {machine, stride, outputs} = this;
    const result = machine.reserve(2 * roundUp(count, ROWS) * stride);
    machine.activate(sums, count, stride, outputs, this.numbers, result, 2 * stride);
    return result;
  }

  /**
   * Runs a layer of 1 x 1 on what another made.
   *
   * @param {number} x address of 16-bit [count, stride]
   * @param {number} stride
   * @param {number} count places
   */
  after(x, stride, count) {
    const {machine} = this;
    const padded = roundUp(count, ROWS);
    const offsets = machine.stored(Int32Array.from({length: padded}, (_, i) => 2 * stride * i));
    const sums = machine.reserve(4 * padded * this.stride);
    machine.products(
      x, offsets, padded, machine.stored([0]), 1, this.pairs, this.weights, this.stride, sums, 0,
    );
    return this.activated(sums, count);
  }
}
