/** Encodes pixels to a file. */
import {CHUNK, LAYOUT, LIMITS, checkLimits, pack} from './container.js';
import {stepper} from './decoder.js';
import {png} from './png.js';
import * as tiling from './tiling.js';

/** The default quality, as in Python. */
export const QUALITY = 60;
const CELL = 16; // side in pixels of the squares whose mean colour replaces hidden colours

/**
 * @typedef {object} EncodeOptions
 * @property {number} [quality] 0 to 100, in steps of a hundredth
 * @property {import('./container.js').Chunk[]} [metadata] chunks to store in the file
 * @property {AbortSignal} [signal] stops the work between two tiles
 * @property {(done: number, total: number) => void} [onProgress]
 *
 * @typedef {{width: number, height: number, data: Uint8ClampedArray | Uint8Array}} Pixels
 *     [height, width, 4], alpha not premultiplied, as in ImageData
 */

/** Encodes files with one model. */
export class Encoder {
  /** @param {import('./model.js').Model} model */
  constructor(model) {
    this.model = model;
  }

  /**
   * @param {Pixels} image
   * @param {EncodeOptions} [options]
   * @returns {Promise<Uint8Array<ArrayBuffer>>} a `.tfc` file
   */
  async encode(image, options = {}) {
    const {width, height, data} = image;
    const quality = Math.round(100 * (options.quality ?? QUALITY)) / 100;
    if (!(quality >= 0 && quality <= 100)) {
      throw new RangeError(`quality must be from 0 to 100, not ${options.quality}`);
    }
    if (!(width >= 1 && height >= 1) || data.length !== 4 * width * height) {
      throw new RangeError(`an image must have pixels, 4 bytes each, not ${width}x${height}`);
    }
    const kind = kindOf(data);
    const padded = (length) => tiling.roundUp(length, 64);
    const header = {
      fingerprint: this.model.fingerprint, width, height, quality,
      layout: kind.grey
        ? kind.alpha ? LAYOUT.GREY_ALPHA : LAYOUT.GREY
        : kind.alpha ? LAYOUT.RGBA : LAYOUT.RGB,
      tileSide: padded(width) * padded(height) > tiling.UNTILED_PIXELS ? tiling.TILE_SIDE : 0,
    };
    checkLimits(header, LIMITS);
    const chunks = [...(options.metadata ?? [])];
    if (kind.alpha) {
      const alpha = new Uint8Array(width * height).map((_, i) => data[4 * i + 3]);
      chunks.push({type: CHUNK.ALPHA, data: await png(alpha, height, width, 1)});
    }
    const seen = kind.hidden ? withoutHidden(image) : data;
    const boxes = tiling.boxes(height, width, header.tileSide);
    const step = stepper(options, 2 * boxes.length);
    for (const box of boxes) {
      const y = await this.analysed({width, height, data: seen}, box);
      await step();
      chunks.push({type: CHUNK.TILE, data: await this.string(y, quality / 100)});
      await step();
    }
    return pack(header, chunks);
  }

  /**
   * The latents of a tile, before the quality's gain.
   *
   * @param {Pixels} image
   * @param {import('./tiling.js').Box} box
   */
  async analysed(image, box) {
    const {stride, latentStride, channels, card} = this.model;
    const whole = {
      top: 0, left: 0,
      bottom: tiling.roundUp(image.height, stride), right: tiling.roundUp(image.width, stride),
    };
    const inner = tiling.around(box, stride);
    // The analysis also sees pixels around a tile, as far as they affect its latents.
    const halo = card.latents.reach.analysis * latentStride;
    const outer = tiling.common(tiling.around(inner, stride, halo), whole);
    const frame = tiling.shrunk(outer, latentStride);
    const latents = tiling.shrunk(inner, latentStride);
    const networks = await this.model.networks();
    const [rows, columns] = [tiling.height(frame), tiling.width(frame)];
    const {y} = await networks.run(
      'analysis',
      {image: {data: pixels(image, outer), shape: [1, tiling.height(outer), tiling.width(outer), 3]}},
      {y: [1, rows, columns, channels]},
    );
    const values = new Float32Array(tiling.height(latents) * tiling.width(latents) * channels);
    tiling.copyBox(/** @type {Float32Array} */ (y), frame, values, latents, latents, channels);
    return {values, height: tiling.height(latents), width: tiling.width(latents)};
  }

  /**
   * Codes the latents of a tile to a string.
   *
   * @param {{values: Float32Array, height: number, width: number}} latents
   * @param {number} quality 0 to 1
   */
  async string({values, height, width}, quality) {
    const networks = await this.model.networks();
    const coder = await this.model.coder();
    const shape = [1, height, width, this.model.channels];
    const {y, z} = await networks.run(
      'hyper_analysis',
      {
        y: {data: values, shape},
        quality: {data: Float32Array.of(quality), shape: []},
      },
      {y: shape, z: [1, height / 4, width / 4, coder.zChannels]},
    );
    return coder.encode(
      /** @type {Float32Array} */ (y), /** @type {Float32Array} */ (z), height, width,
    ).string;
  }
}

/** Whether visible pixels are all grey, any is not opaque, any is fully transparent. */
function kindOf(data) {
  let [grey, alpha, hidden] = [true, false, false];
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] !== 255) alpha = true;
    if (data[i + 3] === 0) hidden = true;
    else if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) grey = false;
  }
  return {grey, alpha, hidden};
}

/**
 * Colours [h, w, 3] of a box; beyond the image its last row and column are repeated.
 *
 * @param {Pixels} image
 * @param {import('./tiling.js').Box} box
 */
function pixels({width, height, data}, box) {
  const values = new Uint8Array(3 * tiling.width(box) * tiling.height(box));
  let at = 0;
  for (let row = box.top; row < box.bottom; row++) {
    const begin = Math.min(row, height - 1) * width;
    for (let column = box.left; column < box.right; column++) {
      const from = 4 * (begin + Math.min(column, width - 1));
      values[at++] = data[from];
      values[at++] = data[from + 1];
      values[at++] = data[from + 2];
    }
  }
  return values;
}

/**
 * Replaces the colours of fully transparent pixels, so that they cost few bits: by the mean
 * of the visible pixels in their cell, or if it has none, in a cell twice as large, etc.
 *
 * @param {Pixels} image
 */
function withoutHidden({width, height, data}) {
  const result = Uint8ClampedArray.from(data);
  let [rows, columns] = [Math.ceil(height / CELL), Math.ceil(width / CELL)];
  let sums = new Float64Array(4 * rows * columns);
  for (let row = 0, i = 0; row < height; row++) {
    for (let column = 0; column < width; column++, i += 4) {
      if (!data[i + 3]) continue;
      const cell = 4 * (Math.floor(row / CELL) * columns + Math.floor(column / CELL));
      for (let c = 0; c < 3; c++) sums[cell + c] += data[i + c];
      sums[cell + 3] += 1;
    }
  }
  const levels = [{sums, columns}];
  while (rows * columns > 1) {
    const [below, wide] = [sums, columns];
    [rows, columns] = [Math.ceil(rows / 2), Math.ceil(columns / 2)];
    sums = new Float64Array(4 * rows * columns);
    for (let i = 0; i < below.length; i++) {
      const cell = i >> 2;
      const row = Math.floor(cell / wide) >> 1;
      sums[4 * (row * columns + ((cell % wide) >> 1)) + (i & 3)] += below[i];
    }
    levels.push({sums, columns});
  }
  for (let row = 0, i = 0; row < height; row++) {
    for (let column = 0; column < width; column++, i += 4) {
      if (data[i + 3]) continue;
      for (let level = 0, side = CELL; level < levels.length; level++, side *= 2) {
        const {sums: of, columns: wide} = levels[level];
        const cell = 4 * (Math.floor(row / side) * wide + Math.floor(column / side));
        if (!of[cell + 3]) continue;
        for (let c = 0; c < 3; c++) result[i + c] = Math.round(of[cell + c] / of[cell + 3]);
        break;
      }
    }
  }
  return result;
}
