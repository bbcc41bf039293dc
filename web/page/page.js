/** The page: shows a dropped .tfc, and makes one of any other picture. */
import {decode, encode, readHeader} from '../src/index.js';
import {png} from '../src/png.js';

const SUFFIX = '.tfc';
const WAIT = 250; // milliseconds from the last move of the slider to the work

/** @param {string} id @returns {any} */
const at = (id) => document.getElementById(id);
const canvas = at('picture');

/** @typedef {{name: string, size: number, width: number, height: number, pixels: ImageData}} Source */

let controller = new AbortController();
/** @type {Source | null} what is being converted */
let source = null;

/** Bytes in words. @param {number} bytes */
function inWords(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  const mega = bytes >= 999_500;
  const value = bytes / (mega ? 1e6 : 1e3);
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${mega ? 'MB' : 'kB'}`;
}

/** @param {import('../src/index.js').Progress} progress */
function told({what, done, total}) {
  at('bar').value = done / total;
  at('doing').textContent = {
    fetch: `fetching the model, once: ${inWords(done)}`,
    decode: 'decoding',
    encode: 'encoding',
  }[what];
}

/** @param {Record<string, string>} facts */
function tell(facts) {
  at('facts').replaceChildren(
    ...Object.entries(facts).flatMap(([term, words]) => {
      const [dt, dd] = [document.createElement('dt'), document.createElement('dd')];
      [dt.textContent, dd.textContent] = [term, words];
      return [dt, dd];
    }),
  );
}

/** Offers a file to be saved. */
function offer(data, name, type, words) {
  const link = at('save');
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([data], {type}));
  link.download = name;
  link.textContent = words;
  link.hidden = false;
}

/** Shows what `work` does, and what goes wrong. @param {(signal: AbortSignal) => Promise<void>} work */
async function busy(work) {
  controller.abort();
  controller = new AbortController();
  const {signal} = controller;
  document.body.dataset.state = 'busy';
  at('problem').hidden = true;
  at('save').hidden = true;
  at('bar').removeAttribute('value');
  at('doing').textContent = 'starting';
  at('progress').hidden = false;
  try {
    await work(signal);
    document.body.dataset.state = 'done';
  } catch (error) {
    if (signal.aborted) return;
    const ours = {CorruptStream: 'The file is damaged', UnsupportedStream: 'The file cannot be shown'};
    at('problem').textContent = [ours[error.name], error.message].filter(Boolean).join(': ');
    at('problem').hidden = false;
    canvas.width = canvas.height = 0;
    document.body.dataset.state = 'failed';
  }
  if (!signal.aborted) at('progress').hidden = true;
}

/** @param {File} file */
async function opened(file) {
  source = null;
  at('welcome').hidden = true;
  at('work').hidden = false;
  at('another').hidden = false;
  at('settings').hidden = true;
  at('compare').hidden = true;
  at('name').textContent = file.name;
  showOriginal(false);
  tell({});
  canvas.width = canvas.height = 0;
  await busy(async (signal) => {
    const data = new Uint8Array(await file.arrayBuffer());
    signal.throwIfAborted();
    const isOurs = file.name.toLowerCase().endsWith(SUFFIX) || data[0] === 0x89 && data[1] === 0x74;
    await (isOurs ? shown(data, file.name, signal) : converted(file, signal));
  });
}

/** Draws a .tfc. @param {Uint8Array} data @param {AbortSignal} signal */
async function drawn(data, signal) {
  const {width, height} = readHeader(data);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
  const context = canvas.getContext('2d');
  const image = await decode(data, {
    signal,
    onProgress: told,
    onPiece: ({box, rgba}) =>
      context.putImageData(new ImageData(rgba, box.right - box.left), box.left, box.top),
  });
  context.putImageData(new ImageData(image.rgba, width), 0, 0);
  return image;
}

/** @param {Uint8Array} data @param {string} name @param {AbortSignal} signal */
async function shown(data, name, signal) {
  const {width, height, quality} = readHeader(data);
  tell({
    Size: `${width} × ${height}`,
    File: inWords(data.length),
    'Bits per pixel': ((8 * data.length) / (width * height)).toFixed(3),
    Quality: `${quality}`,
  });
  canvas.setAttribute('aria-label', name);
  const {rgba} = await drawn(data, signal);
  const file = await png(rgba, height, width, 4);
  signal.throwIfAborted();
  offer(file, `${name.replace(/\.tfc$/i, '')}.png`, 'image/png', 'Save as PNG');
}

/** Reads another picture, and makes a .tfc of it. @param {File} file @param {AbortSignal} signal */
async function converted(file, signal) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error('This browser cannot open that file.');
  });
  const {width, height} = bitmap;
  const original = at('original');
  Object.assign(original, {width, height});
  const context = original.getContext('2d', {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  source = {
    name: file.name, size: file.size, width, height,
    pixels: context.getImageData(0, 0, width, height),
  };
  original.setAttribute('aria-label', `${file.name}, as it was`);
  at('settings').hidden = false;
  at('compare').hidden = false;
  Object.assign(canvas, {width, height});
  canvas.getContext('2d').drawImage(original, 0, 0);
  await coded(signal);
}

/** Encodes what is open, and shows what comes of it. @param {AbortSignal} signal */
async function coded(signal) {
  const {name, size, width, height, pixels} = source;
  const quality = Number(at('quality').value);
  tell({Size: `${width} × ${height}`, Original: inWords(size)});
  const data = await encode(pixels, {quality, signal, onProgress: told});
  tell({
    Size: `${width} × ${height}`,
    Original: inWords(size),
    'As .tfc': `${inWords(data.length)} (${((100 * data.length) / size).toFixed(0)} %)`,
    'Bits per pixel': ((8 * data.length) / (width * height)).toFixed(3),
  });
  offer(data, name.replace(/\.[^.]*$/, '') + SUFFIX, 'application/octet-stream', 'Save as .tfc');
  canvas.setAttribute('aria-label', `${name} at quality ${quality}`);
  await drawn(data, signal);
}

/** @param {boolean} yes */
function showOriginal(yes) {
  at('original').hidden = !yes;
  at('compare').setAttribute('aria-pressed', String(yes));
  at('compare').textContent = yes ? 'Show the .tfc' : 'Show the original';
}

at('compare').addEventListener('click', () => showOriginal(at('original').hidden));

let timer;
const level = () => { at('level').textContent = at('quality').value; };
level();
at('quality').addEventListener('input', () => {
  level();
  clearTimeout(timer);
  timer = setTimeout(() => source && busy(coded), WAIT);
});

for (const input of /** @type {NodeListOf<HTMLInputElement>} */ (
  document.querySelectorAll('input[type=file]')
)) {
  input.addEventListener('change', () => {
    if (input.files.length) opened(input.files[0]);
    input.value = '';
  });
}

for (const kind of ['dragover', 'dragleave', 'drop']) {
  addEventListener(kind, (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    document.body.classList.toggle('over', kind === 'dragover');
    const file = kind === 'drop' && event.dataTransfer.files[0];
    if (file) opened(file);
  });
}
addEventListener('paste', ({clipboardData}) => {
  if (clipboardData.files.length) opened(clipboardData.files[0]);
});

// `?src=photo.tfc` opens a file beside the page.
const linked = new URLSearchParams(location.search).get('src');
if (linked) {
  const response = await fetch(linked);
  if (response.ok) opened(new File([await response.blob()], linked.split('/').pop()));
}

/** Has the page there without a network, once it has been seen with one. */
async function keep() {
  await navigator.serviceWorker.register('sw.js');
  await navigator.serviceWorker.ready;
  // What was fetched before the service worker was there.
  const names = performance.getEntriesByType('resource').map(({name}) => name);
  const own = names.filter((name) => name.startsWith(location.origin) && /\.(js|css|svg)$/.test(name));
  await (await caches.open('tfcodec-page')).addAll([location.pathname, ...own]);
}
keep().then(() => { document.body.dataset.kept = 'yes'; }, () => {}); // Not over http.
