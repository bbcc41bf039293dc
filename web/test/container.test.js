import assert from 'node:assert/strict';
import {test} from 'node:test';

import {CHUNK, LIMITS, adler32, pack, readHeader, unpack} from '../src/container.js';
import {CorruptStream, StreamError, UnsupportedStream, packed, unpacked} from '../src/errors.js';
import {read, rows} from '../testing/golden.js';

const HEADER = {
  fingerprint: '0123456789abcdef', width: 300, height: 70, layout: 0, tileSide: 128, quality: 12.34,
};
const TILES = [1, 2, 3].map((k) => ({type: CHUNK.TILE, data: new Uint8Array(k * 200).fill(k)}));

test('Adler-32 is that of its definition, however long the data', () => {
  assert.equal(adler32(new TextEncoder().encode('Wikipedia')), 0x11e60398);
  const long = new Uint8Array(100_000).fill(255);
  let [a, b] = [1, 0];
  for (const byte of long) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  assert.equal(adler32(long), b * 65536 + a);
  assert.equal(adler32(long.subarray(7), adler32(long.subarray(0, 7))), adler32(long));
});

test('what is packed unpacks to the same', () => {
  const profile = {type: CHUNK.ICC, data: Uint8Array.of(9, 9)};
  const {header, chunks} = unpack(pack(HEADER, [...TILES, profile]));
  assert.deepEqual(header, HEADER);
  assert.deepEqual(chunks, [profile, ...TILES]);
});

test('every golden file packs to the same bytes', () => {
  for (const name of Object.keys(rows)) {
    const {header, chunks} = unpack(read(name));
    assert.deepEqual(pack(header, chunks), read(name), name);
  }
});

test('a file cut short anywhere is damaged, and its header says so early', () => {
  const data = pack(HEADER, TILES);
  for (let size = 0; size < data.length; size++) {
    assert.throws(() => unpack(data.subarray(0, size)), CorruptStream, `${size} bytes`);
  }
  assert.deepEqual(readHeader(data.subarray(0, 64)), HEADER);
});

test('a change of any one byte is noticed', () => {
  const data = pack(HEADER, TILES);
  for (let at = 0; at < data.length; at++) {
    const changed = Uint8Array.from(data);
    changed[at] ^= 1 << at % 8;
    assert.throws(() => unpack(changed), StreamError, `byte ${at}`);
  }
});

test('a file that asks for more than the limits is refused by its header', () => {
  const huge = (change) => pack({...HEADER, tileSide: 0, ...change}, TILES.slice(0, 1));
  for (const [change, words] of [
    [{width: 2 ** 20, height: 2 ** 20}, /pixels/],
    [{width: 2 ** 21, height: 1}, /a side/],
    [{width: 3000, height: 3000}, /pixels a tile/],
  ]) {
    assert.throws(() => readHeader(huge(change)), (error) =>
      error instanceof UnsupportedStream && words.test(error.message));
  }
  const tiles = Array(2).fill(TILES[0]);
  const data = pack({...HEADER, width: 128, tileSide: 64}, [...tiles, ...tiles]);
  assert.throws(() => unpack(data, {...LIMITS, tiles: 3}), /limit of 3 tiles/);
  assert.throws(() => unpack(data, {...LIMITS, chunks: 3}), /limit of 3 chunks/);
});

test('what is no file of ours is told apart from what is damaged', () => {
  const bytes = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  assert.throws(() => unpack(bytes('\x89PNG\r\n\x1a\n')), /not a .tfc file/);
  assert.throws(() => unpack(bytes('\x89tfc\n\n\x01')), /as text/);
  assert.throws(() => unpack(bytes('')), /empty/);
  const newer = pack(HEADER, TILES);
  newer[7] = 2;
  assert.throws(() => unpack(newer), UnsupportedStream);
});

test('an error keeps its class from a worker to a page', () => {
  for (const error of [new CorruptStream('a'), new UnsupportedStream('b'), new RangeError('c')]) {
    const back = unpacked(structuredClone(packed(error)));
    assert.equal(back instanceof StreamError, error instanceof StreamError);
    assert.equal(back.message, error.message);
  }
});
