/** Converts the colours of pictures with an ICC profile to those of the web, sRGB. */
import {CHUNK, isGrey, unpack} from './container.js';
import {CorruptStream, UnsupportedStream} from './errors.js';
import {png} from './png.js';
import {inflated} from './zlib.js';

/**
 * Converts a picture's colours. The browser does it, when it opens a PNG with the profile.
 *
 * @param {import('./decoder.js').Image} image
 * @param {Uint8Array} data the `.tfc` file of the picture
 * @param {import('./container.js').Limits} limits
 * @returns {Promise<import('./decoder.js').Image>} the same picture if it has no profile
 * @throws {CorruptStream} the profile is damaged
 * @throws {UnsupportedStream} it is over the limit
 */
export async function managed(image, data, limits) {
  const {header, chunks} = unpack(data, limits);
  const profile = chunks.find((chunk) => chunk.type === CHUNK.ICC);
  if (!profile) return image;
  await inflated(profile.data, 'deflate', limits.metadata || Infinity, UnsupportedStream);
  if (isGrey(header)) return image; // A profile for grey cannot be applied to RGBA.
  const {width, height, rgba} = image;
  const file = await png(rgba, height, width, 4, profile.data);
  const bitmap = await createImageBitmap(new Blob([file], {type: 'image/png'}), {
    premultiplyAlpha: 'none',
  }).catch(() => { throw new CorruptStream('a damaged ICC profile'); });
  const context = new OffscreenCanvas(width, height).getContext('2d', {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const converted = context.getImageData(0, 0, width, height).data;
  return {width, height, rgba: Uint8ClampedArray.from(converted)};
}
