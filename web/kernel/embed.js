// Writes kernel.wasm as a module, so that a page needs no request for it and Node no file.
import {readFileSync, rmSync, writeFileSync} from 'node:fs';

const file = new URL('kernel.wasm', import.meta.url);
const text = readFileSync(file).toString('base64');
const lines = text.match(/.{1,76}/g).map((line) => `  '${line}'`);
writeFileSync(
  new URL('../src/kernel.js', import.meta.url),
  `// Made of kernel/kernel.ts by \`npm run kernel\`; do not edit.
export const KERNEL =
${lines.join(' +\n')};
`,
);
rmSync(file);
