"""Measurements of a picture that tell of its acquisition rather than of the patient: border, corners, brightness, blur, colour cast, shape.

They see no structure of the inside of an image. Numbers are chosen by what DeGrave, Janizek and Lee (2021, doi 10.1038/s42256-021-00338-7) and
Bissoto et al. (2020, doi 10.1109/CVPRW50498.2020.00378) found networks to use: edges, corner marks, borders, colour and exposure.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

PROBE_PX = 128
"""Side that every picture is reduced to, whatever its shape."""
_EDGE = 6
"""Width of the border in reduced pixels: the outer 5 %."""
_CORNER = 20
"""Side of a corner in reduced pixels: about a sixth of the picture."""
_DARK, _BRIGHT = 16, 230
_Gray = npt.NDArray[np.float32]

_is_border = np.ones((PROBE_PX, PROBE_PX), dtype=bool)
_is_border[_EDGE:-_EDGE, _EDGE:-_EDGE] = False


def measure(image: Image.Image) -> tuple[float, ...]:
    """Return the probes of an RGB image in the order of `acquisition.PROBES`."""
    shape = image.width / image.height
    # reducing_gap: a large picture is first averaged down by a whole factor, which costs a tenth of a filtered resize.
    small = image.resize((PROBE_PX, PROBE_PX), Image.Resampling.BILINEAR, reducing_gap=1.0)
    rgb = np.asarray(small, dtype=np.float32)  # (PROBE_PX, PROBE_PX, 3)
    red, green, blue = (float(mean) for mean in rgb.mean(axis=(0, 1)))
    gray: _Gray = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601 luma
    border = gray[_is_border]
    inside = gray[_EDGE:-_EDGE, _EDGE:-_EDGE]  # a border has its own probes
    corners, inner_corners = _corners(gray), _corners(inside)
    laplacian = inside[:-2, 1:-1] + inside[2:, 1:-1] + inside[1:-1, :-2] + inside[1:-1, 2:] - 4 * inside[1:-1, 1:-1]
    values = (
        float(border.mean()),
        float(border.std()),
        float((border < _DARK).mean()),
        float(np.mean([(corner < _DARK).mean() for corner in corners])),
        max(_mark(corner) for corner in inner_corners),
        float(inside.mean()),
        float(inside.std()),
        math.log1p(float(laplacian.var())),
        red - green,
        (red + green) / 2 - blue,
        shape,
    )
    return tuple(round(value, 4) for value in values)


def _corners(gray: _Gray) -> list[_Gray]:
    first, last = slice(0, _CORNER), slice(-_CORNER, None)
    return [gray[rows, columns] for rows in (first, last) for columns in (first, last)]


def _mark(corner: _Gray) -> float:
    """Return the share of a corner that is bright while not all of it is: letters, markers and stickers."""
    share = float((corner > _BRIGHT).mean())
    return share if share < 0.5 else 0.0
