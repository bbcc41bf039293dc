/**
 * Exact convolutions of integers, with the same results everywhere. They are computed by
 * kernel/kernel.ts, 0.7 kB of WebAssembly; this module lays out its memory.
 *
 * Values are 16-bit integers, channels last. A board is an array of positions, padded with
 * zeros, so that each tap of a kernel is at a constant distance in memory from a position.
 */
import {ModelError} from './errors.js';
import {KERNEL} from './kernel.js';

const PAGE = 65536; // bytes; memory grows by pages
const ROWS = 4; // positions that the kernel computes at a time
const PANEL = 8; // outputs that the kernel computes at a time

/** @typedef {{shape: number[], data: ArrayLike<number>}} Array_ an array of a `.npz` file */

const roundUp = (value, to) => Math.ceil(value / to) * to;

/** The memory of WebAssembly, allocated like a stack. */
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
   * Allocates bytes, set to zero; returns their address. If memory has to grow, arrays
   * that were made before are detached from it.
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

  /** Allocates 32-bit integers; returns their address. @param {ArrayLike<number>} values */
  stored(values) {
    const address = this.reserve(4 * values.length);
    this.words(address, values.length).set(values);
    return address;
  }

  /**
   * Runs a function, and then frees what it has allocated.
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

/** An array [height, width, channels], padded on all sides by `edge` positions of zeros. */
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

  /** Index in `values` of a position's first channel. @param {number} row @param {number} column */
  at(row, column) {
    return this.stride * ((row + this.edge) * this.wide + column + this.edge);
  }

  /** All values, padding included; valid until memory grows. */
  get values() {
    return this.machine.shorts(
      this.address,
      this.stride * this.wide * (this.height + 2 * this.edge),
    );
  }
}

/** The positions of a board to compute, row after row. */
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
    // Numbers of the positions, row after row, and their indexes in the board's `values`.
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
   * @param {number[][]} [taps] (row, column) in the kernel of the taps to use; by default all
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

  /** Stores weights in the order that kernel.ts expects. @param {Array_} kernel */
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
   * Computes the sums W X; returns their address, 32-bit [count, stride].
   *
   * @param {Board} board
   * @param {Places} places positions to compute
   * @param {number} [channel] of the board, the first that the layer sees
   * @param {number} [sums] address of sums to which these are added
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
   * Computes the outputs of the layer; returns their address, 16-bit [count, stride].
   *
   * @param {number} sums address of its sums
   * @param {number} count number of positions
   */
  activated(sums, count) {
    const {machine, stride, outputs} = this;
    const result = machine.reserve(2 * roundUp(count, ROWS) * stride);
    machine.activate(sums, count, stride, outputs, this.numbers, result, 2 * stride);
    return result;
  }

  /**
   * Runs a layer of 1 x 1 on the outputs of another; returns as `activated`.
   *
   * @param {number} x address of the inputs, 16-bit [count, stride]
   * @param {number} stride
   * @param {number} count number of positions
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
