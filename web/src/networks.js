/** The floating-point networks, run by LiteRT.js: XNNPACK in WebAssembly. */
import {ModelError} from './errors.js';
import {shaped} from './tflite.js';

// Number of compiled networks to keep, each for one size of its inputs. Each takes some
// 20 MB for weights, and memory for the activations at that size.
const KEPT = 3;

/**
 * @typedef {typeof import('@litertjs/core')} LiteRT
 * @typedef {{data: Float32Array | Uint8Array, shape: number[]}} Tensor_
 */

/** @type {Promise<void> | undefined} */
let loading;

/**
 * Loads LiteRT's WebAssembly, once.
 *
 * @param {LiteRT} litert
 * @param {string} path of its script, or of the directory with all of its scripts
 * @param {Uint8Array} [wasmBinary] by default the script fetches its own
 */
export function load(litert, path, wasmBinary) {
  loading ??= quiet(async () => {
    await litert.loadLiteRt(path, {threads: path.includes('threaded')});
  }, {wasmBinary, mainScriptUrlOrBlob: path});
  loading.catch(() => { loading = undefined; });
  return loading;
}

/**
 * Runs LiteRT's loader without its messages on the console, and hides the GPU from it, as
 * the networks run in WebAssembly.
 *
 * @param {() => Promise<void>} work
 * @param {object} settings of the WebAssembly module
 */
async function quiet(work, settings) {
  const {warn} = console;
  const silent = () => {};
  const navigator = /** @type {any} */ (globalThis.navigator);
  console.warn = silent;
  if (navigator) Object.defineProperty(navigator, 'gpu', {value: undefined, configurable: true});
  // The loader reads this variable, and removes it.
  Object.assign(globalThis, {Module: {...settings, print: silent, printErr: silent}});
  try {
    await work();
  } catch (error) {
    throw new ModelError(`LiteRT does not start here: ${error}`);
  } finally {
    console.warn = warn;
    if (navigator) delete navigator.gpu;
  }
}

export class Networks {
  /**
   * @param {LiteRT} litert
   * @param {(name: string) => Promise<Uint8Array>} file a network's `.tflite`
   */
  constructor(litert, file) {
    this.litert = litert;
    this.file = file;
    /** @type {Map<string, import('@litertjs/core').CompiledModel>} least used first */
    this.compiled = new Map();
    this.queue = Promise.resolve();
  }

  /**
   * Runs a network, after those for which it was called before.
   *
   * @param {string} name
   * @param {Record<string, Tensor_>} inputs
   * @param {Record<string, number[]>} outputs shapes
   * @returns {Promise<Record<string, Float32Array | Uint8Array>>}
   */
  run(name, inputs, outputs) {
    const result = this.queue.then(() => this.runNext(name, inputs, outputs));
    this.queue = result.then(() => {}, () => {});
    return result;
  }

  async runNext(name, inputs, outputs) {
    const shapes = {...outputs};
    for (const [key, {shape}] of Object.entries(inputs)) if (shape.length) shapes[key] = shape;
    const network = await this.network(name, shapes);
    /** @type {Record<string, import('@litertjs/core').Tensor>} */
    const given = {};
    /** @type {Record<string, import('@litertjs/core').Tensor>} */
    let made = {};
    try {
      for (const [key, {data, shape}] of Object.entries(inputs)) {
        given[key] = new this.litert.Tensor(data, shape);
      }
      made = await network.run(given);
      return Object.fromEntries(
        Object.keys(outputs).map((key) => {
          const values = made[key].toTypedArray().slice();
          return [key, /** @type {Float32Array | Uint8Array} */ (values)];
        }),
      );
    } catch (error) {
      throw new ModelError(`LiteRT cannot run ${name}: ${error}`);
    } finally {
      for (const tensor of [...Object.values(given), ...Object.values(made)]) tensor.delete();
    }
  }

  /**
   * @param {string} name
   * @param {Record<string, number[]>} shapes
   */
  async network(name, shapes) {
    const key = `${name} ${JSON.stringify(shapes)}`;
    let network = this.compiled.get(key);
    this.compiled.delete(key);
    if (!network) {
      for (const [old, unused] of [...this.compiled].slice(0, this.compiled.size - KEPT + 1)) {
        this.compiled.delete(old);
        unused.delete();
      }
      const file = shaped(await this.file(name), shapes);
      try {
        network = await this.litert.loadAndCompile(file, {accelerator: 'wasm'});
      } catch (error) {
        throw new ModelError(`LiteRT cannot load ${name}: ${error}`);
      }
    }
    this.compiled.set(key, network);
    return network;
  }
}
