/** Decodes files: tiles to latents, and pieces of latents to pixels. */
import {CHUNK, LAYOUT, LIMITS, hasAlpha, isGrey, unpack} from './container.js';
import {CorruptStream, ModelError, UnsupportedStream} from './errors.js';
import {readGrey} from './png.js';
import {rounded} from './rounding.js';
import * as tiling from './tiling.js';

const ALPHA_SNAP = 8; // lossy alpha this near to 0 or to 255 becomes that
const NOISE_PERIOD = 256; // pixels after which the noise of the second synthesis repeats

/**
 * @typedef {import('./container.js').Header} Header
 * @typedef {import('./tiling.js').Box} Box
 * @typedef {object} Image
 * @property {number} width pixels
 * @property {number} height
 * @property {Uint8ClampedArray<ArrayBuffer>} rgba [height, width, 4], alpha not premultiplied
 *
 * @typedef {object} Options
 * @property {number} [realism] 0 for the picture nearest to the original, 1 for one with
 *     synthesised texture; by default the model's for the file's quality
 * @property {Box} [region] pixels that are wanted; by default all
 * @property {import('./container.js').Limits} [limits]
 * @property {AbortSignal} [signal] stops the work between two tiles
 * @property {(box: Box, rgba: Uint8ClampedArray<ArrayBuffer>) => void} [onPiece] called
 *     with each part of the picture when it is decoded
 * @property {(done: number, total: number) => void} [onProgress]
 */

/** Lets the event loop handle messages and timers. */
const turn = () => new Promise((resolve) => { setTimeout(resolve); });

/**
 * Returns a function that counts a step, reports progress, and throws if work was aborted.
 *
 * @param {{signal?: AbortSignal, onProgress?: (done: number, total: number) => void}} options
 * @param {number} total
 */
export function stepper({signal, onProgress}, total) {
  let done = 0;
  return async () => {
    onProgress?.(++done, total);
    await turn();
    signal?.throwIfAborted();
  };
}

/** Decodes files of one model. */
export class Decoder {
  /** @param {import('./model.js').Model} model */
  constructor(model) {
    this.model = model;
  }

  /**
   * Decodes a file.
   *
   * @param {Uint8Array} data a whole file
   * @param {Options} [options]
   * @returns {Promise<Image>} the picture, or the region of it
   * @throws {StreamError}
   */
  async decode(data, options = {}) {
    const {model} = this;
    const limits = options.limits ?? LIMITS;
    const {header, chunks} = unpack(data, limits);
    if (header.fingerprint !== model.fingerprint) {
      throw new UnsupportedStream(`made with the model ${header.fingerprint}, not this`);
    }
    if (header.tileSide % model.stride) {
      throw new CorruptStream(`tiles of ${header.tileSide} pixels`);
    }
    const whole = {top: 0, left: 0, bottom: header.height, right: header.width};
    const region = tiling.common(options.region ?? whole, whole);
    if (tiling.isEmpty(region)) throw new RangeError('a region without pixels');
    const realism = options.realism ?? model.defaultRealism(header.quality);
    if (!(realism >= 0 && realism <= 1)) throw new RangeError(`realism must be 0 to 1, not ${realism}`);
    if (realism > 0 && !model.realistic) throw new ModelError('the model has no realism above 0');
    const strings = (type, from = 0) =>
      chunks.filter((chunk) => chunk.type === type).map((chunk) => chunk.data.subarray(from));
    const [width, height] = [tiling.width(region), tiling.height(region)];
    const rgba = new Uint8ClampedArray(4 * width * height);
    const alphas = strings(CHUNK.ALPHA_TILE);
    const planes = [{header, strings: strings(CHUNK.TILE), realism}];
    if (alphas.length) {
      const quality = alphaQuality(alphas);
      planes.push({
        header: {...header, quality, layout: LAYOUT.GREY},
        strings: strings(CHUNK.ALPHA_TILE, 2),
        realism: 0,
      });
    }
    const plans = planes.map((plane) => this.plan(plane, region));
    const steps = plans.reduce((sum, plan) => sum + plan.tiles + plan.pieces.length, 0);
    const step = stepper(options, steps);
    // Alpha is decoded first, so that pieces which are shown early look as they will.
    const [lossless] = strings(CHUNK.ALPHA);
    const alpha = lossless && (await readGrey(lossless, header.height, header.width));
    for (const plan of plans.reverse()) {
      const colours = plan === plans[plans.length - 1];
      for await (const {box, pixels} of this.pixels(plan, limits, step)) {
        const piece = colours ? placed(pixels, isGrey(header)) : null;
        const target = {pixels, box, rgba, region};
        if (!piece) putAlpha(target);
        else {
          putColours(target, piece, hasAlpha(header));
          if (alpha) putPlane(target, alpha, header.width);
          options.onPiece?.(box, cut(rgba, region, box));
        }
      }
    }
    return {width, height, rgba};
  }

  /**
   * Plans a plane: its pieces, the tiles that each needs, and the last use of each tile.
   *
   * @param {{header: Header, strings: Uint8Array[], realism: number}} plane
   * @param {Box} region
   */
  plan(plane, region) {
    const {header, realism} = plane;
    const {stride, latentStride} = this.model;
    const whole = {
      top: 0, left: 0,
      bottom: tiling.roundUp(header.height, stride),
      right: tiling.roundUp(header.width, stride),
    };
    const halo = this.model.reach(realism) * latentStride;
    const tiles = tiling.boxes(header.height, header.width, header.tileSide);
    const side = header.tileSide || Math.max(whole.bottom, whole.right);
    const columns = Math.ceil(header.width / side);
    /** @type {Map<number, number>} */
    const lastUse = new Map();
    const pieces = [];
    for (const piece of tiling.boxes(header.height, header.width, tiling.PIECE)) {
      const inner = tiling.common(piece, region);
      if (tiling.isEmpty(inner)) continue;
      const outer = tiling.common(tiling.around(inner, latentStride, halo), whole);
      const met = [];
      for (let row = Math.floor(outer.top / side); row * side < outer.bottom; row++) {
        for (let column = Math.floor(outer.left / side); column * side < outer.right; column++) {
          met.push(row * columns + column);
        }
      }
      for (const tile of met) lastUse.set(tile, pieces.length);
      pieces.push({inner, outer, met});
    }
    return {...plane, boxes: tiles, pieces, lastUse, tiles: lastUse.size};
  }

  /**
   * Decodes and synthesises a plane, piece by piece.
   *
   * @param {ReturnType<Decoder['plan']>} plan
   * @param {import('./container.js').Limits} limits
   * @param {() => Promise<void>} step
   * @returns {AsyncGenerator<{box: Box, pixels: Uint8Array}>} pixels [h, w, 3] of a box
   */
  async *pixels(plan, limits, step) {
    const {stride, latentStride, channels} = this.model;
    const coder = await this.model.coder();
    /** @type {Map<number, {yHat: Float32Array, box: Box}>} */
    const known = new Map();
    for (const [number, {inner, outer, met}] of plan.pieces.entries()) {
      for (const tile of met) {
        if (known.has(tile)) continue;
        const box = tiling.shrunk(tiling.around(plan.boxes[tile], stride), latentStride);
        checkEscapes(plan.strings[tile], limits);
        const {yHat} = coder.decode(plan.strings[tile], tiling.height(box), tiling.width(box));
        known.set(tile, {yHat, box});
        await step();
      }
      const frame = tiling.shrunk(outer, latentStride);
      const values = new Float32Array(tiling.height(frame) * tiling.width(frame) * channels);
      for (const tile of met) {
        const {yHat, box} = known.get(tile);
        tiling.copyBox(yHat, box, values, frame, tiling.common(box, frame), channels);
        if (plan.lastUse.get(tile) === number) known.delete(tile);
      }
      const drawn = await this.drawn(values, frame, plan.header.quality / 100, plan.realism);
      const pixels = new Uint8Array(tiling.height(inner) * tiling.width(inner) * 3);
      tiling.copyBox(drawn, outer, pixels, inner, inner, 3);
      yield {box: inner, pixels};
      await step();
    }
  }

  /**
   * Synthesises a box of latents.
   *
   * @param {Float32Array} values y_hat [h, w, channels] of the box
   * @param {Box} frame the box, in latents of the image
   * @param {number} quality 0 to 1
   * @param {number} realism 0 to 1
   * @returns {Promise<Uint8Array>} [h, w, 3] pixels
   */
  async drawn(values, frame, quality, realism) {
    const {model} = this;
    const [rows, columns] = [tiling.height(frame), tiling.width(frame)];
    const networks = await model.networks();
    const outputs = {image: [1, rows * model.latentStride, columns * model.latentStride, 3]};
    const inputs = {
      y_hat: {data: values, shape: [1, rows, columns, model.channels]},
      quality: {data: Float32Array.of(quality), shape: []},
    };
    const run = async (name, more = {}) =>
      /** @type {Uint8Array} */ ((await networks.run(name, {...inputs, ...more}, outputs)).image);
    if (realism === 0) return run('synthesis');
    const grain = await run('realism', await this.noise(frame));
    if (realism === 1) return grain;
    const faithful = await run('synthesis');
    return faithful.map((value, i) => rounded(value + realism * (grain[i] - value)));
  }

  /** The noise at a box of latents: inputs of the second synthesis. @param {Box} frame */
  async noise(frame) {
    const numbers = await this.model.numbers();
    const inputs = {};
    for (let k = 0; `noise/${k}` in numbers; k++) {
      const {shape: [side, , count], data} = numbers[`noise/${k}`];
      const scale = (side * this.model.latentStride) / NOISE_PERIOD; // positions per latent
      const [rows, columns] = [tiling.height(frame) * scale, tiling.width(frame) * scale];
      const values = new Float32Array(rows * columns * count);
      for (let row = 0, at = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          const from = ((row + frame.top * scale) % side) * side + ((column + frame.left * scale) % side);
          for (let c = 0; c < count; c++) values[at++] = data[from * count + c];
        }
      }
      inputs[`noise_${k}`] = {data: values, shape: [1, rows, columns, count]};
    }
    return inputs;
  }
}

/**
 * @param {Uint8Array} string
 * @param {import('./container.js').Limits} limits
 */
function checkEscapes(string, limits) {
  const escapes = string.length < 6 ? 0 : new DataView(string.buffer, string.byteOffset).getUint32(2, true);
  if (limits.escapes && escapes > limits.escapes) {
    throw new UnsupportedStream(`${escapes} escapes: over the limit of ${limits.escapes}`);
  }
}

/** Quality of lossy alpha, 0 to 100; checks that all tiles have it. @param {Uint8Array[]} tiles */
function alphaQuality(tiles) {
  const levels = tiles.map((tile) => (tile.length < 2 ? -1 : tile[0] + 256 * tile[1]));
  if (levels.some((level) => level !== levels[0]) || levels[0] < 0 || levels[0] > 10000) {
    throw new CorruptStream('alpha of a wrong or of several qualities');
  }
  return levels[0] / 100;
}

/** Colours [n, 3], in greyscale three times their mean. @param {Uint8Array} pixels @param {boolean} grey */
function placed(pixels, grey) {
  if (!grey) return pixels;
  const values = new Uint8Array(pixels.length);
  for (let i = 0; i < pixels.length; i += 3) values.fill(mean(pixels, i), i, i + 3);
  return values;
}

const mean = (pixels, i) => Math.floor((pixels[i] + pixels[i + 1] + pixels[i + 2] + 1) / 3);

/** Calls a function for each pixel of a box: (number in the box, index in `rgba`, row, column). */
function eachPixel({box, region}, visit) {
  let i = 0;
  for (let row = box.top; row < box.bottom; row++) {
    let at = 4 * ((row - region.top) * tiling.width(region) + box.left - region.left);
    for (let column = box.left; column < box.right; column++, at += 4) visit(i++, at, row, column);
  }
}

function putColours(target, colours, alpha) {
  const {rgba} = target;
  eachPixel(target, (i, at) => {
    rgba[at] = colours[3 * i];
    rgba[at + 1] = colours[3 * i + 1];
    rgba[at + 2] = colours[3 * i + 2];
    if (!alpha) rgba[at + 3] = 255;
  });
}

function putAlpha(target) {
  eachPixel(target, (i, at) => {
    const value = mean(target.pixels, 3 * i);
    target.rgba[at + 3] = value <= ALPHA_SNAP ? 0 : value >= 255 - ALPHA_SNAP ? 255 : value;
  });
}

function putPlane(target, alpha, width) {
  eachPixel(target, (i, at, row, column) => { target.rgba[at + 3] = alpha[row * width + column]; });
}

/** The pixels of a box of a region. */
function cut(rgba, region, box) {
  const part = new Uint8ClampedArray(4 * tiling.width(box) * tiling.height(box));
  tiling.copyBox(rgba, region, part, box, box, 4);
  return part;
}
