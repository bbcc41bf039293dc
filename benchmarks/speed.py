"""Compares encoding and decoding speed of codecs, on the same images and cores.

    python -m benchmarks.speed photos/*.png
    python -m benchmarks.speed photos/one.png --megapixels 0.1,1,12,48 --codecs tfcodec

Every codec runs in a process of its own, on one core and then on all, so that the peak
memory is that of the codec. Results are medians over images and runs, without the first
file, which also loads a model. `--megapixels` codes the first image, tiled or cropped
to each size, and shows how the cost grows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

CODECS = (
    "tfcodec:q=50,avif:q=50,jxl:q=75,webp:q=75,jpeg:q=75,"
    "compressai-bmshj2018-hyperprior,compressai-mbt2018-mean,tfc-bmshj2018"
)


def main(argv=None) -> int:
    args = parse(argv)
    if args.worker:
        print(json.dumps(work(args)))
        return 0
    from tfcodec import console

    results, missing = [], {}
    with console.quiet_tensorflow():
        for cores in cores_to_try():
            for name in args.codecs.split(","):
                print(f"{name}, {cores} cores", file=sys.stderr)
                found = run(name, cores, args)
                results += found["results"]
                missing[found["missing"]] = True
    missing = [reason for reason in missing if reason]
    print(table(results))
    for reason in missing:
        print(f"missing: {reason}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"results": results, "missing": missing}, file, indent=1)
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", help="files, folders and globs")
    parser.add_argument(
        "--codecs",
        default=CODECS,
        help="as for `eval`, and other learned codecs with random weights "
        "(default: %(default)s)",
    )
    parser.add_argument("--runs", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--megapixels", default="", help="sizes to code the first image at, as 0.1,1,48"
    )
    parser.add_argument("--json", help="file to write the results to")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def cores_to_try() -> list[int]:
    """Returns [1, all cores], or only all if a process cannot be limited to one."""
    if not hasattr(os, "sched_setaffinity"):
        return [os.cpu_count()]
    return sorted({1, len(os.sched_getaffinity(0))})


def run(name, cores, args) -> dict:
    """Measures one codec in a process of its own; see `work`."""
    command = [sys.executable, "-m", "benchmarks.speed", *args.images]
    command += [f"--codecs={name}", f"--runs={args.runs}", f"--worker={cores}"]
    command += [f"--megapixels={args.megapixels}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def work(args) -> dict:
    """Measures a codec in this process, on `args.worker` cores.

    Returns:
        dict of `results`, and `missing`: why there are none, or None.
    """
    if hasattr(os, "sched_setaffinity"):  # before any library counts its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.worker])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from benchmarks import peers
    from tfcodec import classical, contestants, inputs
    from tfcodec import images as pictures

    try:
        if args.codecs in peers.PEERS:
            each = contestants.Contestant(peers.PEERS[args.codecs](), (None,))
        else:
            each = contestants.contestant(args.codecs)
    except classical.Missing as error:
        return {"results": [], "missing": str(error)}
    images = [pictures.read_rgb(path) for path in inputs.find_images(args.images)]
    groups = [images]
    if args.megapixels:
        sizes = [float(word) for word in args.megapixels.split(",")]
        groups = [[resized(images[0], size)] for size in sizes]
    start = time.perf_counter()
    each.codec.decompress(each.codec.compress(groups[0][0], each.qualities[0]))
    first = time.perf_counter() - start
    results = [measure(each, group, args, first) for group in groups]
    return {"results": results, "missing": None}


def measure(each, images, args, first) -> dict:
    """Returns medians over images and runs; each image size is coded once before."""
    from tfcodec import workers

    quality = each.qualities[0]
    encode, decode, size, pixels, seen = [], [], 0, 0, set()
    for image in images:
        area = image.shape[0] * image.shape[1] / 1e6
        if image.shape not in seen:
            each.codec.decompress(each.codec.compress(image, quality))
            seen.add(image.shape)
        for _ in range(args.runs):
            start = time.perf_counter()
            data = each.codec.compress(image, quality)
            middle = time.perf_counter()
            each.codec.decompress(data)
            encode.append(area / (middle - start))
            decode.append(area / (time.perf_counter() - middle))
        size += len(data)
        pixels += image.shape[0] * image.shape[1]
    return {
        "codec": each.name,
        "version": each.codec.version,
        "settings": each.codec.settings,
        "quality": quality,
        "cores": args.worker,
        "megapixels": pixels / len(images) / 1e6,
        # The size of files by random weights means nothing.
        "bpp": 8 * size / pixels if quality is not None else None,
        "encode_megapixels_per_second": statistics.median(encode),
        "decode_megapixels_per_second": statistics.median(decode),
        "first_file_seconds": first,
        "peak_mebibytes": workers.peak(),
    }


def resized(image, megapixels):
    """Returns an image tiled or cropped to 3:2, with a number of megapixels."""
    import numpy as np

    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(height * 1.5)
    repeats = (-(-height // image.shape[0]), -(-width // image.shape[1]), 1)
    return np.ascontiguousarray(np.tile(image, repeats)[:height, :width])


def table(results) -> str:
    """The results as text; ratios are to the first codec on as many cores."""
    head = "codec cores MP bpp enc-MP/s ratio dec-MP/s ratio first-s peak-MiB".split()
    lines = [head]
    base = {}
    for r in results:
        key = r["cores"], round(r["megapixels"], 4)
        speeds = (
            r["encode_megapixels_per_second"],
            r["decode_megapixels_per_second"],
        )
        first = base.setdefault(key, speeds)
        cells = [r["codec"], str(r["cores"]), f"{r['megapixels']:.2f}"]
        cells.append("-" if r["bpp"] is None else f"{r['bpp']:.3f}")
        for speed, other in zip(speeds, first):
            cells += [f"{speed:.2f}", f"{speed / other:.2f}"]
        cells.append(f"{r['first_file_seconds']:.2f}")
        cells.append(
            "-" if r["peak_mebibytes"] is None else f"{r['peak_mebibytes']:.0f}"
        )
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths))
        for line in lines
    )


if __name__ == "__main__":
    sys.exit(main())
