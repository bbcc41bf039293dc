/**
 * `<tfc-image src="photo.tfc" alt="...">`: a picture in a page.
 *
 * Its size is reserved as soon as the first bytes of the file have arrived (or at once, by
 * the attributes `width` and `height`), and tiles appear as they are decoded. It has the
 * attributes `src`, `alt`, `width`, `height` and `loading` of `<img>`, and its own
 * `realism`, 0 to 1. Its events are `load`, and `error` with the error as `detail`.
 */
import {decode, readHeader} from './index.js';

const STYLE = `
  :host { display: inline-block; position: relative; max-width: 100%; vertical-align: bottom; }
  :host([hidden]) { display: none; }
  canvas { display: block; width: 100%; height: auto; }
  :host([height]) canvas { height: 100%; }
  #bar { position: absolute; left: 0; bottom: 0; height: 3px; background: #3b82f6; }
  #words { font: 14px/1.4 system-ui, sans-serif; padding: .6em .8em; color: #b3261e; background: #fbe9e7; }
  [hidden] { display: none !important; }
`;
const HEADER = 64; // bytes that are enough for a file's header

let sheet;

export class TfcImage extends HTMLElement {
  static observedAttributes = ['src', 'alt', 'realism', 'width', 'height'];

  constructor() {
    super();
    const root = this.attachShadow({mode: 'open'});
    if (!sheet) {
      sheet = new CSSStyleSheet();
      sheet.replaceSync(STYLE);
    }
    root.adoptedStyleSheets = [sheet];
    const add = (name, id) => {
      const made = root.appendChild(document.createElement(name));
      Object.assign(made, {id, hidden: name !== 'canvas'});
      return made;
    };
    this.canvas = /** @type {HTMLCanvasElement} */ (add('canvas', 'picture'));
    this.bar = add('div', 'bar');
    this.words = add('div', 'words');
    this.canvas.setAttribute('role', 'img');
    this.canvas.width = this.canvas.height = 0;
    this.complete = false;
  }

  connectedCallback() {
    this.renew();
  }

  disconnectedCallback() {
    this.controller?.abort();
    this.watch?.disconnect();
  }

  attributeChangedCallback(name, old, value) {
    if (old === value) return;
    if (name === 'alt') this.canvas.setAttribute('aria-label', value ?? '');
    else if (name === 'src' || name === 'realism') {
      if (this.isConnected) this.renew();
    } else {
      this.reserve();
    }
  }

  /** URL of the picture. */
  get src() {
    return this.getAttribute('src') ?? '';
  }

  set src(value) {
    this.setAttribute('src', value);
  }

  /** Shows the picture anew: at once, or if `loading` is lazy, when it comes near the viewport. */
  renew() {
    this.controller?.abort();
    this.watch?.disconnect();
    this.reserve();
    if (!this.src) return;
    if (this.getAttribute('loading') !== 'lazy') {
      this.show();
      return;
    }
    this.watch = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      this.watch.disconnect();
      this.show();
    }, {rootMargin: '50%'});
    this.watch.observe(this);
  }

  /**
   * Reserves space, by the attributes or the size of the picture.
   *
   * @param {{width: number, height: number}} [size]
   */
  reserve(size) {
    const [width, height] = ['width', 'height'].map((name) => Number(this.getAttribute(name)));
    if (size) Object.assign(this.canvas, {width: size.width, height: size.height});
    const shown = {width: width || size?.width, height: height || size?.height};
    if (size && width && !height) shown.height = (width * size.height) / size.width;
    if (size && height && !width) shown.width = (height * size.width) / size.height;
    if (!shown.width || !shown.height) return;
    this.style.width = `${shown.width}px`;
    this.style.aspectRatio = `${shown.width} / ${shown.height}`;
  }

  async show() {
    const controller = new AbortController();
    this.controller = controller;
    const {signal} = controller;
    this.complete = false;
    this.words.hidden = true;
    this.canvas.hidden = false;
    try {
      const data = await this.fetched(signal);
      const context = this.canvas.getContext('2d');
      const realism = this.getAttribute('realism');
      const image = await decode(data, {
        signal,
        realism: realism === null ? undefined : Number(realism),
        onProgress: ({done, total}) => this.progress(done / total),
        onPiece: ({box, rgba}) => put(context, rgba, box.right - box.left, box.left, box.top),
      });
      signal.throwIfAborted();
      put(context, image.rgba, image.width, 0, 0);
      this.complete = true;
      this.dispatchEvent(new Event('load'));
    } catch (error) {
      if (signal.aborted) return;
      this.canvas.hidden = true;
      this.words.hidden = false;
      this.words.textContent = [this.getAttribute('alt'), error.message].filter(Boolean).join(': ');
      this.dispatchEvent(new CustomEvent('error', {detail: error}));
    } finally {
      if (!signal.aborted) this.bar.hidden = true;
    }
  }

  /** Fetches the file; reserves space once its header has arrived. @param {AbortSignal} signal */
  async fetched(signal) {
    const response = await fetch(this.src, {signal});
    if (!response.ok) throw new Error(`${this.src} is not there (${response.status})`);
    const parts = [];
    const reader = response.body.getReader();
    let known = false;
    try {
      for (;;) {
        const {done, value} = await reader.read();
        if (value) parts.push(value);
        const size = parts.reduce((sum, part) => sum + part.length, 0);
        if (!known && (done || size >= HEADER)) {
          this.reserve(readHeader(await bytesOf(parts)));
          known = true;
        }
        if (done) return bytesOf(parts);
      }
    } catch (error) {
      reader.cancel().catch(() => {}); // The rest is not fetched.
      throw error;
    }
  }

  /** @param {number} part of the work that is done, 0 to 1 */
  progress(part) {
    this.bar.hidden = false;
    this.bar.style.width = `${100 * part}%`;
  }
}

/** @param {Uint8Array<ArrayBuffer>[]} parts */
async function bytesOf(parts) {
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function put(context, rgba, width, left, top) {
  context.putImageData(new ImageData(rgba, width), left, top);
}

customElements.define('tfc-image', TfcImage);
