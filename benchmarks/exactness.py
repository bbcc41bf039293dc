"""The golden files in many settings: `python -m benchmarks.exactness [PYTHON...]`.

Decodes every file of tests/golden in each setting, in a process of its own, and prints
a table of the differences: of integers from the SHA-256 in golden.json, of pixels from
those of the first setting.  Arguments are paths of further Pythons, with other
versions of TensorFlow:

    python -m benchmarks.exactness ~/venvs/tf2.17/bin/python ~/venvs/tf2.21/bin/python

The exit code is 1 if any integer differs, or any pixel by more than one level.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from tfcodec import planes

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"

# Name -> (environment, settings of the process); others are compared with the first.
SETTINGS = {
    "as it comes": ({}, {}),
    "oneDNN off": ({"TF_ENABLE_ONEDNN_OPTS": "0"}, {}),
    "oneDNN, SSE4.1 alone": ({"ONEDNN_MAX_CPU_ISA": "SSE41"}, {}),
    "oneDNN, bfloat16 arithmetic": ({"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}, {}),
    "1 thread": ({}, {"threads": 1}),
    "2 threads": ({}, {"threads": 2}),
    "16 threads": ({}, {"threads": 16}),
    "no graph optimizer": ({}, {"grappler": False}),
    "operation by operation": ({}, {"eager": True}),
    "networks compiled by XLA": ({}, {"eager": True, "xla": True}),
    "tiles backwards, four at a time": ({}, {"backwards": True}),
    "server's graph, one a request": ({}, {"batch": 1}),
    "server's graph, four a request": ({}, {"batch": 4}),
    "LiteRT and NumPy": ({}, {"engine": "litert"}),
    "GPU": ({}, {"gpu": True, "tf32": True}),
    "GPU, TF32 off": ({}, {"gpu": True, "tf32": False}),
}  # fmt: skip
# Settings in which every further Python is tried.
EVERYWHERE = (
    "as it comes", "oneDNN off", "1 thread", "server's graph, four a request",
    "LiteRT and NumPy",
)  # fmt: skip


def decode(settings: dict) -> dict[str, dict]:
    """Decodes the golden files in this process: name -> `integers` and `pixels`."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    from tfcodec import litert_engine

    gpus = tf.config.list_physical_devices("GPU")
    if settings.get("gpu"):
        if not gpus:
            raise SystemExit("skipped: no GPU")
        tf.config.experimental.enable_tensor_float_32_execution(settings["tf32"])
    else:
        tf.config.set_visible_devices([], "GPU")
    if "threads" in settings:
        tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
        tf.config.threading.set_inter_op_parallelism_threads(settings["threads"])
    if not settings.get("grappler", True):
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

    if settings.get("engine") == "litert" and not litert_engine.installed():
        raise SystemExit("skipped: no LiteRT")
    rows = json.loads((GOLDEN / "golden.json").read_text())
    files = {name: (GOLDEN / f"{name}.tfc").read_bytes() for name in rows}
    if "batch" in settings:
        return served(tf, files, rows, settings["batch"])
    if settings.get("eager"):
        return stepwise(files, rows, settings.get("xla"))
    return {name: one(files[name], rows[name], settings) for name in rows}


def model_of(row) -> str:
    return str(GOLDEN / "model") if row["model"] == "model" else row["model"]


def strings_of(data, decoder):
    """Yields (box, string) of each tile of a file, in its order, alpha's first."""
    from tfcodec import bitstream

    header, chunks = bitstream.unpack(data)
    for kind, skip in ((bitstream.ALPHA_TILE, 2), (bitstream.TILE, 0)):
        strings = [chunk.data[skip:] for chunk in chunks if chunk.type == kind]
        yield from zip(decoder.boxes(header), strings)


def one(data, row, settings):
    from tfcodec import codec

    engine = settings.get("engine", "tensorflow")
    decoder = codec.load(model_of(row), engine)
    work = list(strings_of(data, decoder))

    def integers(item):
        box, string = item
        return decoder.decode(box.height, box.width, string)[0]

    if settings.get("backwards"):
        import concurrent.futures

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = list(pool.map(integers, work[::-1]))[::-1]
    else:
        found = [integers(item) for item in work]
    return {
        "integers": found,
        "pixels": codec.decompress(data, model_of(row), realism=0, engine=engine),
    }


def served(tf, files, rows, batch):
    """Decodes, to pixels only, by the graph of a served model, `batch` at a time."""
    import io

    from PIL import Image

    from tfcodec import registry, serving

    found = {}
    for model in sorted({model_of(row) for row in rows.values()}):
        names = [name for name in rows if model_of(rows[name]) == model]
        model = serving.Served(registry.resolve(model))
        for k in range(0, len(names), batch):
            part = names[k : k + batch]
            data = tf.constant([files[name] for name in part])
            if model.model.realistic:
                result = model.decompress_realism(data, tf.constant([0.0]))
            else:
                result = model.decompress(data)
            assert not any(result["error"].numpy()), result["error"]
            for name, png in zip(part, result["image_bytes"].numpy()):
                with Image.open(io.BytesIO(png)) as image:
                    found[name] = {"integers": [], "pixels": np.asarray(image)}
    return found


def stepwise(files, rows, xla):
    """Decodes without a graph: builds the networks, and runs them eagerly.

    With `xla`, each network is compiled by itself.
    """
    try:
        from tfcodec import architectures, same_decoder, weights
    except ImportError:
        raise SystemExit("skipped: needs TensorFlow Compression") from None
    import tensorflow as tf

    from tfcodec import codec, registry, tiling

    found = {}
    for model in sorted({model_of(row) for row in rows.values()}):
        source = registry.resolve(model)
        network = architectures.from_card(source.card)
        weights.load_model(network, source.path)
        for layer in network.exact_layers():
            layer.freeze()
        if xla:
            coder = network.coder
            nets = [coder.hyper_synthesis, *coder.slice_nets, *coder.pyramid_nets]
            for net in nets:
                net.call = tf.function(net.call, jit_compile=True)
        tables = same_decoder.tables(source.path)
        for name in (name for name in rows if model_of(rows[name]) == model):
            found[name] = {"integers": [], "pixels": None}
            for box, string in strings_of(files[name], codec.load(model, "tensorflow")):
                padded = tiling.padded_size(box.height, box.width, network.stride)
                size = [side // network.latent_stride for side in padded]
                y, _, sound = network.coder.decompress(
                    tf.constant(string), *size, tables
                )
                assert sound
                found[name]["integers"].append(tf.cast(y, tf.int32).numpy())
    return found


def compare(found, reference) -> dict:
    """Counts integers that differ from golden.json, and pixels from the reference."""
    import hashlib

    rows = json.loads((GOLDEN / "golden.json").read_text())
    count = {"files": len(found), "integers": 0, "wrong": 0, "pixels": 0, "levels": 0}
    count["moved"] = 0
    for name, result in found.items():
        expected = rows[name]["integers"]
        if len(result["integers"]) not in (0, len(expected)):
            raise ValueError(f"{name}: {len(result['integers'])} tiles")
        for y, digest in zip(result["integers"], expected):
            count["integers"] += y.size
            if hashlib.sha256(y.astype("<i4").tobytes()).hexdigest() != digest:
                count["wrong"] += y.size
        if result["pixels"] is not None:
            change = np.abs(result["pixels"].astype(int) - reference[name])
            count["pixels"] += change.size
            count["moved"] += int(np.count_nonzero(change))
            count["levels"] = max(count["levels"], int(change.max()))
    return count


def child(setting: str, reference: str):
    """Runs one setting in this process; prints a row as JSON."""
    found = decode(SETTINGS[setting][1])
    path = pathlib.Path(reference)
    if not path.exists():
        np.savez(path, **{name: result["pixels"] for name, result in found.items()})
    import tensorflow as tf

    row = compare(found, np.load(path))
    row["versions"] = f"TF {tf.__version__}, Python {sys.version.split()[0]}"
    print(json.dumps(row))


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exactness", description=__doc__.splitlines()[0]
    )
    parser.add_argument("python", nargs="*", help="further Pythons")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        return child(*given.child)
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as folder:
        reference = str(pathlib.Path(folder) / "reference.npz")
        work = [(sys.executable, name) for name in SETTINGS]
        work += [(python, name) for python in given.python for name in EVERYWHERE]
        print("| setting | versions | files | integers | wrong | pixels | moved |")
        print("|---|---|---|---|---|---|---|")
        for python, name in work:
            environment = {**os.environ, **SETTINGS[name][0], "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                [python, "-m", "benchmarks.exactness", "--child", name, reference],
                cwd=ROOT, env=environment, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                why = done.stderr.strip().splitlines()[-1:] or ["failed"]
                print(f"| {name} | {why[0]} | | | | | |", flush=True)
                failed |= not why[0].startswith("skipped")
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            moved = f"{row['moved']}, by {row['levels']}" if row["moved"] else "0"
            print(
                f"| {name} | {row['versions']} | {row['files']} | {row['integers']:,} "
                f"| {row['wrong']} | {row['pixels']:,} | {moved} |",
                flush=True,
            )
            # If alpha is near `ALPHA_SNAP`, one engine may make it opaque, one not.
            most = 1 + planes.ALPHA_SNAP * ("engine" in SETTINGS[name][1])
            failed |= row["wrong"] > 0 or row["levels"] > most
    integers = sum(row["integers"] for row in rows)
    wrong = sum(row["wrong"] for row in rows)
    print(f"{len(rows)} settings, {integers:,} integers, {wrong} wrong")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
