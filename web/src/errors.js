/**
 * The errors of files; a decoder throws only these, and `ModelError`.
 *
 *     StreamError
 *       CorruptStream       damaged: truncated, wrong checksum or lengths
 *       UnsupportedStream   unfit for this reader: no .tfc, other version, over a limit
 */
export class StreamError extends Error {
  name = 'StreamError';
}

export class CorruptStream extends StreamError {
  name = 'CorruptStream';
}

export class UnsupportedStream extends StreamError {
  name = 'UnsupportedStream';
}

/** The model or its files are missing or damaged, or the browser cannot run it. */
export class ModelError extends Error {
  name = 'ModelError';
}

const KINDS = {StreamError, CorruptStream, UnsupportedStream, ModelError};

/**
 * Packs an error for a message from a worker to a page, which would lose its class.
 *
 * @param {unknown} error
 * @returns {{name: string, message: string}}
 */
export function packed(error) {
  return error instanceof Error
    ? {name: error.name, message: error.message}
    : {name: 'Error', message: String(error)};
}

/**
 * The inverse of `packed`.
 *
 * @param {{name: string, message: string}} error
 * @returns {Error}
 */
export function unpacked({name, message}) {
  const kind = Object.hasOwn(KINDS, name) ? KINDS[/** @type {keyof typeof KINDS} */ (name)] : Error;
  return new kind(message);
}
