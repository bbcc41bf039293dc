/** A model beside a page: its card, and its files, which are fetched when first needed. */
import {ModelError} from './errors.js';
import {Networks} from './networks.js';
import {arrays} from './npz.js';
import {Coder} from './walk.js';
import {inflated} from './zlib.js';

/**
 * @typedef {object} File_
 * @property {string} path relative to `model.json`
 * @property {number} size bytes of the file, a gzip stream
 * @property {number} whole bytes after decompression
 * @property {string} sha256 of the file, before decompression
 *
 * @typedef {object} Card the contents of `model.json`
 * @property {string} name
 * @property {string} fingerprint 16 hexadecimal digits
 * @property {number} stride pixels; images are padded to a multiple of it
 * @property {{channels: number, stride: number, reach: {analysis: number, synthesis: number}}} latents
 * @property {{reach: number, default?: number[][]}} [realism]
 * @property {Record<string, File_>} files by network; and `coder`
 *
 * @typedef {object} Surroundings functions that differ between a browser and Node
 * @property {(path: string, file?: File_) => Promise<Uint8Array<ArrayBuffer>>} fetched the
 *     bytes of a file beside the model, checked by `file`
 * @property {() => Promise<import('./networks.js').LiteRT>} litert LiteRT.js, loaded
 */

export class Model {
  /**
   * @param {Card} card
   * @param {Surroundings} surroundings
   */
  constructor(card, surroundings) {
    this.card = card;
    this.surroundings = surroundings;
    this.fingerprint = card.fingerprint;
    this.stride = card.stride;
    this.channels = card.latents.channels;
    this.latentStride = card.latents.stride;
    this.realistic = 'realism' in card.files;
    /** @type {Map<string, Promise<any>>} */
    this.made = new Map();
  }

  /** How far away a latent affects pixels, in latents. @param {number} realism */
  reach(realism) {
    const second = realism ? this.card.realism.reach : 0;
    return Math.max(this.card.latents.reach.synthesis, second);
  }

  /** The default realism for files of a quality. @param {number} quality 0 to 100 */
  defaultRealism(quality) {
    const points = (this.realistic && this.card.realism.default) || [];
    if (!points.length) return 0;
    const next = points.findIndex(([at]) => at >= quality);
    if (next === 0) return points[0][1];
    if (next < 0) return points[points.length - 1][1];
    const [[x0, y0], [x1, y1]] = [points[next - 1], points[next]];
    return y0 + ((quality - x0) / (x1 - x0)) * (y1 - y0);
  }

  /**
   * Makes something once, and keeps it; if that fails, the next call tries again.
   *
   * @template T
   * @param {string} name
   * @param {() => Promise<T>} make
   * @returns {Promise<T>}
   */
  once(name, make) {
    if (!this.made.has(name)) {
      const made = make();
      this.made.set(name, made);
      made.catch(() => this.made.delete(name));
    }
    return this.made.get(name);
  }

  /**
   * @param {string} name
   * @returns {Promise<Uint8Array<ArrayBuffer>>} the file, decompressed
   */
  async file(name) {
    const file = this.card.files[name];
    if (!file) throw new ModelError(`the model has no ${name}`);
    const data = await this.surroundings.fetched(file.path, file);
    try {
      return await inflated(data, 'gzip', file.whole);
    } catch (error) {
      throw new ModelError(`damaged model: ${file.path}: ${error.message}`);
    }
  }

  /** @returns {Promise<Record<string, import('./exact.js').Array_>>} */
  numbers() {
    return this.once('numbers', async () => arrays(await this.file('coder')));
  }

  /** @returns {Promise<Coder>} */
  coder() {
    return this.once('coder', async () => {
      try {
        return new Coder(await this.numbers());
      } catch (error) {
        throw error instanceof ModelError ? error : new ModelError(`damaged model: ${error}`);
      }
    });
  }

  /** @returns {Promise<Networks>} */
  networks() {
    return this.once('networks', async () => {
      const litert = await this.surroundings.litert();
      // Files are kept, as a network is compiled again for each new size of its inputs.
      return new Networks(litert, (name) => this.once(name, () => this.file(name)));
    });
  }
}

/**
 * @param {Uint8Array} data
 * @param {string} path
 */
export function parsedCard(data, path) {
  try {
    const card = JSON.parse(new TextDecoder().decode(data));
    const numbers = [card.stride, card.latents.channels, card.latents.stride];
    if (!numbers.every((value) => value > 0) || !card.files.coder) throw new Error('lacks fields');
    return /** @type {Card} */ (card);
  } catch (error) {
    throw new ModelError(`damaged model: ${path}: ${error.message}`);
  }
}

/**
 * Throws ModelError if the bytes of a file do not have the hash in the model's card.
 *
 * @param {Uint8Array<ArrayBuffer>} data
 * @param {File_} file
 */
export async function checkHash(data, file) {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', data));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
  if (found !== file.sha256) throw new ModelError(`${file.path} is not the file that it should be`);
}
