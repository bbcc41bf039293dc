/**
 * Puts LiteRT.js beside the page: `npm run beside [-- DIRECTORY]`, after `npm install`.
 *
 * `litert` of the directory, by default of `beside`, gets its JavaScript, and gzip streams of its WebAssembly, which make the
 * download a third as large, whatever the server does; `runtime.json` has their hashes.
 */
import {createHash} from 'node:crypto';
import {copyFileSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {gzipSync} from 'node:zlib';

// For one thread with and without relaxed SIMD, and for several.
const VARIANTS = ['', '_compat', '_threaded'].map((kind) => `litert_wasm${kind}_internal`);

const core = dirname(dirname(createRequire(import.meta.url).resolve('@litertjs/core')));
const beside = join(dirname(fileURLToPath(import.meta.url)), '..', 'beside');
const target = join(process.argv[2] ?? beside, 'litert');
const version = JSON.parse(readFileSync(join(core, 'package.json'), 'utf8')).version;

/** A module without the note of where its source is, and with paths for names. */
function module(path) {
  return readFileSync(path, 'utf8')
    .replace(/\/\/# sourceMappingURL=.*/, '')
    .replace(/(['"])@litertjs\/wasm-utils\1/, "'./wasm-utils.js'");
}

mkdirSync(target, {recursive: true});
writeFileSync(join(target, 'index.js'), module(join(core, 'dist', 'index.js')));
const utils = join(core, '..', 'wasm-utils', 'dist', 'index.js');
writeFileSync(join(target, 'wasm-utils.js'), module(utils));
const files = {};
for (const name of VARIANTS) {
  copyFileSync(join(core, 'wasm', `${name}.js`), join(target, `${name}.js`));
  const whole = readFileSync(join(core, 'wasm', `${name}.wasm`));
  const data = gzipSync(whole, {level: 9});
  const path = `${name}.wasm.gz`;
  writeFileSync(join(target, path), data);
  const sha256 = createHash('sha256').update(data).digest('hex');
  files[name] = {path, size: data.length, whole: whole.length, sha256};
}
writeFileSync(join(target, 'runtime.json'), `${JSON.stringify({version, files}, null, 1)}\n`);
console.log(`LiteRT.js ${version}: ${target}`);
