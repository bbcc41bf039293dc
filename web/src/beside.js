/**
 * Files beside the page that the worker fetches: models, and LiteRT. Each is fetched once,
 * kept in the browser's cache, and checked by its SHA-256 whenever it is used.
 */
import {ModelError, UnsupportedStream} from './errors.js';
import {Model, checkHash, parsedCard} from './model.js';
import {load} from './networks.js';
import {inflated} from './zlib.js';

const CACHE = 'tfcodec';

/** @typedef {(done: number, total: number) => void} OnFetch of bytes */

export class Beside {
  /**
   * @param {string} base URL of the directory, with a slash at its end
   * @param {OnFetch} onFetch called as bytes arrive
   */
  constructor(base, onFetch) {
    this.base = base;
    this.onFetch = onFetch;
    this.wanted = 0; // bytes to fetch, and `come`, those of them that have arrived
    this.come = 0;
    /** @type {Map<string, Promise<Model>>} */
    this.models = new Map();
    /** @type {Promise<import('./networks.js').LiteRT> | undefined} */
    this.started = undefined;
  }

  /**
   * The model of a fingerprint, which is that in a file's header.
   *
   * @param {string} fingerprint
   */
  model(fingerprint) {
    let model = this.models.get(fingerprint);
    if (!model) {
      model = this.opened(fingerprint);
      this.models.set(fingerprint, model);
      model.catch(() => this.models.delete(fingerprint));
    }
    return model;
  }

  /** The model to encode with: the first of the list. */
  async first() {
    const list = await this.json('models/models.json');
    return this.model(list.models[0]);
  }

  /** @param {string} fingerprint */
  async opened(fingerprint) {
    const directory = `models/${fingerprint}/`;
    const response = await this.response(`${directory}model.json`);
    if (response.status === 404) {
      throw new UnsupportedStream(`made with the model ${fingerprint}, which this page does not have`);
    }
    const card = parsedCard(await bytes(response), directory);
    return new Model(card, {
      fetched: (path, file) => this.fetched(directory + path, file),
      litert: () => this.litert(),
    });
  }

  litert() {
    this.started ??= this.startLitert();
    this.started.catch(() => { this.started = undefined; });
    return this.started;
  }

  async startLitert() {
    const litert = await import(`${this.base}litert/index.js`);
    const {files} = await this.json('litert/runtime.json');
    const relaxed = await litert.supportsFeature('relaxedSimd');
    const kind = !relaxed ? '_compat' : globalThis.crossOriginIsolated ? '_threaded' : '';
    const name = `litert_wasm${kind}_internal`;
    const file = files[name];
    const wasm = await inflated(await this.fetched(`litert/${file.path}`, file), 'gzip', file.whole);
    await load(litert, `${this.base}litert/${name}.js`, wasm);
    return litert;
  }

  /**
   * @param {string} path
   * @param {import('./model.js').File_} file
   */
  async fetched(path, file) {
    const address = `${this.base}${path}`;
    const kept = await this.kept(address, file);
    if (kept) return kept;
    const response = await this.response(path);
    if (!response.ok) throw new ModelError(`${path} is not there (${response.status})`);
    const data = await this.counted(response, file.size);
    await checkHash(data, file);
    await this.keep(address, data, file);
    return data;
  }

  /** @param {string} path */
  async response(path) {
    try {
      return await fetch(`${this.base}${path}`);
    } catch (error) {
      throw new ModelError(`${path} cannot be fetched: ${error.message}`);
    }
  }

  /** @param {string} path */
  async json(path) {
    const response = await this.response(path);
    if (!response.ok) throw new ModelError(`${path} is not there (${response.status})`);
    return response.json();
  }

  /** Reads a response of `size` bytes, calling `onFetch` as they arrive. */
  async counted(response, size) {
    const whole = new Uint8Array(size);
    this.wanted += size;
    let at = 0;
    const reader = response.body.getReader();
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      if (at + value.length > size) throw new ModelError('a file is longer than it should be');
      whole.set(value, at);
      at += value.length;
      this.come += value.length;
      this.onFetch(this.come, this.wanted);
    }
    if (at === size) return whole;
    throw new ModelError('a file is shorter than it should be');
  }

  /** The bytes of a URL in the cache; null if there are none, or their hash is wrong. */
  async kept(address, file) {
    try {
      const cache = await caches.open(CACHE);
      const response = await cache.match(marked(address, file));
      if (!response) return null;
      const data = await bytes(response);
      await checkHash(data, file);
      return data;
    } catch {
      return null; // There is no cache here, or it has another file.
    }
  }

  async keep(address, data, file) {
    try {
      const cache = await caches.open(CACHE);
      for (const old of await cache.keys()) {
        if (old.url.startsWith(`${address}?`)) await cache.delete(old);
      }
      await cache.put(marked(address, file), new Response(data));
    } catch {
      // There is no cache here, or it is full: the file will be fetched again next time.
    }
  }
}

const marked = (address, file) => `${address}?sha256=${file.sha256}`;

/** @param {Response} response */
async function bytes(response) {
  return new Uint8Array(await response.arrayBuffer());
}
