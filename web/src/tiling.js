/** Boxes of pixels: the tiles of an image, and the pieces that are synthesised at once. */

/** @typedef {{top: number, left: number, bottom: number, right: number}} Box */

export const TILE_SIDE = 1024;
export const UNTILED_PIXELS = 2 ** 21; // padded images with more pixels are coded in tiles
export const PIECE = 1024; // side in pixels of what is synthesised at once

export const height = (box) => box.bottom - box.top;
export const width = (box) => box.right - box.left;

/** The intersection of two boxes. @param {Box} a @param {Box} b */
export function common(a, b) {
  return {
    top: Math.max(a.top, b.top),
    left: Math.max(a.left, b.left),
    bottom: Math.min(a.bottom, b.bottom),
    right: Math.min(a.right, b.right),
  };
}

/** Whether a box has no pixels. @param {Box} box */
export const isEmpty = (box) => !(height(box) > 0 && width(box) > 0);

export const roundUp = (value, to) => Math.ceil(value / to) * to;

/** The smallest box around one of multiples of `to`, with `more` on every side. */
export function around(box, to, more = 0) {
  return {
    top: Math.floor(box.top / to) * to - more,
    left: Math.floor(box.left / to) * to - more,
    bottom: roundUp(box.bottom, to) + more,
    right: roundUp(box.right, to) + more,
  };
}

/** A box in units of `by`, its coordinates being multiples. @param {Box} box @param {number} by */
export function shrunk(box, by) {
  return {
    top: box.top / by, left: box.left / by, bottom: box.bottom / by, right: box.right / by,
  };
}

/**
 * The boxes of an image that is cut at multiples of a side, row after row.
 *
 * @param {number} rows pixels
 * @param {number} columns pixels
 * @param {number} side pixels; 0 for a single box
 * @returns {Box[]}
 */
export function boxes(rows, columns, side) {
  side = side || Math.max(rows, columns);
  const found = [];
  for (let top = 0; top < rows; top += side) {
    for (let left = 0; left < columns; left += side) {
      found.push({
        top, left, bottom: Math.min(top + side, rows), right: Math.min(left + side, columns),
      });
    }
  }
  return found;
}

/**
 * Copies a box of one picture into another.
 *
 * @template {{set: Function, subarray: Function}} T
 * @param {T} from values of the box `fromBox`, `channels` for each position
 * @param {Box} fromBox
 * @param {T} into values of the box `intoBox`, likewise
 * @param {Box} intoBox
 * @param {Box} box within both
 * @param {number} channels
 */
export function copyBox(from, fromBox, into, intoBox, box, channels) {
  const length = width(box) * channels;
  for (let row = box.top; row < box.bottom; row++) {
    const begin = ((row - fromBox.top) * width(fromBox) + box.left - fromBox.left) * channels;
    const at = ((row - intoBox.top) * width(intoBox) + box.left - intoBox.left) * channels;
    into.set(from.subarray(begin, begin + length), at);
  }
}
