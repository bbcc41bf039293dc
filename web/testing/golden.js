/** The golden files of the project, and their models as a page has them. */
import {execFileSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {mkdtempSync, readFileSync, readdirSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';

import {CHUNK} from '../src/container.js';
import * as tiling from '../src/tiling.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const GOLDEN = join(ROOT, 'tests', 'golden');

/** What is known of each file, by name. */
export const rows = JSON.parse(readFileSync(join(GOLDEN, 'golden.json'), 'utf8'));

/** @param {string} name of a golden file */
export const read = (name) => new Uint8Array(readFileSync(join(GOLDEN, `${name}.tfc`)));

/** Names of files of the small model that the repository holds for tests. */
export const small = Object.keys(rows).filter((name) => rows[name].model === 'model');

/**
 * Directories of models as `tfcodec.web_files` writes them: `model` and, where it is
 * wanted, `shipped`. Python makes them, unless TFCODEC_WEB_MODELS names those there are.
 *
 * @param {('model' | 'shipped')[]} [wanted]
 * @returns {Record<string, string>}
 */
export function models(wanted = ['model']) {
  const given = process.env.TFCODEC_WEB_MODELS;
  const sources = {model: join(GOLDEN, 'model'), shipped: 'tfcodec'};
  return Object.fromEntries(wanted.map((name) => {
    const directory = given ? join(given, name) : mkdtempSync(join(tmpdir(), 'tfcodec-web-'));
    if (!given) {
      process.on('exit', () => rmSync(directory, {recursive: true, force: true}));
      const python = process.env.PYTHON ?? 'python3';
      execFileSync(python, ['-m', 'tfcodec.web_files', sources[name], directory], {cwd: ROOT});
    }
    const [fingerprint] = readdirSync(directory).filter((each) => !each.endsWith('.json'));
    return [name, join(directory, fingerprint)];
  }));
}

/**
 * The strings of a file with the size of their latents.
 *
 * @param {import('../src/container.js').Header} header
 * @param {import('../src/container.js').Chunk[]} chunks
 * @param {import('../src/model.js').Model} model
 */
export function strings(header, chunks, model) {
  const boxes = tiling.boxes(header.height, header.width, header.tileSide);
  const seen = {[CHUNK.TILE]: 0, [CHUNK.ALPHA_TILE]: 0};
  return chunks.filter(({type}) => type in seen).map(({type, data}) => {
    const around = tiling.around(boxes[seen[type]++], model.stride);
    const box = tiling.shrunk(around, model.latentStride);
    const string = type === CHUNK.ALPHA_TILE ? data.subarray(2) : data;
    return {string, height: tiling.height(box), width: tiling.width(box)};
  });
}

/** SHA-256 of integers, 32 bits each. @param {Int32Array} values */
export const digest = (values) =>
  createHash('sha256').update(new Uint8Array(values.buffer)).digest('hex');

/** Numbers in 0..below-1, the same in each run of a seed (mulberry32). @param {number} seed */
export function random(seed) {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}
