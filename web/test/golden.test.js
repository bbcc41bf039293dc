import assert from 'node:assert/strict';
import {before, test} from 'node:test';

import {CHUNK, LIMITS, pack, readHeader, unpack} from '../src/container.js';
import {CorruptStream, ModelError, StreamError, UnsupportedStream} from '../src/errors.js';
import {codec, loadModel} from '../src/node.js';
import {digest, models, random, read, rows, small, strings} from '../testing/golden.js';

const BOTH = /** @type {const} */ (['model', 'shipped']);
/** @type {Record<string, string>} */
let directories;
/** @type {Awaited<ReturnType<typeof codec>>} */
let ours;

before(async () => {
  directories = models([...BOTH]);
  ours = await codec(directories.model);
});

for (const kind of BOTH) {
  test(`integers of golden files of the ${kind} are Python's`, async () => {
    const model = await loadModel(directories[kind]);
    const coder = await model.coder();
    for (const [name, row] of Object.entries(rows)) {
      if (row.model !== kind) continue;
      const {header, chunks} = unpack(read(name));
      const found = strings(header, chunks, model).map(({string, height, width}) =>
        digest(coder.decode(string, height, width).y));
      assert.deepEqual(found, row.integers, name);
    }
  });
}

test("pixels of golden files are nearly Python's", async () => {
  for (const name of small) {
    const {width, height, rgba} = await ours.decode(read(name), {realism: 0});
    const [rowCount, columns, channels = 1] = rows[name].shape;
    assert.deepEqual([height, width], [rowCount, columns], name);
    const planes = {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels];
    [rows[name].mean].flat().forEach((mean, k) => {
      let sum = 0;
      for (let i = planes[k]; i < rgba.length; i += 4) sum += rgba[i];
      // One sample in fifty a level off would show.
      assert.ok(Math.abs(sum / (width * height) - mean) < 0.02, `${name}, ${k}`);
    });
  }
});

test('a region is that part of the picture, and decodes the tiles that it needs', async () => {
  const data = read('tiles_64');
  const whole = await ours.decode(data);
  const region = {top: 70, left: 33, bottom: 101, right: 61};
  let total = 0;
  const part = await ours.decode(data, {region, onProgress: (_, all) => { total = all; }});
  assert.ok(total < 12, `${total} steps of 17`);
  assert.deepEqual([part.height, part.width], [31, 28]);
  for (let row = 0; row < part.height; row++) {
    const begin = 4 * ((row + region.top) * whole.width + region.left);
    const expected = whole.rgba.subarray(begin, begin + 4 * part.width);
    const found = part.rgba.subarray(4 * row * part.width, 4 * (row + 1) * part.width);
    // The same numbers are added up in another order.
    assert.ok(found.every((value, i) => Math.abs(value - expected[i]) <= 1));
  }
});

test('pieces make up the picture', async () => {
  for (const name of ['tiles_128', 'alpha_30', 'alpha_tiles']) {
    const {width, height} = readHeader(read(name));
    const canvas = new Uint8ClampedArray(4 * width * height);
    const {rgba} = await ours.decode(read(name), {
      onPiece({top, left, bottom, right}, piece) {
        for (let row = top; row < bottom; row++) {
          const begin = 4 * (row - top) * (right - left);
          const part = piece.subarray(begin, begin + 4 * (right - left));
          canvas.set(part, 4 * (row * width + left));
        }
      },
    });
    assert.deepEqual(canvas, rgba, name);
  }
});

/** @param {number} height @param {number} width @param {(i: number) => number[]} colour */
function picture(height, width, colour) {
  const data = new Uint8ClampedArray(4 * height * width);
  for (let i = 0; i < height * width; i++) data.set(colour(i), 4 * i);
  return {width, height, data};
}

test('a file that was made looks like what it was made of', async () => {
  const source = await ours.decode(read('face_100'));
  const errors = [];
  for (const quality of [10, 100]) {
    const file = await ours.encode({...source, data: source.rgba}, {quality});
    assert.equal(readHeader(file).quality, quality);
    const {rgba} = await ours.decode(file);
    const sum = rgba.reduce((total, value, i) => total + (value - source.rgba[i]) ** 2, 0);
    errors.push(sum / rgba.length);
  }
  assert.ok(errors[1] < errors[0] && errors[1] < 60, `${errors}`);
});

test('any latents code and decode', async () => {
  const coder = await (await loadModel(directories.model)).coder();
  const pick = random(3);
  for (const odd of [0, 300, -40, 1e4, -1e30, NaN, Infinity]) {
    const y = Float32Array.from({length: 32 * coder.channels}, () => (pick(9) ? pick(5) - 2 : odd));
    const z = Float32Array.from({length: 2 * coder.zChannels}, () => (pick(9) ? pick(5) - 2 : odd));
    const {string, latents} = coder.encode(y, z, 4, 8);
    const back = coder.decode(string, 4, 8);
    assert.deepEqual(back.y, latents.y);
    assert.deepEqual(back.yHat, latents.yHat);
    assert.ok(back.yHat.every(Number.isFinite));
  }
});

test('layouts are what the pixels are', async () => {
  for (const [colour, layout] of [
    [(i) => [i, i, i, 255], 1],
    [(i) => [i, 0, 9, 255], 0],
    [(i) => [i, 0, 9, i], 2],
    [(i) => [i, i, i, 100], 3],
    [(i) => (i % 2 ? [i, i, i, 9] : [255, 0, 0, 0]), 3], // colours that no one sees
  ]) {
    const source = picture(9, 20, (i) => /** @type {Function} */ (colour)(i % 256));
    const file = await ours.encode(source, {quality: 30});
    assert.equal(readHeader(file).layout, layout);
    const {rgba} = await ours.decode(file);
    for (let i = 3; i < rgba.length; i += 4) assert.equal(rgba[i], source.data[i]);
  }
});

test('what is no picture or no quality is refused', async () => {
  const one = picture(1, 1, () => [0, 0, 0, 255]);
  await assert.rejects(ours.encode({...one, width: 0}), RangeError);
  await assert.rejects(ours.encode({...one, width: 2}), RangeError);
  await assert.rejects(ours.encode(one, {quality: 101}), RangeError);
  await assert.rejects(ours.encode(one, {quality: NaN}), RangeError);
  await assert.rejects(ours.decode(read('pixel_30'), {realism: 2}), RangeError);
  await assert.rejects(ours.decode(read('pixel_30'), {realism: 1}), ModelError);
  const region = {top: 5, left: 5, bottom: 6, right: 6};
  await assert.rejects(ours.decode(read('pixel_30'), {region}), RangeError);
});

test('work stops between two tiles when it is told to', async () => {
  const controller = new AbortController();
  let steps = 0;
  const onProgress = () => { if (++steps === 2) controller.abort(); };
  await assert.rejects(
    ours.decode(read('tiles_64'), {signal: controller.signal, onProgress}), {name: 'AbortError'},
  );
  assert.equal(steps, 2);
});

test('a file of another model, or over the limits, is refused', async () => {
  const {header, chunks} = unpack(read('face_50'));
  const other = pack({...header, fingerprint: '00'.repeat(8)}, chunks);
  await assert.rejects(ours.decode(other), UnsupportedStream);
  await assert.rejects(ours.decode(read('face_50'), {limits: {...LIMITS, pixels: 99}}), UnsupportedStream);
  await assert.rejects(ours.decode(read('escapes'), {limits: {...LIMITS, escapes: 10}}), UnsupportedStream);
});

test('alpha that is no PNG of the size, or of two qualities, is refused', async () => {
  const change = (name, type, edit) => {
    const {header, chunks} = unpack(read(name));
    const found = chunks.find((chunk) => chunk.type === type);
    found.data = edit(Uint8Array.from(found.data));
    return pack(header, chunks);
  };
  const edits = [
    ['alpha_30', CHUNK.ALPHA, (data) => data.subarray(0, 60)],
    ['alpha_30', CHUNK.ALPHA, () => new Uint8Array()],
    ['alpha_30', CHUNK.ALPHA, (data) => { data[50] ^= 1; return data; }],
    ['alpha_tiles', CHUNK.ALPHA_TILE, (data) => { data[0] ^= 1; return data; }],
    ['alpha_tiles', CHUNK.ALPHA_TILE, () => Uint8Array.of(1)],
    ['alpha_lossy', CHUNK.ALPHA_TILE, (data) => { data[1] = 255; return data; }],
  ];
  for (const [name, type, edit] of edits) {
    await assert.rejects(ours.decode(change(name, type, edit)), CorruptStream, name);
  }
});

test('random bytes after a sound start give a StreamError', async () => {
  const pick = random(5);
  const {header, chunks} = unpack(read('face_50'));
  for (let i = 0; i < 30; i++) {
    const data = Uint8Array.from({length: pick(400)}, () => pick(256));
    if (i % 2) data.set(chunks[0].data.subarray(0, data.length / 2));
    const file = pack(header, [{type: CHUNK.TILE, data}]);
    await assert.rejects(ours.decode(file), StreamError);
  }
});
