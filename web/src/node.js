/** The codec in Node, for tests and for other programs. */
import {readFile} from 'node:fs/promises';
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {dirname, join} from 'node:path';
import vm from 'node:vm';

import {Decoder} from './decoder.js';
import {Encoder} from './encoder.js';
import {Model, checkHash, parsedCard} from './model.js';
import {load} from './networks.js';

const require = createRequire(import.meta.url);

/** Loads LiteRT.js, which expects to run in a worker of a browser. */
async function litert() {
  Object.assign(globalThis, {
    self: globalThis,
    require,
    importScripts(/** @type {string} */ path) {
      Object.assign(globalThis, {__dirname: dirname(path), __filename: path});
      vm.runInThisContext(readFileSync(path, 'utf8'), {filename: path});
    },
  });
  const module = await import('@litertjs/core');
  await load(module, join(dirname(require.resolve('@litertjs/core')), '..', 'wasm/'));
  return module;
}

/**
 * A model in a directory that `python -m tfcodec.web_files` wrote.
 *
 * @param {string} directory
 */
export async function loadModel(directory) {
  const card = parsedCard(await readFile(join(directory, 'model.json')), directory);
  return new Model(card, {
    async fetched(path, file) {
      const data = Uint8Array.from(await readFile(join(directory, path)));
      if (file) await checkHash(data, file);
      return data;
    },
    litert,
  });
}

/**
 * @param {string} directory of a model
 * @returns {Promise<{decode: Decoder['decode'], encode: Encoder['encode']}>}
 */
export async function codec(directory) {
  const model = await loadModel(directory);
  const [decoder, encoder] = [new Decoder(model), new Encoder(model)];
  return {decode: decoder.decode.bind(decoder), encode: encoder.encode.bind(encoder)};
}
