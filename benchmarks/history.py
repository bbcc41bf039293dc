"""Every architecture trained equally briefly: `python -m benchmarks.history IMAGES`.

Trains each on the same patches for the same number of steps, over the same range of
lambda, exports it, and prints a table: multiply-adds, seconds of training, and what
rate and quality have become on pictures held out. `docs/history.md` says what each is.

    python -m benchmarks.history PHOTOGRAPHS --steps=2000 --plot=history.svg
    python -m benchmarks.history PHOTOGRAPHS --only=sparse --sparsity=0,0.05,0.2 \
        --sparsity_plot=sparsity.svg

With `--programs=FOLDER` it trains nothing, and writes the training steps for
`tfcodec.accelerate`, to train them on a GPU; `docs/history.md` has the commands.

So short a training says how fast an architecture learns, and little of how good it can
become. Widths are small ones unless `--full` asks for those of the papers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import re
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
# Most pixels a side of a picture that is timed and shown.
SHOWN = 256
# Pixels above each picture of the sheet, for two lines.
LABEL = 26
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


def folder_of(name: str) -> str:
    """Returns a row's name without spaces and commas: `sparse, 0.1`, sparse-0.1."""
    return re.sub(r"[^a-z0-9.]+", "-", name)


def config_of(arch: str, options: dict, given):
    """Returns the `training.TrainConfig` of a row of the table."""
    from tfcodec import training

    return training.TrainConfig(
        arch=arch, options=json.dumps(options), images=",".join(given.images),
        validation=given.validation, steps=given.steps, batch=given.batch,
        patch=given.patch, lmbda_max=given.lmbda_max, average=given.average,
        warmup=max(1, given.steps // 10), validation_images=given.held_out,
        learning_rate=given.learning_rate, validate_steps=given.steps + 1,
    )  # fmt: skip


def trained(config, run: pathlib.Path) -> dict:
    """Trains and exports one; returns its card and `seconds`, those of its steps.

    These are of the processor, not of the clock, so that other work on the machine
    counts little; of a training that an accelerator did, those of its clock. A folder
    that holds the finished model is read, and one that holds a part of the training is
    continued.

    Args:
        config: as `config_of` returns it.
        run: folder of the training.
    """
    from tfcodec import registry, training

    asked, kept = dataclasses.asdict(config), run / "row.json"
    if kept.exists():
        row = json.loads(kept.read_text("utf-8"))
        if row.pop("config") == asked:
            return row
        raise ValueError(f"{run} holds a model that was trained with other settings")

    class Timed(training.Progress):
        seconds = 0.0  # of a step

        def on_train_batch_end(self, batch, logs=None):
            if self.step == self.first:  # the first makes the graph
                self.clock = time.process_time()
            super().on_train_batch_end(batch, logs)

        def on_train_end(self, logs=None):
            spent = time.process_time() - self.clock
            Timed.seconds = spent / max(1, self.step - self.first - 1)
            super().on_train_end(logs)

    whole, training.Progress = training.Progress, Timed
    try:
        exported = training.train(config, run)
    finally:
        training.Progress = whole
    card = registry.Model.at(exported).card
    elsewhere = card["training"].get("accelerator", {}).get("seconds", 0.0)
    row = {**card, "seconds": elsewhere + Timed.seconds * config.steps}
    kept.write_text(json.dumps({**row, "config": asked}), "utf-8")
    return row


def seconds_per_megapixel(model: pathlib.Path, image: np.ndarray) -> dict:
    """Returns what a file takes: `compress` and `decompress`, seconds of the processor.

    At the middle quality, after a file that is not counted.

    Args:
        model: directory of an exported model.
        image: uint8 [height, width, 3].
    """
    import tfcodec

    spent = {}
    for _ in range(2):
        began = time.process_time()
        data = tfcodec.compress(image, 50, model=model)
        middle = time.process_time()
        tfcodec.decompress(data, model=model)
        spent = {"compress": middle - began, "decompress": time.process_time() - middle}
    return {k: v / (image[..., 0].size / 1e6) for k, v in spent.items()}


def figures_of(card: dict) -> list[dict]:
    """Returns the rows of a card, with the `lmbda` that each quality stands for."""
    low, high = (card["quality"][key] for key in ("lmbda_min", "lmbda_max"))
    return [
        {**row, "lmbda": low * (high / low) ** (row["quality"] / 100)}
        for row in card["training"]["figures"]
    ]


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def table(cards: dict[str, dict]) -> str:
    """Returns the table in Markdown.

    Args:
        cards: by name in the table, as `trained` returns them; where one has
            `coding`, as `seconds_per_megapixel` returns it, the table has times.
    """
    qualities = [row["quality"] for row in figures_of(next(iter(cards.values())))]
    shown = qualities[::2]
    heads = ["architecture", "weights", "kMAC: analysis", "synthesis", "coder"]
    heads += ["seconds of training", "s/MP: compress", "decompress"]
    heads += [f"bpp, PSNR at {quality}" for quality in shown]
    rows = []
    for name, card in cards.items():
        costs, coding = card["kmac_per_pixel"], card.get("coding", {})
        cells = [name, f"{card['parameters']:,}"]
        cells += [f"{costs[part]:.2f}" for part in ("analysis", "synthesis", "coder")]
        cells += [f"{card['seconds']:.0f}"]
        for verb in ("compress", "decompress"):
            cells += [f"{coding[verb]:.2f}" if verb in coding else ""]
        for row in figures_of(card):
            if row["quality"] in shown:
                cells.append(f"{row['bpp']:.3f}, {row['psnr']:.2f} dB")
        rows.append(cells)
    return markdown(heads, rows)


def last_table(text: str) -> str:
    """Returns the table of all rows, of what this program has printed."""
    found = text.split("\n\n| architecture")[1].split("\n\n")[0]
    return "| architecture" + found.rstrip()


def counted(cards: dict[str, dict]) -> dict[str, dict]:
    """Returns the cards whose figures have the share of zeros."""
    return {k: c for k, c in cards.items() if "zeros" in figures_of(c)[0]}


def sparsity_table(cards: dict[str, dict]) -> str:
    """Returns zeros, bits and PSNR over lambda in Markdown, of cards with zeros."""
    names = list(cards)
    heads = ["lambda", *(f"{name}: zeros, bpp, PSNR" for name in names)]
    rows = []
    for found in zip(*(figures_of(cards[name]) for name in names)):
        cells = [
            f"{row['zeros']:.1%}, {row['bpp']:.3f}, {row['psnr']:.2f} dB"
            for row in found
        ]
        rows.append([f"{found[0]['lmbda']:.4f}", *cells])
    return markdown(heads, rows)


def axes_of(count: int):
    """Returns a Matplotlib figure, and `count` axes side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * count, 4), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plot(curves: dict[str, list[dict]], dashed=()):
    """Returns a Matplotlib figure of PSNR and SSIMULACRA2 over bits per pixel.

    Args:
        curves: by name, rows with `bpp`, `psnr` and `ssimulacra2`, in order.
        dashed: names of those whose lines are.
    """
    figure, axes = axes_of(2)
    words = "PSNR, dB", "SSIMULACRA2"
    for ax, key, label in zip(axes, ("psnr", "ssimulacra2"), words):
        for number, (name, rows) in enumerate(curves.items()):
            ax.plot(
                [row["bpp"] for row in rows], [row[key] for row in rows],
                ".--" if name in dashed else ".-", color=f"C{number % 10}",
                lw=1 if number < 10 else 2, ms=3, label=name,
            )  # fmt: skip
        ax.set(xlabel="bits per pixel", ylabel=label)
        ax.set_xlim(0, 2)
    axes[1].set_ylim(-100, 100)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right", fontsize=7)
    return figure


def plot_sparsity(cards: dict[str, dict]):
    """Returns a figure of the share of zeros, bits and PSNR over lambda."""
    figure, axes = axes_of(3)
    words = "share of latents that are zero", "bits per pixel", "PSNR, dB"
    for ax, key, label in zip(axes, ("zeros", "bpp", "psnr"), words):
        for name, card in cards.items():
            rows = figures_of(card)
            lmbda = [row["lmbda"] for row in rows]
            ax.semilogx(lmbda, [row[key] for row in rows], ".-", label=name)
        ax.set_xticks(lmbda, [f"{each:.2g}" for each in lmbda], minor=False)
        ax.set_xticks([], minor=True)
        ax.set(xlabel="lambda", ylabel=label)
    axes[0].legend(fontsize=7)
    return figure


def curve(each, crops: list[np.ndarray]) -> list[dict]:
    """Returns a row for each quality of a codec, of means over crops.

    Args:
        each: a `contestants.Contestant`.
        crops: uint8 [height, width, 3], as models are validated on.
    """
    from tfcodec import metrics, ssimulacra2

    rows = []
    for quality in each.qualities:
        found = []
        for crop in crops:
            data = each.codec.compress(crop, quality)
            decoded = each.codec.decompress(data)
            found.append(
                {
                    "bpp": metrics.bits_per_pixel(len(data), *crop.shape[:2]),
                    "psnr": metrics.psnr(crop, decoded),
                    "ssimulacra2": ssimulacra2.score(crop, decoded),
                }
            )
        rows.append({k: float(np.mean([row[k] for row in found])) for k in found[0]})
    return rows


def sheet(codecs: dict, image: np.ndarray, size: int, columns: int = 4):
    """Returns a picture by each codec beside the others, all in about as many bytes.

    Args:
        codecs: by name, `contestants.Contestant`; each is shown at the quality whose
            file comes nearest to `size`.
        image: uint8 [height, width, 3]; it comes first.
        size: bytes.
        columns: pictures in a row.

    Returns:
        A Pillow image, with name, bytes, PSNR and SSIMULACRA2 above each picture.
    """
    from PIL import Image, ImageDraw

    from tfcodec import metrics, report, ssimulacra2

    shown = [("original", f"{image.nbytes:,} bytes", image)]
    for name, each in codecs.items():
        _, data = report.closest(each.codec, each.qualities, image, size)
        decoded = each.codec.decompress(data)
        psnr = metrics.psnr(image, decoded)
        words = f"{len(data):,} bytes, "
        words += f"{psnr:.1f} dB" if np.isfinite(psnr) else "lossless"
        if np.isfinite(psnr) and min(image.shape[:2]) >= ssimulacra2.SMALLEST_SIDE:
            words += f", SSIMULACRA2 {ssimulacra2.score(image, decoded):.0f}"
        shown.append((name, words, decoded))
    height, width = image.shape[0] + LABEL, image.shape[1] + 2
    rows = -(-len(shown) // columns)
    whole = Image.new("RGB", (width * columns, height * rows), "white")
    draw = ImageDraw.Draw(whole)
    for number, (name, words, pixels) in enumerate(shown):
        left, top = number % columns * width, number // columns * height
        draw.text((left + 1, top + 1), f"{name}\n{words}", "black", spacing=1)
        whole.paste(Image.fromarray(pixels), (left, top + LABEL))
    return whole


def held_out(given) -> list[np.ndarray]:
    """Returns the crops that models are validated on, uint8 [height, width, 3]."""
    from tfcodec import training

    _, batches = training.datasets(config_of("cnn", {}, given))  # the same for each
    return [batch["image"][0].numpy() for batch in batches]


def others(given) -> dict:
    """Returns the codecs of `--codecs` by name; says which are missing."""
    from tfcodec import contestants

    found, missing = contestants.contestants(given.codecs.split(","))
    for reason in missing:
        print(f"missing: {reason}", file=sys.stderr)
    return {each.name: each for each in found}


def trained_rows(chosen: dict, given, runs: pathlib.Path) -> dict[str, dict]:
    """Trains each of `variants`, prints its row, and returns the cards by name."""
    cards = {}
    for name, (arch, options) in chosen.items():
        print(f"{name} ...", flush=True)
        run = runs / folder_of(name)
        card = trained(config_of(arch, options, given), run)
        if given.picture:
            image = middle_of(given.picture)
            card["coding"] = seconds_per_megapixel(run / "model", image)
        cards[name] = card
        rows = table({name: card}).splitlines()
        print("\n".join(rows[-1 if len(cards) > 1 else 0 :]), flush=True)
    return cards


def write_programs(chosen: dict, given) -> None:
    """Writes the training step of each of `variants` to a folder of its own."""
    from tfcodec import training

    for name, (arch, options) in chosen.items():
        folder = pathlib.Path(given.programs) / folder_of(name)
        print(training.write_program(config_of(arch, options, given), folder))


def middle_of(path: str) -> np.ndarray:
    """Returns the middle of a picture, at most `SHOWN` a side: uint8 [h, w, 3]."""
    from tfcodec import images

    image = images.read_rgb(path)
    top, left = (max(0, side - SHOWN) // 2 for side in image.shape[:2])
    return image[top : top + SHOWN, left : left + SHOWN]


def draw(cards: dict[str, dict], given, runs: pathlib.Path):
    """Writes the files that `--plot`, `--sparsity_plot` and `--sheet` ask for."""
    from tfcodec import contestants

    if given.sparsity_plot:
        plot_sparsity(counted(cards)).savefig(given.sparsity_plot)
    if given.plot:
        curves = {name: figures_of(card) for name, card in cards.items()}
        crops = held_out(given)
        known = others(given)
        known.pop("png", None)  # whose one point is far to the right
        curves |= {name: curve(each, crops) for name, each in known.items()}
        plot(curves, dashed=known).savefig(given.plot)
    if given.sheet:
        models = {
            name: contestants.contestant(f"{runs / folder_of(name) / 'model'}")
            for name in cards
        }
        image = middle_of(given.picture)
        sheet({**others(given), **models}, image, given.bytes).save(given.sheet)


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.history",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", help="folders or globs of photographs")
    parser.add_argument("--validation", default="", help="others, held out")
    parser.add_argument("--only", help="rows of the table, with semicolons between")
    parser.add_argument("--sparsity", default="0.05", help="one or more for `sparse`")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=64, help="side in pixels")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--average", type=float, default=0.95)
    parser.add_argument("--lmbda_max", type=float, default=0.128)
    parser.add_argument("--held_out", type=int, default=8, help="pictures held out")
    parser.add_argument("--full", action="store_true", help="widths of the papers")
    parser.add_argument("--run", help="folder for the models, which are then kept")
    parser.add_argument(
        "--programs", help="folder for the training steps, to train on an accelerator"
    )
    parser.add_argument("--plot", help="file for curves: PSNR, SSIMULACRA2")
    parser.add_argument("--sparsity_plot", help="file for zeros over lambda")
    parser.add_argument(
        "--picture", help="a photograph to time, and for the sheet; its middle 256x256"
    )
    parser.add_argument(
        "--sheet", help="file for the picture as each codec shows it; needs --picture"
    )
    parser.add_argument("--bytes", type=int, default=6000, help="of each, on the sheet")
    parser.add_argument(
        "--codecs",
        default="dictionary,jpeg,png,jpeg2000,webp,avif",
        help="others on sheet and plot, as `compress.py eval` has them",
    )
    return parser.parse_args(argv)


def main(argv=None) -> int:
    given = parse(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        chosen = variants(given)
        if given.sheet and not given.picture:
            raise ValueError("--sheet needs --picture")
    except ValueError as error:
        print(f"history: {error}", file=sys.stderr)
        return 1
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # that functions are traced anew for each model
    if given.programs:
        write_programs(chosen, given)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        runs = pathlib.Path(given.run or folder)
        cards = trained_rows(chosen, given, runs)
        draw(cards, given, runs)
    print(f"\n{table(cards)}")
    if counted(cards):
        print(f"\n{sparsity_table(counted(cards))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
