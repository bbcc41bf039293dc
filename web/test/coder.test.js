import assert from 'node:assert/strict';
import {test} from 'node:test';

import {CorruptStream, ModelError} from '../src/errors.js';
import {Board, Layer, Machine, Places} from '../src/exact.js';
import {Reader, Tables, Writer, lanesFor} from '../src/rans.js';
import {random} from '../testing/golden.js';

// Frequencies of two rows, and the values that their first symbols stand for.
const TABLES = new Tables([4000, 95, 1, 96, 2000, 2000], [3, 3], [-1, 5]);

function example(count) {
  const pick = random(count);
  const rows = Array.from({length: count}, () => pick(2));
  const values = rows.map((_, i) => (i % 50 ? pick(12) - 3 : [-8191, 8191, 300, -300][pick(4)]));
  const writer = new Writer(TABLES);
  writer.write(rows, values, count);
  return {rows, values, string: writer.finish()};
}

function read(string, rows) {
  const reader = new Reader(TABLES, string);
  const values = reader.read(rows, rows.length);
  reader.finish();
  return Array.from(values);
}

for (const count of [0, 1, 7, 5000, 20000]) {
  test(`a string of ${count} symbols reads back`, () => {
    const {rows, values, string} = example(count);
    assert.deepEqual(read(string, rows), values);
    assert.equal(string[0] + 256 * string[1], lanesFor(count));
  });
}

test('a damaged string is refused', () => {
  const {rows, string} = example(300);
  const pick = random(1);
  const bad = [Uint8Array.of(...string, 0, 0)];
  for (let size = 0; size < string.length; size += 3) bad.push(string.slice(0, size));
  for (let at = 0; at < 40; at++) bad.push(string.map((byte, i) => (i === at ? byte ^ 1 : byte)));
  for (let i = 0; i < 50; i++) bad.push(Uint8Array.from({length: 60}, () => pick(256)));
  for (const data of bad) assert.throws(() => read(data, rows), CorruptStream);
});

/** The definition of an exact convolution, at one place. */
function defined(x, {height, width, inputs}, kernel, numbers, row, column) {
  const [side, , , outputs] = kernel.shape;
  const edge = (side - 1) / 2;
  return Array.from({length: outputs}, (_, output) => {
    let sum = 0;
    for (let i = 0; i < side * side * inputs; i++) {
      const input = i % inputs;
      const r = row + Math.floor(i / inputs / side) - edge;
      const c = column + (Math.floor(i / inputs) % side) - edge;
      if (r < 0 || r >= height || c < 0 || c >= width) continue;
      sum += x[(r * width + c) * inputs + input] * kernel.data[i * outputs + output];
    }
    const [bias, shift, low, high] = [0, 1, 2, 3].map((k) => numbers.data[k * outputs + output]);
    return Math.max(low, Math.min(high, Math.floor((sum + bias) / 2 ** shift)));
  });
}

for (const [side, inputs, outputs] of [[1, 5, 3], [3, 7, 13], [3, 8, 8], [5, 2, 9]]) {
  test(`a convolution of ${side}x${side}, ${inputs} to ${outputs}, is its definition`, () => {
    const pick = random(side * inputs);
    const [height, width] = [5, 6];
    const fill = (length, low, high) => Array.from({length}, () => low + pick(high - low + 1));
    const kernel = {
      shape: [side, side, inputs, outputs], data: fill(side * side * inputs * outputs, -127, 127),
    };
    const numbers = {
      shape: [4, outputs],
      data: [
        ...fill(outputs, -5000, 5000), ...fill(outputs, 0, 9), ...fill(outputs, -900, 0),
        ...fill(outputs, 1, 2000),
      ],
    };
    const machine = new Machine();
    const layer = new Layer(machine, kernel, numbers);
    const board = new Board(machine, height, width, inputs, 2);
    const x = fill(height * width * inputs, -255, 255);
    for (let i = 0; i < height * width; i++) {
      const at = board.at(Math.floor(i / width), i % width);
      board.values.set(x.slice(i * inputs, (i + 1) * inputs), at);
    }
    const places = new Places(board, (row, column) => (row + column) % 3 > 0);
    const made = layer.activated(layer.sums(board, places), places.count);
    for (let i = 0; i < places.count; i++) {
      const found = machine.shorts(made + 2 * i * layer.stride, outputs);
      const [row, column] = [places.rows[i], places.columns[i]];
      const expected = defined(x, {height, width, inputs}, kernel, numbers, row, column);
      assert.deepEqual(Array.from(found), expected);
    }
  });
}

test('sums just below 2^24 are exact', () => {
  const machine = new Machine();
  const inputs = 518; // 518 * 255 * 127 is 16,775,430
  const kernel = {shape: [1, 1, inputs, 1], data: Array(inputs).fill(127)};
  const layer = new Layer(machine, kernel, {shape: [4, 1], data: [-16_775_430 + 5, 0, -9, 9]});
  const board = new Board(machine, 1, 1, inputs);
  board.values.fill(255, board.at(0, 0), board.at(0, 0) + inputs);
  const places = new Places(board, () => true);
  const made = layer.activated(layer.sums(board, places), 1);
  assert.equal(machine.shorts(made, 1)[0], 5);
});

test('memory that is not there is an error of the machine, and it goes on', () => {
  const machine = new Machine();
  assert.throws(() => machine.reserve(2 ** 33), ModelError);
  const address = machine.scratch(() => machine.reserve(100_000));
  assert.equal(machine.reserve(8), address);
});
