import assert from 'node:assert/strict';
import {mkdtempSync, readFileSync, rmSync, writeFileSync, cpSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {test} from 'node:test';

import {CorruptStream, ModelError} from '../src/errors.js';
import {codec} from '../src/node.js';
import {arrays} from '../src/npz.js';
import {png, readGrey} from '../src/png.js';
import {shaped} from '../src/tflite.js';
import {deflated, inflated} from '../src/zlib.js';
import {models, random, read} from '../testing/golden.js';

test('a grey PNG reads back, and only at its size', async () => {
  const pick = random(0);
  const pixels = Uint8Array.from({length: 13 * 7}, () => pick(256));
  const file = await png(pixels, 13, 7, 1);
  assert.deepEqual(await readGrey(file, 13, 7), pixels);
  await assert.rejects(readGrey(file, 7, 13), CorruptStream);
  for (let size = 0; size < file.length; size += 5) {
    await assert.rejects(readGrey(file.subarray(0, size), 13, 7), CorruptStream);
  }
});

test('a stream that unpacks to more than it may is refused before it is all there', async () => {
  const bomb = await deflated(new Uint8Array(2 ** 24), 'deflate');
  await assert.rejects(inflated(bomb, 'deflate', 1000), CorruptStream);
  await assert.rejects(inflated(bomb.subarray(0, 99), 'deflate', 2 ** 25), CorruptStream);
  assert.equal((await inflated(bomb, 'deflate', 2 ** 24)).length, 2 ** 24);
});

test('a model whose file was changed is refused', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'tfcodec-changed-'));
  try {
    cpSync(models().model, directory, {recursive: true});
    const path = join(directory, 'coder.gz');
    const data = readFileSync(path);
    data[data.length >> 1] ^= 1;
    writeFileSync(path, data);
    const {decode} = await codec(directory);
    await assert.rejects(decode(read('face_50')), ModelError);
  } finally {
    rmSync(directory, {recursive: true});
  }
});

test('bytes that are no model are an error of the model', async () => {
  await assert.rejects(arrays(new Uint8Array(100)), ModelError);
  await assert.rejects(arrays(new Uint8Array(3)), ModelError);
  assert.throws(() => shaped(new Uint8Array(64), {image: [1, 2, 3, 4]}), ModelError);
});
