/**
 * Sets the shapes of inputs in LiteRT files. LiteRT.js accepts only inputs of the shapes in
 * the file, and our files allow any size; so shapes are written into a copy before it is
 * compiled. The file is a FlatBuffer of TensorFlow Lite's schema.
 */
import {ModelError} from './errors.js';

// Fields of the schema's tables -> their numbers.
const MODEL = {subgraphs: 2, signatures: 7};
const SUBGRAPH = {tensors: 0};
const TENSOR = {shape: 0, signature: 7};
const SIGNATURE = {inputs: 0, outputs: 1};
const MAP = {name: 0, tensor: 1};

class Buffer_ {
  /** @param {Uint8Array<ArrayBuffer>} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  number(at) {
    return this.view.getUint32(at, true);
  }

  follow(at) {
    return at + this.number(at);
  }

  /** Position of a field of a table; 0 if it is missing. */
  field(table, index) {
    const entries = table - this.view.getInt32(table, true);
    const at = 4 + 2 * index;
    if (at >= this.view.getUint16(entries, true)) return 0;
    const offset = this.view.getUint16(entries + at, true);
    return offset ? table + offset : 0;
  }

  /** Positions of the elements of a vector, 4 bytes each. */
  elements(field) {
    if (!field) return [];
    const begin = this.follow(field);
    return Array.from({length: this.number(begin)}, (_, i) => begin + 4 + 4 * i);
  }

  text(field) {
    const begin = this.follow(field);
    return new TextDecoder().decode(this.bytes.subarray(begin + 4, begin + 4 + this.number(begin)));
  }
}

/**
 * Returns a copy of a file with one signature, with the shapes of inputs and outputs set.
 *
 * @param {Uint8Array} bytes
 * @param {Record<string, number[]>} shapes by the name of an input or output
 * @returns {Uint8Array<ArrayBuffer>}
 * @throws {ModelError} the file has no such inputs
 */
export function shaped(bytes, shapes) {
  const file = new Buffer_(Uint8Array.from(bytes));
  try {
    const model = file.follow(0);
    const graph = file.follow(file.elements(file.field(model, MODEL.subgraphs))[0]);
    const tensors = file.elements(file.field(graph, SUBGRAPH.tensors));
    const signature = file.follow(file.elements(file.field(model, MODEL.signatures))[0]);
    const wanted = new Set(Object.keys(shapes));
    for (const index of [SIGNATURE.inputs, SIGNATURE.outputs]) {
      for (const element of file.elements(file.field(signature, index))) {
        const entry = file.follow(element);
        const shape = shapes[file.text(file.field(entry, MAP.name))];
        const tensor = file.field(entry, MAP.tensor);
        if (!shape) continue;
        wanted.delete(file.text(file.field(entry, MAP.name)));
        setShape(file, file.follow(tensors[tensor ? file.number(tensor) : 0]), shape);
      }
    }
    if (wanted.size) throw new RangeError(`no ${[...wanted].join(', ')}`);
  } catch (error) {
    throw new ModelError(`damaged model: ${error}`);
  }
  return file.bytes;
}

/**
 * @param {Buffer_} file
 * @param {number} tensor
 * @param {number[]} shape
 */
function setShape(file, tensor, shape) {
  for (const index of [TENSOR.shape, TENSOR.signature]) {
    const at = file.elements(file.field(tensor, index));
    if (index === TENSOR.signature && !at.length) continue; // the shape was fixed before
    if (at.length !== shape.length) throw new RangeError(`a tensor of ${at.length} sides`);
    at.forEach((place, i) => file.view.setInt32(place, shape[i], true));
  }
}
