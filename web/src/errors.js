/**
 * What is wrong with a file: the one kind of error that leaves a decoder.
 *
 *     StreamError
 *       CorruptStream       damaged: truncated, checksum, lengths
 *       UnsupportedStream   whole, but not for us: no .tfc, version, model, over a limit
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

/** The model, its files or this browser cannot do what is asked; no file is at fault. */
export class ModelError extends Error {
  name = 'ModelError';
}

const KINDS = {StreamError, CorruptStream, UnsupportedStream, ModelError};

/**
 * An error as it crosses from a worker to a page: messages lose the class.
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
 * @param {{name: string, message: string}} error as `packed` makes it
 * @returns {Error}
 */
export function unpacked({name, message}) {
  const kind = Object.hasOwn(KINDS, name) ? KINDS[/** @type {keyof typeof KINDS} */ (name)] : Error;
  return new kind(message);
}
