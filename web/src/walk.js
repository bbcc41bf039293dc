/**
 * The entropy coder of a model: latents to a string, and back. docs/format.md, "Segments",
 * says what is coded, in which order and under which distribution; tfcodec/walk.py is the
 * same in NumPy. One walk over the latents is handed an action, `Write` or `Read`, that
 * says what coding means.
 *
 * Latents are in units of 1/16; arrays are [rows, columns, channels].
 */
import {LEVELS, Read, UNIT, Write, clip} from './actions.js';
import {ModelError} from './errors.js';
import {Board, Layer, Machine, Places} from './exact.js';
import {Tables} from './rans.js';

const CONTEXT_MAX = 255;
const Z_STRIDE = 4; // latents y per latent z, in each dimension

// Offsets (rows, columns) of the neighbours that a step of the first slice uses.
const CROSS = [[-1, 0], [0, -1], [0, 1], [1, 0]];
const DIAGONAL = [[-1, -1], [-1, 1], [1, -1], [1, 1]];
// (distance to the neighbours in latents, their offsets) of each step, coarse to fine.
const PYRAMID = /** @type {const} */ ([[2, DIAGONAL], [2, CROSS], [1, DIAGONAL], [1, CROSS]]);
// Taps (row, column) of a 3x3 kernel above, left, right of and below its centre.
const BESIDE = [[0, 1], [1, 0], [1, 2], [2, 1]];

/** @typedef {import('./exact.js').Array_} Array_ */
/** @typedef {{y: Int32Array, yHat: Float32Array, height: number, width: number}} Latents */

/** A latent, in 1/16, to the input of an exact network: in 1/8, clipped. @param {number} y */
const context = (y) => clip(y >> 1, CONTEXT_MAX);

/** The coder of one model. */
export class Coder {
  /**
   * @param {Record<string, Array_>} numbers arrays by name, as listed in docs/format.md,
   *     and those that docs/engines.md adds for the encoder
   */
  constructor(numbers) {
    this.machine = new Machine();
    this.tables = new Tables(
      numbers['tables/frequency'].data, numbers['tables/size'].data, numbers['tables/offset'].data,
    );
    this.points = Float32Array.from(numbers.points.data);
    this.extra = Float32Array.from(numbers.extra.data);
    this.slices = Array.from(numbers.slices.data, Number);
    this.support = Number(numbers.support.data[0]);
    this.channels = this.slices.reduce((sum, own) => sum + own, 0);
    /** @type {Record<string, Layer[]>} */
    this.networks = {};
    this.edge = 1; // positions beyond a board that kernels see
    for (const name of Object.keys(numbers).sort()) {
      const found = name.match(/^(.*)\/(\d+)\/kernel$/);
      if (found) this.add(found[1], Number(found[2]), numbers);
    }
    const hyper = this.networks.hyper_synthesis;
    this.zChannels = hyper[0].inputs;
    this.features = hyper[hyper.length - 1].outputs;
    this.pyramidal = 'step/0' in this.networks;
  }

  /**
   * @param {string} name
   * @param {number} number
   * @param {Record<string, Array_>} numbers
   */
  add(name, number, numbers) {
    const at = `${name}/${number}`;
    const kernel = numbers[`${at}/kernel`];
    const beside = number === 0 && name.endsWith('/second') ? BESIDE : undefined;
    const layer = new Layer(this.machine, kernel, numbers[`${at}/numbers`], beside);
    (this.networks[name] ??= [])[number] = layer;
    this.edge = Math.max(this.edge, (layer.side - 1) / 2);
  }

  /**
   * Decodes the latents of a tile.
   *
   * @param {Uint8Array} string
   * @param {number} height in latents, a multiple of 4
   * @param {number} width likewise
   * @returns {Latents}
   * @throws {CorruptStream} no encoder wrote the string
   */
  decode(string, height, width) {
    const action = new Read(this, string);
    const latents = this.machine.scratch(() => new Walk(this, action, height, width).run());
    action.reader.finish();
    return latents;
  }

  /**
   * Codes the latents of a tile.
   *
   * @param {Float32Array} y [height, width, channels], after the gain
   * @param {Float32Array} z [height / 4, width / 4, zChannels]
   * @param {number} height in latents
   * @param {number} width likewise
   * @returns {{string: Uint8Array<ArrayBuffer>, latents: Latents}}
   */
  encode(y, z, height, width) {
    const action = new Write(this, y, z);
    const latents = this.machine.scratch(() => new Walk(this, action, height, width).run());
    return {string: action.writer.finish(), latents};
  }
}

/** One walk over the latents of a tile, in coding order. */
class Walk {
  /**
   * @param {Coder} coder
   * @param {Read | Write} code
   * @param {number} height
   * @param {number} width
   */
  constructor(coder, code, height, width) {
    this.coder = coder;
    this.code = code;
    this.height = height;
    this.width = width;
    this.machine = coder.machine;
    this.y = new Int32Array(height * width * coder.channels);
    this.yHat = new Float32Array(this.y.length);
  }

  /** @returns {Latents} */
  run() {
    const {coder, height, width} = this;
    const z = this.side();
    // What networks see: the features, then the contexts of each slice, in order.
    const contexts = coder.slices.map((own, k) => (k === 0 && coder.pyramidal ? 4 * own : own));
    const all = contexts.reduce((sum, count) => sum + count, coder.features);
    this.seen = new Board(this.machine, height, width, all, coder.edge);
    this.machine.scratch(() => this.hyper(z));
    const places = {
      all: new Places(this.seen, () => true),
      even: new Places(this.seen, (row, column) => (row + column) % 2 === 0),
      odd: new Places(this.seen, (row, column) => (row + column) % 2 === 1),
    };
    let first = 0;
    let channel = coder.features;
    coder.slices.forEach((own, k) => {
      this.slice = {k, own, first, channel};
      this.machine.scratch(() => this.codeSlice(places));
      first += own;
      channel += contexts[k];
    });
    return {y: this.y, yHat: this.yHat, height, width};
  }

  /** Codes z; returns it as a board. */
  side() {
    const {coder, machine} = this;
    const [height, width] = [this.height / Z_STRIDE, this.width / Z_STRIDE];
    const rows = Uint16Array.from(
      {length: height * width * coder.zChannels}, (_, i) => i % coder.zChannels,
    );
    const values = this.code.side(rows);
    const board = new Board(machine, height, width, coder.zChannels, coder.edge);
    copied(board, values, coder.zChannels, 1);
    return board;
  }

  /** The hyper synthesis: fills the features of `seen`. @param {Board} board z */
  hyper(board) {
    const {machine} = this;
    const layers = this.coder.networks.hyper_synthesis;
    layers.forEach((layer, number) => {
      const places = new Places(board, () => true);
      const made = layer.activated(layer.sums(board, places), places.count);
      const last = number === layers.length - 1;
      const scale = number < 2 ? 2 : 1; // depth to space
      const into = last && scale === 1
        ? this.seen
        : new Board(
          machine, board.height * scale, board.width * scale, layer.outputs / scale ** 2,
          this.coder.edge,
        );
      copied(into, machine.shorts(made, places.count * layer.stride), layer.stride, scale, layer.outputs);
      board = into;
    });
    if (board !== this.seen) throw new ModelError('a hyper synthesis of another kind');
  }

  /** @param {{all: Places, even: Places, odd: Places}} places */
  codeSlice(places) {
    const {networks, pyramidal} = this.coder;
    const {k} = this.slice;
    if (`slice/${k}/first` in networks) this.twoPasses(places);
    else if (k === 0 && pyramidal) this.pyramid();
    else {
      this.coded(places.all, this.parameters(`slice/${k}`, places.all), null);
      this.contexts(places.all);
    }
  }

  /**
   * Runs a network at positions of `seen`; returns (table index, mean) of each latent.
   *
   * @param {string} name
   * @param {Places} places
   * @param {number} [sums] address of the sums of its first layer, if they are known
   */
  parameters(name, places, sums) {
    const [first, ...others] = this.coder.networks[name];
    sums ??= first.sums(this.seen, places);
    return this.rest(first.activated(sums, places.count), first, others, places.count);
  }

  /**
   * Runs a network after its first layer; returns (table index, mean) of each latent.
   *
   * @param {number} x address of the outputs of the first layer
   * @param {Layer} layer the first layer
   * @param {Layer[]} others the other layers
   * @param {number} count number of positions
   */
  rest(x, layer, others, count) {
    for (const next of others) {
      x = next.side === 1 ? next.after(x, layer.stride, count) : this.wider(x, layer, next, count);
      layer = next;
    }
    const {own} = this.slice;
    const made = this.machine.shorts(x, count * layer.stride);
    const index = new Uint8Array(count * own);
    const mean = new Int32Array(count * own);
    const means = layer.outputs > own;
    for (let place = 0, i = 0; place < count; place++) {
      const at = place * layer.stride;
      for (let c = 0; c < own; c++, i++) {
        index[i] = made[at + c];
        if (means) mean[i] = made[at + own + c];
      }
    }
    return {index, mean};
  }

  /**
   * Runs a layer with a kernel larger than 1 x 1 on the outputs of another at all positions.
   *
   * @param {number} x address of those outputs
   * @param {Layer} layer the layer before
   * @param {Layer} next the layer to run
   * @param {number} count number of positions
   */
  wider(x, layer, next, count) {
    const {machine, height, width} = this;
    if (count !== height * width) throw new ModelError('a network of another kind than is known');
    const board = new Board(machine, height, width, layer.outputs, (next.side - 1) / 2);
    copied(board, machine.shorts(x, count * layer.stride), layer.stride, 1, layer.outputs);
    return next.activated(next.sums(board, new Places(board, () => true)), count);
  }

  /**
   * Codes the latents of a slice at some positions: fills y and yHat there.
   *
   * @param {Places} places
   * @param {{index: Uint8Array, mean: Int32Array}} parameters [places, own]
   * @param {Int32Array | null} guess to add to the mean
   */
  coded(places, {index, mean}, guess) {
    const {coder, y, yHat} = this;
    const {own, first} = this.slice;
    if (guess) for (let i = 0; i < mean.length; i++) mean[i] += guess[i];
    const whole = this.code.residual(first, places, index, mean);
    for (let place = 0, i = 0; place < places.count; place++) {
      let at = places.numbers[place] * coder.channels + first;
      for (let c = 0; c < own; c++, i++, at++) {
        const value = whole[i];
        y[at] = value * UNIT + mean[i];
        const plain = y[at] / UNIT;
        if (value === 0) {
          yHat[at] = plain;
          continue;
        }
        const column = Math.min(Math.abs(value), LEVELS);
        const shift = coder.points[index[i] * (LEVELS + 1) + column];
        // In float32 and in this order, so that all readers agree to the last bit.
        const moved = Math.fround(value + (value < 0 ? -shift : shift));
        yHat[at] = plain + Math.fround(moved - value);
      }
    }
  }

  /** Puts contexts of the slice at some positions into `seen`. @param {Places} places */
  contexts(places) {
    const {own, first, channel} = this.slice;
    const {values} = this.seen;
    for (let place = 0; place < places.count; place++) {
      const from = places.numbers[place] * this.coder.channels + first;
      const to = places.at[place] + channel;
      for (let c = 0; c < own; c++) values[to + c] = context(this.y[from + c]);
    }
  }

  /**
   * Codes a slice in two passes, even positions first.
   *
   * @param {{even: Places, odd: Places}} places
   */
  twoPasses({even, odd}) {
    const {k, channel} = this.slice;
    const [first] = this.coder.networks[`slice/${k}/first`];
    const [second] = this.coder.networks[`slice/${k}/second`];
    this.machine.scratch(() => {
      this.coded(even, this.parameters(`slice/${k}/first`, even), null);
    });
    this.contexts(even);
    this.machine.scratch(() => {
      const sums = first.sums(this.seen, odd);
      second.sums(this.seen, odd, channel, sums);
      this.coded(odd, this.parameters(`slice/${k}/second`, odd, sums), null);
    });
    this.contexts(odd);
  }

  /** Codes slice 0 from coarse to fine: one latent of each 4x4, then the others. */
  pyramid() {
    const coarse = new Places(this.seen, (row, column) => row % 4 === 0 && column % 4 === 0);
    this.coded(coarse, this.parameters('slice/0', coarse), null);
    PYRAMID.forEach(([distance, around], step) => {
      const odd = (at) => at % (2 * distance) === distance;
      const places = new Places(this.seen, (row, column) => {
        if (row % distance || column % distance) return false;
        const [a, b] = [odd(row), odd(column)];
        return around === CROSS ? a !== b : a && b;
      });
      this.machine.scratch(() => this.between(`step/${step}`, places, distance, around));
    });
    this.differences();
  }

  /**
   * Codes the latents of one step of the pyramid.
   *
   * @param {string} name of its network
   * @param {Places} places
   * @param {number} distance to the neighbours, in latents
   * @param {number[][]} around offsets of the neighbours
   */
  between(name, places, distance, around) {
    const {machine, y, height, width, coder} = this;
    const {own} = this.slice;
    const {features} = coder;
    const [first, ...others] = coder.networks[name];
    // The network sees the features, and each neighbour minus the guess.
    const stride = 2 * Math.ceil((features + 4 * own) / 2);
    const address = machine.reserve(2 * (Math.ceil(places.count / 4) * 4 * stride + 2));
    const x = machine.shorts(address, places.count * stride);
    const seen = this.seen.values;
    const guess = new Int32Array(places.count * own);
    for (let place = 0; place < places.count; place++) {
      const [row, column] = [places.rows[place], places.columns[place]];
      const inside = around
        .map(([i, j], k) => ({k, row: row + distance * i, column: column + distance * j}))
        .filter((at) => at.row >= 0 && at.row < height && at.column >= 0 && at.column < width);
      const begin = places.at[place];
      const to = place * stride;
      x.set(seen.subarray(begin, begin + features), to);
      for (let c = 0; c < own; c++) {
        const values = inside.map((at) => y[(at.row * width + at.column) * coder.channels + c]);
        const sum = values.reduce((total, value) => total + value, 0);
        const mean = Math.floor(sum / Math.max(inside.length, 1));
        guess[place * own + c] = mean;
        inside.forEach(({k}, i) => {
          x[to + features + k * own + c] = context(values[i] - mean);
        });
      }
    }
    const made = first.after(address, stride, places.count);
    this.coded(places, this.rest(made, first, others, places.count), guess);
  }

  /** Puts contexts of slice 0 into `seen`: each of the four neighbours minus the latent. */
  differences() {
    const {y, height, width, seen} = this;
    const {channels} = this.coder;
    const {own, channel} = this.slice;
    const {values} = seen;
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const here = (row * width + column) * channels;
        CROSS.forEach(([i, j], k) => {
          const [r, s] = [row + i, column + j];
          if (r < 0 || r >= height || s < 0 || s >= width) return;
          const there = (r * width + s) * channels;
          const to = seen.at(row, column) + channel + k * own;
          for (let c = 0; c < own; c++) values[to + c] = context(y[there + c] - y[here + c]);
        });
      }
    }
  }
}

/**
 * Fills a board with values, after "depth to space" if scale is 2.
 *
 * @param {Board} board
 * @param {ArrayLike<number>} values [positions, stride]
 * @param {number} stride from one position of the values to the next
 * @param {number} scale 1, or 2 for depth to space
 * @param {number} [channels] of the values; by default the stride
 */
function copied(board, values, stride, scale, channels = stride) {
  const into = board.values;
  const count = channels / scale ** 2;
  const columns = board.width / scale;
  for (let row = 0; row < board.height; row++) {
    for (let column = 0; column < board.width; column++) {
      const place = Math.floor(row / scale) * columns + Math.floor(column / scale);
      const phase = scale * (row % scale) + (column % scale);
      const from = place * stride + phase * count;
      const to = board.at(row, column);
      for (let c = 0; c < count; c++) into[to + c] = values[from + c];
    }
  }
}
