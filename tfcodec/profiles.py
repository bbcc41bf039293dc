"""Makes ICC profiles for colour spaces that files specify by other means.

In place of a profile, a PNG may have a gamma and chromaticities (gAMA, cHRM) or code
points (cICP), and an AVIF code points (nclx). A profile of a matrix and curves says the
same (ICC.1:2022, section 8.3.3 and annex F.3); code points are those of ITU-T H.273.
"""

from __future__ import annotations

import dataclasses
import struct

import numpy as np

D65 = (0.3127, 0.329)
# XYZ of the white of the profile connection space of ICC, D50.
D50 = np.array([0.9642, 1.0, 0.8249])
# Bradford's matrix from XYZ to cone responses, for chromatic adaptation.
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
# x and y of red, green, blue and white, by H.273's number of colour primaries.
PRIMARIES = {
    1: ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), D65),  # BT.709, sRGB
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.31, 0.316)),  # BT.470 M
    5: ((0.64, 0.33), (0.29, 0.6), (0.15, 0.06), D65),  # BT.470 BG
    6: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), D65),  # BT.601, SMPTE 170M
    7: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), D65),  # SMPTE 240M
    9: ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), D65),  # BT.2020
    11: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.314, 0.351)),  # DCI-P3
    12: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), D65),  # Display P3
    22: ((0.63, 0.34), (0.295, 0.605), (0.155, 0.077), D65),  # EBU 3213
}
# Curves from a stored value v to linear light. (g, a, b, c, d) means (a v + b)^g from
# v = d on, else c v.
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
BT709_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
# By H.273's number of transfer characteristics.
CURVES = {
    1: BT709_CURVE, 4: (2.2,), 5: (2.8,), 6: BT709_CURVE, 8: (1.0,), 13: SRGB_CURVE,
    14: BT709_CURVE, 15: BT709_CURVE,
}  # fmt: skip
UNSPECIFIED = 2
NAMES = {16: "PQ", 18: "HLG"}
PRIMARY_NAMES = {1: "BT.709", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}


@dataclasses.dataclass(frozen=True)
class Colours:
    """A colour space.

    Args:
        primaries: (x, y) of red, green, blue and white.
        curve: (gamma,), or five numbers as those of `SRGB_CURVE`.
        name: for the profile.
    """

    primaries: tuple = PRIMARIES[1]
    curve: tuple = SRGB_CURVE
    name: str = ""

    @property
    def srgb(self) -> bool:
        """Whether it is sRGB, or nearly so, such as with a gamma of 2.2."""
        near = np.allclose(self.primaries, PRIMARIES[1], atol=0.001)
        usual = len(self.curve) == 1 and abs(self.curve[0] - 2.2) < 0.01
        return bool(near and (self.curve == SRGB_CURVE or usual))


def of_code_points(primaries: int, transfer: int) -> Colours | None:
    """Returns the colour space of code points; None if no profile can express it.

    Unspecified ones count as those of sRGB.
    """
    primaries = 1 if primaries == UNSPECIFIED else primaries
    transfer = 13 if transfer == UNSPECIFIED else transfer
    if primaries not in PRIMARIES or transfer not in CURVES:
        return None
    first = PRIMARY_NAMES.get(primaries, f"primaries {primaries}")
    name = f"{first}, transfer {transfer}"
    return Colours(PRIMARIES[primaries], CURVES[transfer], name)


def of_gamma(gamma: float | None, chromaticities: tuple | None) -> Colours | None:
    """Returns the colour space of a PNG's gAMA and cHRM; None if they are impossible.

    Args:
        gamma: that of gAMA, the exponent from light to stored value, usually 1 / 2.2;
            None for sRGB's.
        chromaticities: x and y of white, red, green, blue, 8 numbers; None for sRGB's.
    """
    curve = SRGB_CURVE
    if gamma is not None:
        if not 0.01 <= gamma <= 100:
            return None
        curve = (1 / gamma,)
    primaries = PRIMARIES[1]
    if chromaticities is not None:
        white, *colours = zip(chromaticities[::2], chromaticities[1::2])
        primaries = (*colours, white)
        # The primaries must span an area; y of white and of green must not be 0.
        (rx, ry), (gx, gy), (bx, by), (_, wy) = primaries
        area = (gx - rx) * (by - ry) - (bx - rx) * (gy - ry)
        if abs(area) < 0.001 or min(wy, gy) < 0.001:
            return None
        if gamma is not None and abs(curve[0] - 2.2) < 0.01:
            curve = SRGB_CURVE  # of which this gamma is the usual approximation
    name = f"gamma {curve[0]:.3g}" if len(curve) == 1 else "sRGB curve"
    if chromaticities is not None:
        name += " and chromaticities"
    return Colours(primaries, curve, name)


def matrix_of(primaries) -> np.ndarray:
    """Returns [3, 3]: linear red, green and blue to XYZ, adapted to D50."""
    *colours, white = (_xyz_of(x, y) for x, y in primaries)
    colours = np.array(colours).T
    matrix = colours * np.linalg.solve(colours, white)
    return _adaptation(white) @ matrix


def _xyz_of(x, y):
    return np.array((x / y, 1, (1 - x - y) / y) if y else (x, 0, 1 - x - y))


def _adaptation(white):
    """Returns [3, 3]: XYZ for the white `white`, also XYZ, to XYZ for D50."""
    gain = (BRADFORD @ D50) / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ np.diag(gain) @ BRADFORD


def profile(colours: Colours, grey: bool = False) -> bytes:
    """Returns an ICC profile, version 4, for RGB or greyscale."""
    curve = _curve(colours.curve)
    tags = {
        b"desc": _text(colours.name), b"cprt": _text("CC0"), b"wtpt": _xyz(D50)
    }  # fmt: skip
    if grey:
        tags[b"kTRC"] = curve
    else:
        matrix = matrix_of(colours.primaries)
        for k, name in enumerate(b"rgb"):
            tags[bytes([name]) + b"XYZ"] = _xyz(matrix[:, k])
            tags[bytes([name]) + b"TRC"] = curve
        adaptation = _adaptation(_xyz_of(*colours.primaries[3]))
        numbers = struct.pack(">9i", *_fixed(adaptation.ravel()))
        tags[b"chad"] = b"sf32\0\0\0\0" + numbers
    at = 128 + 4 + 12 * len(tags)
    table, body, places = struct.pack(">I", len(tags)), b"", {}
    for name, data in tags.items():
        if data not in places:  # The three colours share one curve.
            places[data] = at + len(body)
            body += data
        table += name + struct.pack(">II", places[data], len(data))
    head = struct.pack(
        ">I4sI4s4s4s6H4s4sIIIIIIiii",
        at + len(body), b"\0\0\0\0", 0x04400000, b"mntr", b"GRAY" if grey else b"RGB ",
        b"XYZ ", 2026, 1, 1, 0, 0, 0, b"acsp", b"\0\0\0\0", 0, 0, 0, 0, 0, 0,
        *_fixed(D50),
    )  # fmt: skip
    return head.ljust(128, b"\0") + table + body


def _fixed(values):
    """Numbers as integers, in units of 2^-16."""
    return [int(round(float(value) * 65536)) for value in values]


def _xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *_fixed(values))


def _curve(parameters):
    kind = {1: 0, 5: 3}[len(parameters)]
    numbers = struct.pack(f">{len(parameters)}i", *_fixed(parameters))
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + numbers


def _text(text):
    """A text in one language, padded to a multiple of four bytes."""
    data = text.encode("utf-16-be")
    head = struct.pack(">4sIII2s2sII", b"mluc", 0, 1, 12, b"en", b"US", len(data), 28)
    return (head + data).ljust(-(-(28 + len(data)) // 4) * 4, b"\0")
