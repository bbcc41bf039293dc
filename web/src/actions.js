/** The actions of a walk over the latents: to read a string, or to write one. */
import {Reader, Writer} from './rans.js';
import {rounded} from './rounding.js';

export const UNIT = 16; // a latent of 1, in sixteenths
export const LEVELS = 8; // magnitudes from this on share an entry of the quantiser's tables
const LATENT_MAX = 8191;
const Z_MAX = 127;
const SKIPPED = 6; // a latent with a table index up to this is not coded: it is its mean

export const clip = (value, most) => Math.max(-most, Math.min(most, value));

const finite = (value) => (Number.isFinite(value) ? value : 0);

/** The action that reads what `Write` wrote. */
export class Read {
  /** @param {import('./walk.js').Coder} coder @param {Uint8Array} string */
  constructor(coder, string) {
    this.coder = coder;
    this.reader = new Reader(coder.tables, string);
  }

  /**
   * Decodes z.
   *
   * @param {Uint16Array} rows of the tables, one for each number of z
   */
  side(rows) {
    return this.reader.read(rows, rows.length).map((value) => clip(value, Z_MAX));
  }

  /**
   * Decodes the quantised residuals of some latents of a slice.
   *
   * @param {number} first channel of the slice
   * @param {import('./exact.js').Places} places positions of the latents
   * @param {Uint8Array} index of each latent's table, [places, channels]
   * @returns {Int32Array} residuals, [places, channels]
   */
  residual(first, places, index) {
    const rows = new Uint16Array(index.length);
    let count = 0;
    for (const each of index) if (each > SKIPPED) rows[count++] = each + this.coder.zChannels;
    const values = this.reader.read(rows, count);
    const whole = new Int32Array(index.length);
    for (let i = 0, next = 0; i < index.length; i++) {
      if (index[i] > SKIPPED) whole[i] = clip(values[next++], LATENT_MAX);
    }
    return whole;
  }
}

/** The action that writes latents: y [h, w, c] after the gain, z [h / 4, w / 4, cz]. */
export class Write {
  /** @param {import('./walk.js').Coder} coder @param {Float32Array} y @param {Float32Array} z */
  constructor(coder, y, z) {
    this.coder = coder;
    this.y = y;
    this.z = z;
    this.writer = new Writer(coder.tables);
  }

  /** Codes z; returns it as decoded. @param {Uint16Array} rows as for `Read` */
  side(rows) {
    const z = Int32Array.from(this.z, (value) => {
      const whole = rounded(Math.abs(finite(value)));
      return clip(value < 0 ? -whole : whole, Z_MAX);
    });
    this.writer.write(rows, z, z.length);
    return z;
  }

  /**
   * Codes some latents of a slice; returns their quantised residuals, as `Read` does.
   *
   * @param {number} first
   * @param {import('./exact.js').Places} places
   * @param {Uint8Array} index
   * @param {Int32Array} mean of each latent, in sixteenths
   */
  residual(first, places, index, mean) {
    const {coder, y} = this;
    const own = index.length / places.count;
    const rows = new Uint16Array(index.length);
    const values = new Int32Array(index.length);
    const whole = new Int32Array(index.length);
    let count = 0;
    for (let i = 0; i < index.length; i++) {
      if (index[i] <= SKIPPED) continue;
      const place = places.numbers[Math.floor(i / own)];
      const value = finite(y[place * coder.channels + first + (i % own)]);
      whole[i] = this.quantised(Math.fround(value - mean[i] / UNIT), index[i]);
      rows[count] = index[i] + coder.zChannels;
      values[count++] = whole[i];
    }
    this.writer.write(rows, values, count);
    return whole;
  }

  /**
   * Rounds a residual to an integer: see `densities.Quantiser` in Python.
   *
   * @param {number} residual
   * @param {number} index of its table
   */
  quantised(residual, index) {
    const magnitude = Math.abs(residual);
    let whole = Math.min(rounded(magnitude), LATENT_MAX);
    const extra = this.coder.extra[index * (LEVELS + 1) + Math.min(whole, LEVELS)];
    if (magnitude < Math.fround(whole - 0.5 + extra)) whole -= 1;
    return whole > 0 ? (residual < 0 ? -whole : whole) : 0;
  }
}
