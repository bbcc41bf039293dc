/**
 * `node testing/convert.js MODEL < orders`: decodes and encodes files, for other programs.
 *
 * Orders are JSON, a list of objects with `from` and `to`, paths. A `.tfc` becomes its
 * pixels, RGBA in a row; pixels become a `.tfc`, with `width`, `height` and `quality`.
 */
import {readFileSync, writeFileSync} from 'node:fs';

import {codec} from '../src/node.js';

const {decode, encode} = await codec(process.argv[2]);
for (const {from, to, ...about} of JSON.parse(readFileSync(0, 'utf8'))) {
  const data = new Uint8Array(readFileSync(from));
  const made = from.endsWith('.tfc')
    ? (await decode(data, {realism: 0})).rgba
    : await encode({...about, data}, about);
  writeFileSync(to, made);
}
