"""Every architecture trained equally briefly: `python -m benchmarks.history IMAGES`.

Trains each on the same patches for the same number of steps, over the same range of
lambda, exports it, and prints a table: multiply-adds, seconds of training, and what
rate and quality have become on pictures held out. `docs/history.md` says what each is.

    python -m benchmarks.history PHOTOGRAPHS --steps=2000 --plot=history.svg
    python -m benchmarks.history PHOTOGRAPHS --only=sparse --sparsity=0,0.1,0.5,2

So short a training says how fast an architecture learns, and little of how good it can
become. Widths are small ones unless `--full` asks for those of the papers.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time

import numpy as np

# In order of time: name in the table -> (architecture, options with small widths).
SMALL = {
    "mlp": ("mlp", {"m": 32}),
    "mlp, means predicted": ("mlp", {"m": 32, "predict": True}),
    "cnn": ("cnn", {"n": 32, "m": 48}),
    "cnn, pooled": ("cnn", {"n": 32, "m": 48, "kernel": 3, "pooled": True}),
    "sparse": ("sparse", {"n": 32, "m": 48}),
    "bls2017": ("bls2017", {"n": 48}),
    "bmshj2018-factorized": ("bmshj2018-factorized", {"n": 32, "m": 48}),
    "bmshj2018-hyperprior": ("bmshj2018-hyperprior", {"n": 32, "m": 48}),
    "mbt2018-mean": ("mbt2018-mean", {"n": 32, "m": 48}),
    "ms2020": (
        "ms2020",
        {
            "n": 32, "m": 48, "slices": 4, "support": 2, "h": 32,
            "features": [32, 32], "hidden": [32, 24],
        },
    ),
    "tfcodec": (
        "tfcodec",
        {
            "widths": [24, 32, 48], "blocks": [1, 1], "synthesis_blocks": [1, 1],
            "n": 24, "z": 16, "features": 32, "hidden": 32, "slices": [3, 13, 32],
            "pyramid": 16,
        },
    ),
}  # fmt: skip
# What of the options is no width, and stays with `--full`.
KINDS = {"predict", "pooled", "kernel"}


def variants(given) -> dict[str, tuple[str, dict]]:
    """Returns what is to be trained, as `SMALL` has it."""
    names = given.only.split(";") if given.only else list(SMALL)
    unknown = [name for name in names if name not in SMALL]
    if unknown:
        raise ValueError(f"no {unknown[0]!r}; there are: {'; '.join(SMALL)}")
    found = {}
    for name in names:
        arch, options = SMALL[name]
        if given.full:
            options = {k: v for k, v in options.items() if k in KINDS}
        if arch != "sparse":
            found[name] = arch, options
            continue
        for sparsity in map(float, given.sparsity.split(",")):
            found[f"{name}, {sparsity:g}"] = arch, {**options, "sparsity": sparsity}
    return found


def trained(arch: str, options: dict, given, run: pathlib.Path) -> dict:
    """Trains and exports one; returns its card and `seconds`, those of its steps."""
    from tfcodec import registry, training

    class Timed(training.Progress):
        def on_train_batch_end(self, batch, logs=None):
            if self.step == self.first:  # the first makes the graph
                self.clock = time.perf_counter()
            super().on_train_batch_end(batch, logs)

        def on_train_end(self, logs=None):
            Timed.seconds = time.perf_counter() - self.clock
            super().on_train_end(logs)

    whole, training.Progress = training.Progress, Timed
    try:
        config = training.TrainConfig(
            arch=arch, options=json.dumps(options), images=",".join(given.images),
            validation=given.validation, steps=given.steps, batch=given.batch,
            patch=given.patch, lmbda_max=given.lmbda_max, average=given.average,
            warmup=max(1, given.steps // 10), validation_images=given.held_out,
            learning_rate=given.learning_rate, validate_steps=given.steps + 1,
        )  # fmt: skip
        exported = training.train(config, run)
    finally:
        training.Progress = whole
    return {**registry.Model.at(exported).card, "seconds": Timed.seconds}


def table(cards: dict[str, dict]) -> str:
    """Returns the table in Markdown: of cards with `seconds`, by name."""
    qualities = [
        row["quality"] for row in next(iter(cards.values()))["training"]["figures"]
    ]
    shown = qualities[::2]
    heads = [f"bpp, PSNR at {quality}" for quality in shown]
    lines = [
        "| architecture | weights | kMAC: analysis | synthesis | coder | seconds | "
        + " | ".join(heads) + " | zeros |",
        "|---" * (7 + len(shown)) + "|",
    ]  # fmt: skip
    for name, card in cards.items():
        costs = card["kmac_per_pixel"]
        rows = [r for r in card["training"]["figures"] if r["quality"] in shown]
        cells = [name, f"{card['parameters']:,}"]
        cells += [f"{costs[part]:.2f}" for part in ("analysis", "synthesis", "coder")]
        cells += [f"{card['seconds']:.0f}"]
        cells += [f"{row['bpp']:.3f}, {row['psnr']:.2f} dB" for row in rows]
        zeros = [f"{row['zeros']:.0%}" for row in rows if "zeros" in row]
        lines.append("| " + " | ".join([*cells, " / ".join(zeros)]) + " |")
    return "\n".join(lines)


def plot(cards: dict[str, dict], path: str):
    """Draws PSNR over bits per pixel, and the share of zeros where cards have it."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    counted = {k: c for k, c in cards.items() if "zeros" in c["training"]["figures"][0]}
    figure, axes = pyplot.subplots(1, 1 + bool(counted), figsize=(9, 4), squeeze=False)
    for ax, some, key, label in (
        (axes[0, 0], cards, "psnr", "PSNR, dB"),
        (axes[0, -1], counted, "zeros", "share of latents that are zero"),
    ):
        for name, card in some.items():
            rows = card["training"]["figures"]
            ax.plot([r["bpp"] for r in rows], [r[key] for r in rows], ".-", label=name)
        if some:
            ax.set(xlabel="bits per pixel", ylabel=label)
            ax.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path)


def nearest(contestant, image: np.ndarray, size: int) -> bytes:
    """Returns the file of a codec, of those at its qualities, nearest in size."""
    files = [contestant.codec.compress(image, q) for q in contestant.qualities]
    return min(files, key=lambda data: abs(len(data) - size))


def sheet(contestants, image: np.ndarray, size: int, columns: int = 4):
    """Returns a picture by each codec beside the others, all in about as many bytes.

    Args:
        contestants: list of `contestants.Contestant`.
        image: uint8 [height, width, 3]; it comes first.
        size: bytes.
        columns: pictures in a row.

    Returns:
        A Pillow image, with name, bytes and PSNR above each picture.
    """
    from PIL import Image, ImageDraw

    from tfcodec import metrics

    shown = [("original", image)]
    for each in contestants:
        data = nearest(each, image, size)
        decoded = each.codec.decompress(data)
        psnr = metrics.psnr(image, decoded)
        path = pathlib.Path(each.name)
        name = path.parent.name if path.name == "model" else each.name
        shown.append((f"{name}: {len(data):,} bytes, {psnr:.1f} dB", decoded))
    height, width = image.shape[0] + 14, image.shape[1] + 2
    rows = -(-len(shown) // columns)
    whole = Image.new("RGB", (width * columns, height * rows), "white")
    draw = ImageDraw.Draw(whole)
    for number, (words, pixels) in enumerate(shown):
        left, top = number % columns * width, number // columns * height
        draw.text((left + 1, top + 1), words, "black")
        whole.paste(Image.fromarray(pixels), (left, top + 14))
    return whole


def draw_sheet(given, models: list[str]):
    """Writes the sheet of the models trained and of the classical codecs."""
    from tfcodec import contestants, files, images

    path = files.find_images(given.images)[0]
    image = images.read_rgb(path)[:256, :256]
    names = [f"{model}:q=0:25:50:75:100" for model in models]
    found, missing = contestants.contestants([*given.codecs.split(","), *names])
    for reason in missing:
        print(f"missing: {reason}", file=sys.stderr)
    sheet(found, image, given.bytes).save(given.sheet)


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.history",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", help="folders or globs of photographs")
    parser.add_argument("--validation", default="", help="others, held out")
    parser.add_argument("--only", help="rows of the table, with semicolons between")
    parser.add_argument("--sparsity", default="0.1", help="one or more for `sparse`")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=64, help="side in pixels")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--average", type=float, default=0.95)
    parser.add_argument("--lmbda-max", type=float, default=0.128)
    parser.add_argument("--held-out", type=int, default=8, help="pictures held out")
    parser.add_argument("--full", action="store_true", help="widths of the papers")
    parser.add_argument("--run", help="folder for the models, which are then kept")
    parser.add_argument("--plot", help="file for the curves, by matplotlib")
    parser.add_argument(
        "--sheet", help="file for the first image as each codec shows it, 256x256"
    )
    parser.add_argument("--bytes", type=int, default=6000, help="of each, on the sheet")
    parser.add_argument(
        "--codecs",
        default="dictionary,jpeg,png,jpeg2000,webp,avif",
        help="others on the sheet, as `compress.py eval` has them",
    )
    return parser.parse_args(argv)


def main(argv=None) -> int:
    given = parse(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        chosen = variants(given)
    except ValueError as error:
        print(f"history: {error}", file=sys.stderr)
        return 1
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # that functions are traced anew for each model
    cards = {}
    with tempfile.TemporaryDirectory() as folder:
        runs, models = pathlib.Path(given.run or folder), []
        for number, (name, (arch, options)) in enumerate(chosen.items()):
            print(f"{name} ...", flush=True)
            run = runs / f"{number:02d}-{arch}"
            cards[name] = trained(arch, options, given, run)
            models.append(str(run / "model"))
            print(table({name: cards[name]}).splitlines()[-1], flush=True)
        if given.sheet:
            draw_sheet(given, models)
    print(f"\n{table(cards)}")
    if given.plot:
        plot(cards, given.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
