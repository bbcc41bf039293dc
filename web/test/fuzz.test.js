import assert from 'node:assert/strict';
import {test} from 'node:test';

import {fuzz} from '../testing/fuzz.js';

test('hostile files give a picture or a StreamError, in time', async () => {
  const found = await fuzz(300, 42);
  assert.ok(found.CorruptStream > 150, JSON.stringify(found));
  assert.ok(found.decoded > 0, JSON.stringify(found));
});
