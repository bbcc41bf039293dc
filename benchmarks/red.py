"""Red detail beside AVIF's at equal bytes: `python -m benchmarks.red IMAGES`.

Squared error over a whole picture says little of colours that are rare in it. So this
takes from each image the square with most detail in red, and compares its red samples.
AVIF gets at least as many bytes as ours, so that its quality may go in steps.
"""

from __future__ import annotations

import argparse

import numpy as np

from tfcodec import classical, codec, images, inputs, quality

SIDE = 112  # of the square, in pixels
STEP = 8  # pixels between the places where it is tried
REDDER = 60  # levels by which a pixel's red sample exceeds the others if it is red
LEAST = 8000  # sum of differences below which an image has no red detail


def reddest(pixels: np.ndarray):
    """Returns (sum of its differences in red pixels, slices) of the best square."""
    levels = pixels.astype(np.float64)
    red = levels[..., 0] - levels[..., 1:].max(-1) > REDDER
    differences = np.abs(np.diff(levels[..., 0], axis=1, append=0)) * red
    sums = np.pad(differences.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    within = sums[SIDE:, SIDE:] - sums[SIDE:, :-SIDE] - sums[:-SIDE, SIDE:]
    within = (within + sums[:-SIDE, :-SIDE])[::STEP, ::STEP]
    i, j = STEP * np.array(np.unravel_index(within.argmax(), within.shape))
    return within.max(), np.s_[i : i + SIDE, j : j + SIDE]


def rival(pixels: np.ndarray, least: int) -> np.ndarray:
    """Returns a picture decoded from the smallest AVIF of at least `least` bytes."""
    avif = classical.find("avif")
    low, high = (int(limit) for limit in avif.limits)
    while low < high:
        middle = (low + high) // 2
        if len(avif.compress(pixels, middle)) >= least:
            high = middle
        else:
            low = middle + 1
    return avif.decompress(avif.compress(pixels, low))


def detail(red: np.ndarray) -> np.ndarray:
    """Red samples [SIDE, SIDE] less the means of blocks of 4x4, and those flattened."""
    blocks = red.reshape(SIDE // 4, 4, SIDE // 4, 4)
    return (blocks - blocks.mean((1, 3), keepdims=True)).ravel()


def figures(original, decoded):
    """Returns (mean squared error, correlation of detail) of red samples."""
    a, b = (x[..., 0].astype(np.float64) for x in (original, decoded))
    return np.mean((a - b) ** 2), np.corrcoef(detail(a), detail(b))[0, 1]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.red", description=__doc__.splitlines()[0]
    )
    parser.add_argument("images", nargs="+", help="files, folders and globs")
    parser.add_argument("--bpp", type=float, nargs="+", default=[0.2, 0.4, 0.8])
    given = parser.parse_args(arguments)
    pictures = []
    for path in inputs.find_images(given.images):
        pixels = images.read_rgb(path)
        if min(pixels.shape[:2]) > SIDE:
            pictures.append((path.name, pixels, *reddest(pixels)))
    pictures = [(*rest, place) for *rest, found, place in pictures if found > LEAST]
    print(f"{len(pictures)} images have red detail")
    for rate in given.bpp:
        rows = []
        for name, pixels, place in pictures:
            try:
                data = codec.compress(pixels, target_bpp=rate)
            except quality.OutOfReach:
                continue
            ours = codec.decompress(data, realism=0)
            theirs = rival(pixels, len(data))
            rows.append([figures(pixels[place], x[place]) for x in (ours, theirs)])
            shown = "  ".join(f"{e:7.1f} {c:.3f}" for e, c in rows[-1])
            print(f"{rate:4g}  {name:20} {shown}", flush=True)
        if not rows:
            print(f"{rate:g} bpp, 0 images: nothing to compare")
            continue
        (error, kept), (other, their_kept) = np.array(rows).transpose(1, 2, 0)
        ratio = np.exp(np.log(error / other).mean())
        print(
            f"{rate:g} bpp, {len(rows)} images: squared error {100 * ratio - 100:+.0f} "
            f"%, lower in {np.sum(error < other)}; correlation of detail "
            f"{kept.mean():.3f} and {their_kept.mean():.3f}, higher in "
            f"{np.sum(kept > their_kept)}"
        )


if __name__ == "__main__":
    main()
