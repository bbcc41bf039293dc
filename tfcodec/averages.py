"""Means over images of the rows of a comparison, curves, and BD-rates of these."""

from __future__ import annotations

import hashlib
import json
import math
import pathlib

from tfcodec import metrics
from tfcodec.evaluation import COSTS, FIGURES

PUBLISHED = pathlib.Path(__file__).parent / "published.json"
# Figures that an image may lack, as it is too small for them -> usual name.
LACKED = {"ssim": "SSIM", "ms_ssim": "MS-SSIM", "ssimulacra2": "SSIMULACRA2"}
# Figures by which codecs are compared -> (usual name, unit).
COMPARED = {
    "psnr": ("PSNR", "dB"),
    "ms_ssim_db": ("MS-SSIM", "dB"),
    "ssimulacra2": ("SSIMULACRA2", "points"),
    "wasserstein": ("Wasserstein distortion", "dB"),
}


def lacking(rows: list[dict]) -> dict[str, dict[str, str]]:
    """Returns which images lack a figure, for some codec: figure -> image -> why.

    Metrics of `--metric` are included, by name. For equal images such a metric may be
    infinite (None); that is not lacking.
    """
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        without = [figure for figure in LACKED if row[figure] is None]
        if not row["lossless"]:
            without += [name for name, value in row["metrics"].items() if value is None]
        for figure in without:
            why = row.get("lacking", {}).get(figure, "")
            found.setdefault(figure, {}).setdefault(row["image"], why)
    if "ms_ssim" in found:
        found["ms_ssim_db"] = found["ms_ssim"]
    return found


def means(rows: list[dict]) -> list[dict]:
    """Means over images of per-image values, one dict for each codec and quality.

    A figure that some images lack is the mean over the others, which are the same for
    all codecs. `lacking` has the number of images that are left out, by figure, and
    `rates` the mean bits per pixel of the others. The mean of a figure that is None for
    another reason, such as an infinite PSNR, is None.
    """
    groups = {}
    for row in rows:
        groups.setdefault((row["codec"], row["quality"]), []).append(row)
    left_out = lacking(rows)
    result = []
    for (codec, quality), group in groups.items():
        rest = {
            figure: [row for row in group if row["image"] not in images]
            for figure, images in left_out.items()
        }
        mean = {"codec": codec, "quality": quality, "images": len(group)}
        mean["lossless"] = all(row["lossless"] for row in group)
        for figure in (*FIGURES, *COSTS):
            mean[figure] = _mean([row[figure] for row in rest.get(figure, group)])
        mean["metrics"] = {
            name: _mean([row["metrics"][name] for row in rest.get(name, group)])
            for name in group[0]["metrics"]
        }
        mean["lacking"] = {figure: len(group) - len(rest[figure]) for figure in rest}
        mean["rates"] = {
            figure: _mean([row["bpp"] for row in rest[figure]]) for figure in rest
        }
        result.append(mean)
    order = list(dict.fromkeys(row["codec"] for row in rows))
    return sorted(result, key=lambda m: (order.index(m["codec"]), m["bpp"]))


def published(digests) -> list[dict]:
    """Returns the published curves, if they are of the images with these digests.

    Raises:
        ValueError: they are of other images.
    """
    data = json.loads(PUBLISHED.read_text("utf-8"))
    about = data["images"]
    both = hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
    if both != about["sha256"]:
        raise ValueError(
            f"published curves are of all {about['count']} images of {about['name']}, "
            "each once; these are other images"
        )
    return data["curves"]


def curves(means_: list[dict], published_=()) -> dict[str, dict]:
    """Returns the curves of every lossy codec: name -> figure -> list of values.

    Figures are bpp and those in `COMPARED`. A value is None if it is not known, as
    SSIMULACRA2 of published curves. `rates` has, by figure, the bpp of the images that
    have the figure, where some lack it.
    """
    result = {}
    for mean in means_:
        if mean["psnr"] is not None:
            curve = result.setdefault(
                mean["codec"],
                {"rates": {}, **{figure: [] for figure in ("bpp", *COMPARED)}},
            )
            for figure in ("bpp", *COMPARED):
                curve[figure].append(_compared(mean, figure))
            for figure, rate in mean["rates"].items():
                curve["rates"].setdefault(figure, []).append(rate)
    for curve in published_:
        unknown = [None] * len(curve["bpp"])
        similarity = curve["ms_ssim"] or unknown
        result[curve["name"]] = {
            "rates": {},
            "bpp": curve["bpp"],
            "psnr": curve["psnr"],
            "ms_ssim_db": [v if v is None else metrics.decibels(v) for v in similarity],
            "ssimulacra2": unknown,
            "wasserstein": unknown,
        }
    return result


def _compared(mean, figure):
    """Returns a figure of an entry of `means`, scaled so that higher is better."""
    if figure != "wasserstein":
        return mean[figure]
    value = mean["metrics"].get("wasserstein")
    return -10 * math.log10(value) if value else None


def pairs(curves_: dict[str, dict], figure: str = "psnr") -> list[dict]:
    """BD-rate (%) and BD-quality of every codec against every other, by one figure.

    They are None if two curves have no range in common, or too few points.
    """
    result = []
    for anchor, a in curves_.items():
        for test, b in curves_.items():
            if anchor != test and None not in a[figure] + b[figure]:
                rates = [curve["rates"].get(figure, curve["bpp"]) for curve in (a, b)]
                both = rates[0], a[figure], rates[1], b[figure]
                result.append(
                    {
                        "codec": test,
                        "against": anchor,
                        "figure": figure,
                        "bd_rate": _possible(metrics.bd_rate, *both),
                        "bd_quality": _possible(metrics.bd_psnr, *both),
                    }
                )
    return result


def _mean(values):
    whole = values and all(value is not None for value in values)
    return math.fsum(values) / len(values) if whole else None


def _possible(function, *args):
    try:
        return function(*args)
    except ValueError:
        return None
