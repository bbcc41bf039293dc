"""A comparison as one HTML file, which opens from disk and needs no network."""

from __future__ import annotations

import base64
import io
import json
import pathlib

import numpy as np

from tfcodec import metrics, ssimulacra2

FOLDER = pathlib.Path(__file__).parent
PARTS = ("viewer.css", "viewer.js")  # shared by pages that show pictures side by side


def closest(codec, qualities, image: np.ndarray, size: int):
    """Returns (quality, file) of the file whose size is closest to `size` bytes.

    It tries `qualities`, and then bisects, in whole numbers, between the two whose
    files are just above and below `size`.
    """
    files = {quality: codec.compress(image, quality) for quality in qualities}

    def distance(quality):
        return abs(len(files[quality]) - size)

    above = [q for q in files if len(files[q]) >= size]
    below = [q for q in files if len(files[q]) < size]
    if above and below:
        high, low = min(above, key=distance), min(below, key=distance)
        while abs(high - low) > 1:
            middle = int((high + low) // 2)
            if middle in files:
                break
            files[middle] = codec.compress(image, middle)
            if len(files[middle]) >= size:
                high = middle
            else:
                low = middle
    best = min(files, key=distance)
    return best, files[best]


def pictures(paths, contestants, read, bpp: float = 0.5, progress=None) -> list[dict]:
    """Returns images as each lossy codec reproduces them, at files of equal size.

    The size is that of the first codec's file closest to `bpp` bits per pixel; the
    others take their file closest to that size.

    Args:
        paths: of the images.
        contestants: list of `contestants.Contestant`.
        read: function from a path to uint8 [height, width, 3].
        bpp: bits per pixel.
        progress: called as progress(done, total).

    Returns:
        list of dict of name, width, height and views, each of which has codec, label
        and the URL of a PNG.
    """
    lossy = [each for each in contestants if None not in each.codec.sweep]
    result = []
    for path in paths if lossy else ():
        image = read(path)
        height, width = image.shape[:2]
        size = round(bpp * height * width / 8)
        views = [{"codec": "original", "label": "original", "url": data_url(image)}]
        for i, each in enumerate(lossy):
            quality, data = closest(each.codec, each.codec.sweep, image, size)
            if i == 0:
                size = len(data)
            decoded = each.codec.decompress(data)
            label = (
                f"{each.name} q {quality:g}, {len(data)} B, "
                f"{metrics.bits_per_pixel(len(data), height, width):.3f} bpp, "
                f"{metrics.psnr(image, decoded):.2f} dB"
            )
            if min(height, width) >= ssimulacra2.SMALLEST_SIDE:
                label += f", SSIMULACRA2 {ssimulacra2.score(image, decoded):.1f}"
            views.append({"codec": each.name, "label": label, "url": data_url(decoded)})
            if progress:
                progress(len(result) * len(lossy) + i + 1, len(paths) * len(lossy))
        name = pathlib.Path(path).name
        result.append({"name": name, "width": width, "height": height, "views": views})
    return result


def data_url(image: np.ndarray) -> str:
    """Returns uint8 [height, width, 3] as a `data:` URL of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def png(image: np.ndarray, **options) -> bytes:
    """Returns uint8 [height, width, 3] as a PNG; `options` are Pillow's."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **options)
    return file.getvalue()


def assembled(name: str, data: dict) -> str:
    """Returns the HTML of a page of this package, with `PARTS` and data filled in.

    Args:
        name: of the HTML file.
        data: takes the place of `@@DATA@@`, as JSON.
    """
    text = (FOLDER / name).read_text("utf-8")
    for part in PARTS:
        text = text.replace(f"@@{part}@@", (FOLDER / part).read_text("utf-8").rstrip())
    json_ = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return text.replace("@@DATA@@", json_)


def page(document: dict, curves: dict, pictures_: list[dict]) -> str:
    """Returns the HTML of a report.

    Args:
        document, curves: as `evaluation.document` and `averages.curves` return them.
        pictures_: as `pictures` returns them.
    """
    slim = {key: value for key, value in document.items() if key != "rows"}
    versions = {row["codec"]: row for row in document["rows"]}
    slim["codecs"] = [
        {
            "codec": name,
            "version": row["version"],
            "settings": row["settings"],
            "megapixels": np.mean(
                [
                    r["width"] * r["height"] / 1e6
                    for r in document["rows"]
                    if r["codec"] == name
                ]
            ),
        }
        for name, row in versions.items()
    ]
    return assembled("report.html", {**slim, "curves": curves, "pictures": pictures_})
