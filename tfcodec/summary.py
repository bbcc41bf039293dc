"""The results of a comparison, as text in columns."""

from __future__ import annotations

from tfcodec import averages


def comparison(means_: list[dict], pairs_: list[dict], compared: dict) -> str:
    """Returns the means, and by each figure every codec against every other, as text.

    Args:
        means_, pairs_: as `averages.means` and `averages.pairs` return them.
        compared: name and unit of each figure of `pairs_`.
    """
    parts = [table(means_)]
    for figure, (name, unit) in compared.items():
        chosen = [pair for pair in pairs_ if pair["figure"] == figure]
        if chosen:
            parts += [
                f"BD-rate by {name}, %: each line against each column.",
                pair_table(chosen),
                f"BD-{name}, {unit}: each line against each column.",
                pair_table(chosen, "bd_quality"),
            ]
    return "\n\n".join(parts)


def notes(left_out: dict[str, dict[str, str]], count: int) -> list[str]:
    """Returns a sentence for each figure that is not of all `count` images.

    Args:
        left_out: as `averages.lacking` returns it.
        count: how many images there are.
    """
    found = []
    for figure, images in left_out.items():
        if figure == "ms_ssim_db":  # told with ms_ssim
            continue
        have, (image, why) = count - len(images), next(iter(images.items()))
        name = averages.LACKED.get(figure, figure)
        words = f"no image has {name}, for instance"
        if have:
            words = f"{name} is the mean of {have} of {count} images; "
            words += f"left out: {len(images)}, first"
        found.append(f"{words} {image}" + (f" ({why})" if why else ""))
    return found


def table(means_: list[dict]) -> str:
    """Returns the means as text; MiB is the peak memory of the process that coded."""
    head = ("codec", "quality", "bpp", "ratio", "PSNR", "6:1:1", "SSIM", "MS-SSIM")
    extra = list(means_[0]["metrics"])
    lines = [(*head, "dB", "SSIMULACRA2", *extra, "enc s", "dec s", "MiB")]
    for mean in means_:
        quality = mean["quality"]
        decibels = "equal" if mean["lossless"] else "-"
        lines.append(
            (
                mean["codec"],
                "-" if quality is None else f"{quality:g}",
                f"{mean['bpp']:.4f}",
                f"{mean['ratio']:.1f}",
                _number(mean["psnr"], 2, decibels),
                _number(mean["psnr_ycbcr"], 2, decibels),
                _number(mean["ssim"], 4),
                _number(mean["ms_ssim"], 4),
                _number(mean["ms_ssim_db"], 2, decibels),
                _number(mean["ssimulacra2"], 2),
                *(_number(mean["metrics"][name], 4) for name in extra),
                _number(mean["encode_seconds"], 3),
                _number(mean["decode_seconds"], 3),
                _number(mean["peak_mebibytes"], 0),
            )
        )
    return _columns(lines)


def pair_table(pairs_: list[dict], value: str = "bd_rate") -> str:
    """BD-rates or BD-qualities as a matrix: the codec of a line against a column's."""
    names = list(dict.fromkeys(pair["codec"] for pair in pairs_))
    names.sort(key=[p["against"] for p in pairs_].index)
    found = {(p["codec"], p["against"]): p[value] for p in pairs_}
    digits = 1 if value == "bd_rate" else 2
    lines = [("", *(f"[{i + 1}]" for i in range(len(names))))]
    for i, name in enumerate(names):
        cells = [
            "." if name == other else _signed(found.get((name, other)), digits)
            for other in names
        ]
        lines.append((f"[{i + 1}] {name}", *cells))
    return _columns(lines)


def _number(value, digits, missing="-"):
    return missing if value is None else f"{value:.{digits}f}"


def _signed(value, digits):
    return "-" if value is None else f"{value:+.{digits}f}"


def _columns(lines):
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = []
    for first, *rest in lines:
        cells = (word.rjust(width) for word, width in zip(rest, widths[1:]))
        text.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(text)
