"""Runs each command, given its arguments; see `arguments`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import logging
import os
import pathlib
import sys
import time

from tfcodec import __version__, bitstream, inputs, quality, registry
from tfcodec.batch import Job, check_output, over_files, passed_over, to_stdout
from tfcodec.console import (
    Progress,
    output,
    quiet_tensorflow,
    report,
    say,
    shown,
    without_warnings,
)
from tfcodec.files import new_file


def compress_options(args: argparse.Namespace) -> dict:
    """Returns the arguments of `tfcodec.compress` besides an image, checked.

    Raises:
        ValueError: a quality, target, effort or model is invalid.
    """
    from tfcodec import codec

    names = "quality model effort alpha_quality verify max_pixels engine".split()
    options = {name: getattr(args, name) for name in (*names, *quality.TARGETS)}
    codec.check_settings(**options)
    return options


def compress(args: argparse.Namespace) -> bool:
    """Compresses images to `.tfc` files; returns whether one failed."""
    from tfcodec import codec, images, predict

    options = compress_options(args)
    model = registry.resolve(args.model)
    server = args.server and predict.Server(args.server)

    def work(picture, progress):
        if server:
            return server.compress(picture.pixels, args.quality, picture.metadata)
        return codec.compress(
            picture.pixels, progress=progress, **options, **picture.metadata
        )

    def one(job, progress):
        picture = images.read(job.reading(), job.source, args.max_pixels, args.strip)
        note(job.source, picture.notes)
        start = time.perf_counter()
        data = work(picture, progress)
        seconds = time.perf_counter() - start
        _write(job, data)
        row, text = _summary(job, data, model, seconds, picture.notes)
        if args.verbose and row["model"]:
            text += _measured(picture.pixels, data, args, row)
        return row, text

    return over_files(args, bitstream.SUFFIX, inputs.SUFFIXES, "steps", one)


def note(name: str, notes: list[str]) -> None:
    """Prints on stderr what was left out of a file, or changed in it."""
    if notes:
        say(f"note: {shown(name)}: {'; '.join(notes)}", sys.stderr)


def _write(job, data):
    with job.writing() as file:
        file.write(data)
        if job.args.verify and job.target != "-":
            file.flush()
            file.seek(0)
            if file.read() != data:
                raise RuntimeError("the file that was written reads back differently")


def _summary(job, data, model, seconds, notes):
    """Describes what was written: (a row of JSON, the same in words).

    The file was made with `model`; or, if a server made it, with the server's model,
    which may not be installed here.
    """
    from tfcodec import metrics

    limits = bitstream.Limits().for_pixels(job.args.max_pixels)
    header = bitstream.read_header(data, limits)
    try:
        model = registry.find(header.fingerprint, model)
        name, single = model.name, model.single_rate
    except bitstream.UnsupportedStream:
        name, single = None, False
    row = {
        **job.row(len(data)), "width": header.width, "height": header.height,
        "mode": header.mode,
        "bpp": metrics.bits_per_pixel(len(data), header.height, header.width),
        "quality": None if single else header.quality,
        "model": name, "seconds": round(seconds, 3), "notes": notes,
    }  # fmt: skip
    ratio = header.height * header.width * len(header.mode) / len(data)
    rate = "single rate" if single else f"quality {header.quality:g}"
    text = (
        f"{row['bpp']:.3f} bpp  1:{ratio:.1f}  {rate}  "
        f"model {name or header.fingerprint.hex()}  {seconds:.1f} s"
    )
    return row, text


def _measured(pixels, data, args, row):
    """Adds the quality of what was written to a row; returns it in words, too."""
    from tfcodec import codec, metrics, planes, ssimulacra2

    decoded = codec.decompress(
        data, model=args.model, max_pixels=args.max_pixels, engine=args.engine
    )
    pair = planes.separated(pixels)[0], planes.separated(decoded)[0]
    psnr = metrics.psnr(*pair)
    row["psnr"], text = metrics.finite(psnr), f"\nPSNR {psnr:.2f} dB"
    try:
        row["ssimulacra2"] = ssimulacra2.score(*pair)
        text += f"  SSIMULACRA2 {row['ssimulacra2']:.2f}"
        row["ms_ssim"] = metrics.ms_ssim(*pair)
        decibels = metrics.decibels(row["ms_ssim"])
        text += f"  MS-SSIM {row['ms_ssim']:.4f} ({decibels:.2f} dB)"
    except ValueError as error:  # the image is too small for a metric
        text += f"  left out: {error}"
    return text


def decompress(args: argparse.Namespace) -> bool:
    """Decompresses `.tfc` files to images; returns whether one failed."""
    from tfcodec import codec, formats, predict
    from tfcodec.pixels import Picture

    if args.model is not None:
        registry.resolve(args.model)
    server = args.server and predict.Server(args.server)
    most = {"max_pixels": args.max_pixels}
    limits = bitstream.Limits().for_pixels(args.max_pixels)

    def work(data, progress):
        if server:
            return server.decompress(data, realism=args.realism, **most)
        return codec.decompress(
            data, model=args.model, crop=args.crop, progress=progress,
            realism=args.realism, engine=args.engine, **most,
        )  # fmt: skip

    def one(job, progress):
        data = job.stream()
        # First, as it fails if the format cannot be written.
        path = pathlib.Path(job.target)
        form = "PNG" if job.streams and not path.suffix else formats.form_of(path)
        header = bitstream.read_header(data, limits)
        wanted = codec.region_of(header, args.crop) or header
        formats.check_side(form, wanted.height, wanted.width)
        start = time.perf_counter()
        pixels = work(data, progress)
        seconds = time.perf_counter() - start
        picture = Picture(pixels, codec.metadata(data, **most))
        with job.writing() as file:
            notes = formats.write(file, form, picture, args.strip)
            size = file.seek(0, os.SEEK_END) if job.target != "-" else None
        note(job.target, notes)
        height, width = pixels.shape[:2]
        row = {
            **job.row(size), "width": width, "height": height,
            "seconds": round(seconds, 3), "notes": notes,
        }  # fmt: skip
        return row, f"{width}x{height}  {seconds:.1f} s"

    return over_files(args, ".png", {bitstream.SUFFIX}, "tiles", one)


def bulk(args: argparse.Namespace) -> bool:
    """Runs a job on Apache Beam; returns whether a file failed."""
    with quiet_tensorflow():
        with without_warnings():  # about optional libraries of Google that are missing
            from tfcodec import jobs
        return jobs.run(args, compress_options(args))


def info(args: argparse.Namespace) -> None:
    """Prints what a `.tfc` file is."""
    from tfcodec import codec

    stdout = output()
    try:
        data = Job(args.input, "", args).stream()
        found = codec.info(data, max_pixels=args.max_pixels)
    except bitstream.StreamError as error:
        raise type(error)(f"{args.input}: {error}") from None
    if args.json:
        say(json.dumps(found, indent=1), stdout)
        return
    found["bpp"] = f"{found['bpp']:.3f}"
    found["ratio"] = f"1:{found['ratio']:.1f}"
    found["model"] = found["model"] or "not shipped"
    if found["realism"] is None:  # It depends on the model, which is not known.
        del found["realism"]
    found["chunks"] = ", ".join(
        f"{bitstream.KNOWN[chunk['type']]} {chunk['bytes']} B"
        for chunk in found["chunks"]
    )
    for key, value in found.items():
        say(f"{key:12}{value}", stdout)


def models(args: argparse.Namespace) -> None:
    """Prints the shipped models."""
    found, stdout = registry.models(), output()
    if args.json:
        cards = [{**model.card, "path": str(model.path)} for model in found]
        say(json.dumps(cards, indent=1), stdout)
        return
    words = {entry.name: entry.description for entry in registry.ENTRIES}
    for model in found:
        say(
            f"{model.name}  {model.fingerprint.hex()}  {model.licence}  "
            f"{words[model.name]}",
            stdout,
        )
    if not found:
        say("no models in this installation", sys.stderr)


def export(args: argparse.Namespace) -> None:
    """Writes a model for TensorFlow Serving."""
    model = registry.resolve(args.model)
    given = dict(pair.partition("=")[::2] for pair in args.limits.split(",") if pair)
    with quiet_tensorflow():
        from tfcodec import graph_files, serving

        # TensorFlow would print how the inputs of each function are renamed.
        logging.getLogger("absl").setLevel(logging.ERROR)
        known = dataclasses.asdict(graph_files.LIMITS)
        for name, value in given.items():
            if name not in known or not value.isdigit():
                raise ValueError(
                    f"--limits takes NAME=NUMBER, with a name of {', '.join(known)}; "
                    f"not {name}={value}"
                )
            known[name] = int(value)
        version = serving.export(model, args.directory, bitstream.Limits(**known))
    line = f"{shown(version)}  model {model.name}  {model.fingerprint.hex()}"
    say(line, sys.stdout)


def eval_(args: argparse.Namespace) -> bool:
    """Compares codecs on images; returns whether a folder could not be read."""
    from tfcodec import averages, evaluation, images, summary
    from tfcodec import report as html

    codecs, missing = args.codecs
    if not codecs:
        raise ValueError("; ".join(missing))
    others: list[str] = []
    skipped: list[OSError] = []
    paths = inputs.find_images(args.images, others.append, skipped.append)
    stdout = _stream_of_tables(args)
    read = functools.partial(images.read_rgb, max_pixels=args.max_pixels)
    for reason in missing:
        say(f"missing: {reason}", sys.stderr)
    for words in others:
        passed_over(words)
    for error in skipped:
        report(error, args)
    if not paths:
        return True
    for path in paths:  # now, as a file that is no image would end a long run later
        images.size_of(path, args.max_pixels)
    known = []
    if args.published:  # now, as it fails if the images are not of a known set
        known = averages.published([evaluation.digest(read(path)) for path in paths])
    with quiet_tensorflow() as stderr:
        with Progress(stderr, "files") as progress:
            rows = evaluation.evaluate(
                paths, codecs, read, args.cache, progress, args.jobs, args.metric
            )
        if args.report:
            chosen = paths[: max(0, args.pictures)]
            with Progress(stderr, "pictures of the report") as progress:
                pictures = html.pictures(chosen, codecs, read, progress=progress)
    means = averages.means(rows)
    curves = averages.curves(means, known)
    pairs = [
        pair for figure in averages.COMPARED for pair in averages.pairs(curves, figure)
    ]
    notes = summary.notes(averages.lacking(rows), len(paths))
    found = evaluation.document(rows, means, pairs, missing, known, notes)
    if args.json:
        _save(args.json, json.dumps(found, indent=1, allow_nan=False))
    if args.report:
        _save(args.report, html.page(found, curves, pictures))
    count = f"{len(paths)} image{'s' * (len(paths) != 1)}"
    say(f"Means over {count} of per-image values; PSNR in dB.", stdout)
    for words in notes:
        say(f"note: {shown(words)}", stdout)
    say(f"\n{summary.comparison(means, pairs, averages.COMPARED)}", stdout)
    for reason in missing:
        say(f"missing: {reason}", stdout)
    return bool(skipped)


def _stream_of_tables(args):
    """Returns where `eval` prints tables: stdout, or stderr if a file takes stdout.

    Raises, before the work is done, if a result of `eval` cannot be written.
    """
    both = args.json, args.report
    for path in both:
        if path and path != "-":
            check_output(pathlib.Path(path), args)
    if all(both) and len(set(map(os.path.realpath, both))) == 1:
        raise ValueError(f"{shown(args.json)}: --json and --report name the same file")
    if "-" in both:
        output("the file")
        return sys.stderr
    return sys.stdout if args.json or args.report else output()


def _save(path, text):
    """Writes text to a new file, or to stdout if it is named "-"."""
    with to_stdout() if path == "-" else new_file(path) as file:
        file.write(text.encode())


def demo(args: argparse.Namespace) -> None:
    """Serves the demo page, until it is interrupted."""
    import webbrowser

    from tfcodec import demo as server

    def announce(url):
        say(f"{url}  (Ctrl-C ends it)", sys.stdout)
        if not args.no_browser:
            webbrowser.open(url)

    limits = server.Limits(megapixels=args.megapixels, max_pixels=args.max_pixels)
    with quiet_tensorflow(), contextlib.suppress(KeyboardInterrupt):
        server.serve(announce, args.image, args.port, limits)
    os._exit(0)  # at once, though a thread may still be coding


def version(args: argparse.Namespace) -> None:
    """Prints the version, and the shipped models."""
    names = [f"{model.name} {model.fingerprint.hex()}" for model in registry.models()]
    known = ", ".join(names) or "none"
    say(f"tfcodec {__version__}, models: {known}", output())
