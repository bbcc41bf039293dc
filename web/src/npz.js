/** Arrays of NumPy's `.npz` files: a zip archive of `.npy` files. */
import {ModelError} from './errors.js';
import {inflated} from './zlib.js';

const TYPES = {
  '|i1': Int8Array, '|u1': Uint8Array, '<i2': Int16Array, '<u2': Uint16Array, '<i4': Int32Array,
  '<u4': Uint32Array, '<f4': Float32Array, '<f8': Float64Array, '<i8': BigInt64Array,
};

const END = 0x06054b50; // how a zip archive's end record begins

/**
 * @param {Uint8Array} data a whole `.npz` file
 * @returns {Promise<Record<string, import('./exact.js').Array_>>}
 * @throws {ModelError} it is no such file, or has arrays of an unknown type
 */
export async function arrays(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  try {
    /** @type {Record<string, import('./exact.js').Array_>} */
    const found = {};
    // The end record is the last 22 bytes, as NumPy writes no comment.
    if (view.getUint32(data.length - 22, true) !== END) throw new RangeError('no .npz file');
    let at = view.getUint32(data.length - 22 + 16, true);
    const count = view.getUint16(data.length - 22 + 10, true);
    for (let i = 0; i < count; i++) {
      const method = view.getUint16(at + 10, true);
      const size = view.getUint32(at + 20, true);
      const whole = view.getUint32(at + 24, true);
      const lengths = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
      const header = view.getUint32(at + 42, true);
      const name = new TextDecoder().decode(data.subarray(at + 46, at + 46 + lengths[0]));
      const begin =
        header + 30 + view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
      const body = data.subarray(begin, begin + size);
      const file = method ? await inflated(body, 'deflate-raw', whole) : body;
      found[name.replace(/\.npy$/, '')] = array(file);
      at += 46 + lengths[0] + lengths[1] + lengths[2];
    }
    return found;
  } catch (error) {
    throw error instanceof ModelError ? error : new ModelError(`damaged model: ${error}`);
  }
}

/**
 * @param {Uint8Array} file a `.npy` file
 * @returns {import('./exact.js').Array_}
 */
function array(file) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const wide = file[6] > 1;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const begin = (wide ? 12 : 10) + length;
  const header = new TextDecoder().decode(file.subarray(begin - length, begin));
  const type = header.match(/'descr': '([^']*)'/)?.[1] ?? '';
  const shape = (header.match(/'shape': \(([^)]*)\)/)?.[1] ?? '')
    .split(',').map((word) => word.trim()).filter(Boolean).map(Number);
  const count = shape.reduce((product, side) => product * side, 1);
  if (header.includes("'fortran_order': True")) throw new ModelError('an array in Fortran order');
  if (type === '<f2') {
    return {shape, data: Float32Array.from({length: count}, (_, i) =>
      half(view.getUint16(begin + 2 * i, true)))};
  }
  const kind = TYPES[/** @type {keyof typeof TYPES} */ (type)];
  if (!kind) throw new ModelError(`an array of type ${type}`);
  const bytes = file.slice(begin, begin + count * kind.BYTES_PER_ELEMENT);
  const data = new kind(bytes.buffer);
  return {shape, data: data instanceof BigInt64Array ? Array.from(data, Number) : data};
}

/** A number in half precision. @param {number} bits */
function half(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits >> 15 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
}
