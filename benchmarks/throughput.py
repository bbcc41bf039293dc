"""Speed of the transforms on this machine: `python -m benchmarks.throughput [IMAGES]`.

Measures megapixels per second of analysis and synthesis, by size and batch, as ordinary
graphs, compiled by XLA (`--xla`) and in bfloat16 (`--bfloat16`), on a GPU if there is
one. Also shows the largest differences from the graph for images of any size, and the
PSNR on the given images.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np


def photographs(paths, side, batch):
    """Returns uint8 [batch, side, side, 3], made of the images in turn."""
    from tfcodec import images, inputs

    pictures = [images.read(p).pixels for p in inputs.find_images(paths)[:batch]]
    tiled = []
    for k in range(batch):
        picture = pictures[k % len(pictures)]
        more = [-(-side // n) for n in picture.shape[:2]]
        tiled.append(np.tile(picture, (*more, 1))[:side, :side])
    return np.stack(tiled)


def seconds(function, *arguments):
    """Returns the median time of runs, which take at least a second together."""
    times = []
    while sum(times) < 1 or len(times) < 3:
        begin = time.perf_counter()
        function(*arguments).numpy()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description=__doc__.splitlines()[0]
    )
    parser.add_argument("images", nargs="*", default=["tests/photograph.png"])
    parser.add_argument("--model", default="tfcodec")
    parser.add_argument("--sides", type=int, nargs="*", default=[256, 512, 1024])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--quality", type=float, default=50)
    parser.add_argument("--xla", action="store_true", help="compiled by XLA too")
    parser.add_argument("--bfloat16", action="store_true", help="in bfloat16 too")
    given = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from tfcodec import metrics, registry, serving

    gpus = tf.config.list_physical_devices("GPU")
    device = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    print(f"TensorFlow {tf.__version__} on {device.get('device_name', 'the CPU')}")
    half = (
        "auto_mixed_precision_onednn_bfloat16" if not gpus else "auto_mixed_precision"
    )
    served = serving.Served(registry.resolve(given.model))
    level = given.quality / 100
    kinds = ["graph", *["XLA"] * given.xla, *["bfloat16"] * given.bfloat16]
    print(
        "| side | batch | | analysis MP/s | synthesis MP/s | latents off by | "
        "pixels off by | samples off | PSNR |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for side in given.sides:
        for batch in given.batches:
            images = tf.constant(photographs(given.images, side, batch))
            # Results of the graph for any size, in float32, with the coder between.
            expected_y, y_hat, expected = [], [], []
            for image in images:
                y = served.parts["analysis"](image=image)["y"]
                coded = served.parts["encode"](y=y, quality=tf.constant(level))
                x = served.parts["synthesis"](
                    y_hat=coded["y_hat"], quality=tf.constant(level)
                )
                expected_y.append(y[0])
                y_hat.append(coded["y_hat"][0])
                expected.append(x["image"])
            expected_y, y_hat, expected = map(tf.stack, (expected_y, y_hat, expected))
            levels = tf.fill([batch], level)
            for kind in kinds:
                tf.config.optimizer.set_experimental_options({half: kind == "bfloat16"})
                parts = {
                    name: tf.function(function, jit_compile=kind == "XLA")
                    for name, function in served.dense(side, batch).items()
                }
                y = parts["analysis"](images)
                x = parts["synthesis"](y_hat, levels)
                off = np.abs(x.numpy().astype(int) - expected.numpy())
                pixels = batch * side * side / 1e6
                psnr = np.mean(
                    [metrics.psnr(a, b) for a, b in zip(images.numpy(), x.numpy())]
                )
                print(
                    f"| {side} | {batch} | {kind} "
                    f"| {pixels / seconds(parts['analysis'], images):.2f} "
                    f"| {pixels / seconds(parts['synthesis'], y_hat, levels):.2f} "
                    f"| {np.abs(y - expected_y).max():.1e} | {off.max()} "
                    f"| {np.mean(off > 0):.2%} | {psnr:.3f} dB |",
                    flush=True,
                )
            tf.config.optimizer.set_experimental_options({half: False})


if __name__ == "__main__":
    main()
