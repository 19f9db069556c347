"""Draws dermoscopic-looking lesions: one canvas a lesion, any number of views of it.

The classes differ as dermatologists describe them (colour, border, network, globules, vessels, scale, scar) and vary widely
within; melanoma and nevus are the two ends of one continuum that overlap (`ATYPIA`), so no classifier can separate them fully.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Array = npt.NDArray[np.float32]
Rng = np.random.Generator

CANVAS = 192
"""Side of a lesion's canvas in pixels."""
REACH = 1.6
"""The canvas spans -REACH…REACH in units of the lesion's mean radius."""
ATYPIA = {"NV": (2.0, 4.2), "MEL": (4.2, 2.2)}
"""Beta parameters of the one hidden trait that tells the two apart; their overlap bounds MEL-vs-NV AUC at about 0.90."""

_AXIS: Array = np.linspace(-REACH, REACH, CANVAS, dtype=np.float32)
_X, _Y = np.meshgrid(_AXIS, _AXIS)
_THETA = np.arctan2(_Y, _X)
_RADIUS = np.hypot(_X, _Y)

WHITE, YELLOW, BLACK = (0.95, 0.91, 0.88), (0.88, 0.78, 0.52), (0.09, 0.07, 0.07)
BLUE_GREY, RED, PURPLE, CRUST = (0.36, 0.40, 0.50), (0.74, 0.26, 0.25), (0.42, 0.16, 0.30), (0.36, 0.12, 0.10)


class Lesion(NamedTuple):
    """A painted lesion that can be photographed again and again."""

    layer: Image.Image
    """RGBA canvas, CANVAS x CANVAS; alpha is where the lesion is."""
    skin: Array
    """Skin colour around it, (3,) in [0, 1]."""
    radius: float
    """Mean radius as a fraction of the shorter image side."""


def f32(values: npt.ArrayLike | Image.Image) -> Array:
    """Return `values` as float32, without a copy where they are already."""
    return np.asarray(values, np.float32)


def noise(rng: Rng, shape: tuple[int, int], *, cells: int, octaves: int = 1) -> Array:
    """Return smooth noise of `shape` (height, width), mean 0 and about unit variance, with `cells` bumps along the side."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        grid = rng.standard_normal((cells * 2**octave + 2, cells * 2**octave + 2)).astype(np.float32)
        total += np.asarray(Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)) * (
            0.55**octave
        )
    return total / np.float32(max(float(total.std()), 1e-6))


def step(field: npt.ArrayLike, at: float, width: float) -> Array:
    """Return a soft threshold: 0 well below `at`, 1 well above, over a band of `width`."""
    return (1.0 / (1.0 + np.exp(np.clip((at - f32(field)) * (4.0 / width), -30, 30)))).astype(np.float32)


class _Brush:
    """The canvas under work: colour, outline, and the strokes that all classes share."""

    def __init__(self, rng: Rng, skin: Array) -> None:
        self.rng, self.skin = rng, skin
        self.rgb: Array = np.tile(skin, (CANVAS, CANVAS, 1))
        self.alpha: Array = np.zeros((CANVAS, CANVAS), np.float32)
        self.depth: Array = np.zeros((CANVAS, CANVAS), np.float32)

    def field(self, cells: int, octaves: int = 1) -> Array:
        return noise(self.rng, (CANVAS, CANVAS), cells=cells, octaves=octaves)

    def outline(self, *, irregular: float, soft: float, elongated: float = 0.15, ragged: float = 0.0) -> None:
        """Set alpha and depth (1 in the middle, 0 on the border) from a wavy ellipse."""
        rng = self.rng
        stretch = 1 + abs(rng.normal(0, elongated))
        turn = rng.uniform(0, np.pi)
        along = _X * np.cos(turn) + _Y * np.sin(turn)
        across = _Y * np.cos(turn) - _X * np.sin(turn)
        radius = np.hypot(along / stretch, across * stretch)
        border = np.ones_like(radius)
        for k in range(2, 9):
            border += irregular * rng.normal(0, 1.5 / k) * np.cos(k * _THETA + rng.uniform(0, 2 * np.pi))
        if ragged:
            border += ragged * self.field(14, 2)
        self.depth = 1 - radius / np.clip(border, 0.35, 1.5)
        self.alpha = step(self.depth, 0.0, soft) * (_RADIUS < REACH * 0.98)

    def tint(self, colour: npt.ArrayLike, where: npt.ArrayLike) -> None:
        """Blend towards `colour` with the weight `where` in [0, 1]."""
        self.rgb += (f32(colour) - self.rgb) * f32(where)[..., None]

    def stain(self, transmission: npt.ArrayLike, where: npt.ArrayLike) -> None:
        """Multiply by a pigment's transmission, as melanin or blood darkens skin."""
        self.rgb *= 1 - f32(where)[..., None] * (1 - f32(transmission))

    def dots(self, count: int, *, size: tuple[float, float], inside: tuple[float, float] = (0.05, 1.0)) -> Array:
        """Return a mask of round dots; `size` in canvas fractions, `inside` the range of depth that they may lie at."""
        mask = Image.new("L", (CANVAS, CANVAS))
        draw = ImageDraw.Draw(mask)
        rows, columns = np.nonzero((self.depth > inside[0]) & (self.depth < inside[1]))
        if len(rows):
            for pick in self.rng.integers(0, len(rows), count):
                r = self.rng.uniform(*size) * CANVAS
                x, y = float(columns[pick]), float(rows[pick])
                draw.ellipse((x - r, y - r, x + r, y + r), fill=int(self.rng.integers(150, 256)))
        return f32(mask) / np.float32(255)

    def vessels(self, count: int, *, branching: bool) -> Array:
        """Return a mask of blood vessels: arborising trees from the border inwards, or short curled loops."""
        mask = Image.new("L", (CANVAS, CANVAS))
        draw = ImageDraw.Draw(mask)
        rng = self.rng
        for _ in range(count):
            angle = rng.uniform(0, 2 * np.pi)
            where = rng.uniform(0.5, 0.95) if branching else rng.uniform(0.1, 0.95)
            heads = [
                (CANVAS / 2 * (1 + where * np.cos(angle) / REACH), CANVAS / 2 * (1 + where * np.sin(angle) / REACH))
            ]
            directions, width = [angle + np.pi + rng.normal(0, 0.5)], 4.0 if branching else 2.0
            curl = 0.0 if branching else rng.choice([-0.7, 0.7])
            for _ in range(14 if branching else 7):
                tips: list[tuple[float, float]] = []
                turned: list[float] = []
                for (x, y), direction in zip(heads, directions, strict=True):
                    turn = direction + curl + rng.normal(0, 0.3)
                    end = (x + 5.5 * np.cos(turn), y + 5.5 * np.sin(turn))
                    draw.line((x, y, *end), fill=220, width=max(1, round(width)))
                    tips, turned = [*tips, end], [*turned, turn]
                    if branching and len(heads) < 5 and rng.random() < 0.2:
                        tips, turned = [*tips, end], [*turned, turn + rng.choice([-0.9, 0.9])]
                heads, directions, width = tips[:6], turned[:6], width * 0.9
        return f32(mask) / np.float32(255)

    def network(self, *, cell: float, irregular: float) -> Array:
        """Return a pigment network: a warped honeycomb with lines near 1 and holes near 0; `cell` in lesion radii."""
        k = 2 * np.pi / cell
        u, v = _X + irregular * 0.12 * self.field(4), _Y + irregular * 0.12 * self.field(4)
        waves = sum(np.cos(k * (u * np.cos(a) + v * np.sin(a))) for a in (0.3, 0.3 + np.pi / 3, 0.3 + 2 * np.pi / 3))
        return step(f32(-waves), 0.2, 1.2)


BROWN = (0.62, 0.46, 0.36)


def _melanocytic(brush: _Brush, atypia: float) -> float:
    """Nevus (low atypia) to melanoma (high): asymmetry, border, colours, structures; each cue follows the trait loosely."""
    rng = brush.rng

    def cue() -> float:
        return float(np.clip(atypia + rng.normal(0, 0.17), 0, 1))

    brush.outline(
        irregular=0.02 + 0.13 * cue(), soft=rng.uniform(0.12, 0.4), elongated=0.1 + 0.15 * atypia, ragged=0.05 * cue()
    )
    body = brush.alpha
    tan = rng.uniform(0, 1)
    brush.stain((0.75 - 0.25 * tan, 0.60 - 0.25 * tan, 0.50 - 0.22 * tan), body)
    brush.stain(BROWN, 0.5 * step(brush.depth, rng.uniform(0.1, 0.6), 0.5) * body)
    lopsided = f32(_X * np.cos(turn := rng.uniform(0, 2 * np.pi)) + _Y * np.sin(turn))
    brush.stain((0.45, 0.36, 0.34), step(lopsided, 0.25, 0.9) * body * 0.95 * max(0.0, cue() - 0.15))
    patchy = brush.field(4, 2)
    brush.stain((0.30, 0.24, 0.24), step(patchy, 1.7 - 1.4 * cue(), 0.7) * body * 0.9 * rng.uniform(0.5, 1))
    net = brush.network(cell=0.14 + 0.12 * cue(), irregular=0.6 + 2.0 * cue())
    brush.stain((0.55, 0.46, 0.40), net * body * rng.uniform(0.1, 0.7) * step(brush.depth, 0.6, -0.8))
    if rng.random() < 0.45:
        worst = cue()
        count = int(rng.integers(8, 40))
        brush.stain((0.35, 0.26, 0.22), brush.dots(count, size=(0.006, 0.012 + 0.016 * worst)) * body * 0.8)
    if (veil := cue()) > 0.52:
        brush.tint(
            BLUE_GREY,
            step(brush.field(3), 0.9 - 0.7 * veil, 0.6) * step(brush.depth, 0.15, 0.3) * body * (0.4 + 0.5 * veil),
        )
    if (regression := cue()) > 0.62:
        brush.tint(WHITE, step(brush.field(3), 1.1 - 0.4 * regression, 0.5) * body * 0.55)
    if (redness := cue()) > 0.5:
        brush.tint((0.72, 0.38, 0.34), step(brush.field(3), 1.1 - 0.6 * redness, 0.6) * body * 0.5)
    if (streaks := cue()) > 0.6:
        rays = np.cos(rng.integers(14, 30) * (_THETA + 0.25 * brush.field(3)))
        ring = step(brush.depth, -0.13, 0.15) * step(-brush.depth, -0.2, 0.2)
        arc = step(f32(np.cos(_THETA - rng.uniform(0, 2 * np.pi))), 0.5, 0.8)
        mask = step(f32(rays), 0.2, 1.2) * ring * arc * streaks * 0.8
        brush.alpha = np.maximum(brush.alpha, mask * 0.9)
        brush.stain((0.35, 0.26, 0.24), mask * 0.8)
    return float(rng.uniform(0.20, 0.32) * (0.85 + 0.45 * cue()))


def _nevus(brush: _Brush) -> float:
    return _melanocytic(brush, brush.rng.beta(*ATYPIA["NV"]))


def _melanoma(brush: _Brush) -> float:
    return _melanocytic(brush, brush.rng.beta(*ATYPIA["MEL"]))


def _basal_cell(brush: _Brush) -> float:
    """Pearly pink plaque, arborising vessels, blue-grey ovoid nests, ulcer."""
    rng, typical = brush.rng, brush.rng.beta(1.6, 1.9)
    brush.outline(irregular=0.07, soft=rng.uniform(0.3, 0.7), elongated=0.2)
    brush.stain((0.97, 0.78, 0.78), brush.alpha * rng.uniform(0.5, 1))
    brush.tint(WHITE, brush.alpha * step(brush.field(5, 2), 0.5, 1.2) * 0.35 * typical)
    brush.tint(RED, brush.vessels(round(1 + 5 * typical), branching=True) * brush.alpha * 0.75)
    if rng.random() < 0.65:
        brush.tint(
            BLUE_GREY, brush.dots(int(rng.integers(2, 9)), size=(0.02, 0.055)) * brush.alpha * (0.35 + 0.5 * typical)
        )
    if rng.random() < 0.35:
        brush.tint(CRUST, step(brush.depth + 0.12 * brush.field(5), rng.uniform(0.45, 0.7), 0.15) * 0.85)
    return float(rng.uniform(0.18, 0.36))


def _keratosis_actinic(brush: _Brush) -> float:
    """Red ill-defined patch, pale follicles ("strawberry"), white-yellow surface scale."""
    rng, typical = brush.rng, brush.rng.beta(1.5, 2.0)
    brush.outline(irregular=0.12, soft=rng.uniform(0.6, 1.1), elongated=0.25)
    brush.stain((0.98, 0.68, 0.64), brush.alpha * rng.uniform(0.55, 1))
    brush.stain((0.92, 0.62, 0.58), brush.alpha * step(brush.field(9, 2), 0.3, 1.0) * 0.6)
    brush.tint(WHITE, brush.dots(round(5 + 45 * typical), size=(0.008, 0.016), inside=(-0.1, 1)) * brush.alpha * 0.6)
    scale = step(brush.field(11, 3), 1.7 - 0.8 * typical, 0.35)
    brush.tint((0.93, 0.88, 0.76), scale * brush.alpha * (0.2 + 0.6 * typical))
    return float(rng.uniform(0.24, 0.40))


def _keratosis_benign(brush: _Brush) -> float:
    """Stuck-on waxy brown plaque: sharp border, fissures and ridges, milia-like cysts, comedo-like openings."""
    rng, typical = brush.rng, brush.rng.beta(1.4, 1.9)
    brush.outline(irregular=0.05, soft=rng.uniform(0.05, 0.3), elongated=0.2, ragged=0.03)
    tan = rng.uniform(0, 1)
    brush.stain((0.86 - 0.32 * tan, 0.74 - 0.34 * tan, 0.58 - 0.30 * tan), brush.alpha)
    ridges = f32(np.abs(brush.field(8, 2)))
    brush.stain((0.48, 0.42, 0.40), step(-ridges, -0.32, 0.3) * brush.alpha * (0.1 + 0.7 * typical))
    brush.tint((0.80, 0.72, 0.58), step(brush.field(4), 0.7, 0.9) * brush.alpha * 0.4)
    brush.tint((0.97, 0.94, 0.84), brush.dots(round(16 * typical), size=(0.008, 0.02)) * brush.alpha * 0.8)
    brush.tint((0.20, 0.14, 0.10), brush.dots(round(12 * typical), size=(0.008, 0.02)) * brush.alpha * 0.7)
    return float(rng.uniform(0.2, 0.38))


def _dermatofibroma(brush: _Brush) -> float:
    """White central scar inside a delicate light-brown ring of network."""
    rng, typical = brush.rng, brush.rng.beta(1.6, 1.6)
    brush.outline(irregular=0.03, soft=rng.uniform(0.5, 0.9), elongated=0.1)
    brush.stain((0.84, 0.68, 0.58), brush.alpha)
    brush.stain((0.70, 0.56, 0.48), brush.network(cell=0.15, irregular=1.0) * brush.alpha * 0.35)
    scar = step(brush.depth + 0.08 * brush.field(4), rng.uniform(0.4, 0.6), 0.25)
    brush.tint((0.93, 0.82, 0.77), scar * (0.45 + 0.5 * typical))
    return float(rng.uniform(0.15, 0.26))


def _vascular(brush: _Brush) -> float:
    """Sharply bordered red, purple or blue-black lagoons."""
    rng = brush.rng
    brush.outline(irregular=0.06, soft=rng.uniform(0.08, 0.35), elongated=0.12)
    brush.tint((0.72, 0.36, 0.38), brush.alpha * rng.uniform(0.45, 0.9))
    blend = float(rng.beta(1.2, 1.5))
    colour = f32(RED) * (1 - blend) + f32(PURPLE) * blend
    lagoons = brush.dots(int(rng.integers(12, 45)), size=(0.02, 0.06), inside=(0.02, 1))
    brush.tint(colour, lagoons * brush.alpha * 0.9)
    brush.tint(BLACK, step(brush.field(4), 1.5, 0.4) * brush.alpha * 0.7)
    return float(rng.uniform(0.14, 0.30))


def _squamous(brush: _Brush) -> float:
    """Pink nodule: central yellow-white keratin, looped vessels around it, blood spots."""
    rng, typical = brush.rng, brush.rng.beta(1.5, 1.9)
    brush.outline(irregular=0.12, soft=rng.uniform(0.25, 0.6), elongated=0.18, ragged=0.03)
    brush.stain((0.96, 0.66, 0.62), brush.alpha * rng.uniform(0.6, 1))
    brush.tint((0.60, 0.18, 0.18), brush.vessels(round(4 + 26 * typical), branching=False) * brush.alpha * 0.65)
    core = step(brush.depth + 0.16 * brush.field(6, 2), rng.uniform(0.3, 0.55), 0.22)
    brush.tint(YELLOW, core * (0.15 + 0.75 * typical))
    brush.tint(WHITE, core * step(brush.field(9), 0.5, 0.6) * 0.7 * typical)
    brush.tint(CRUST, brush.dots(int(rng.integers(0, 6)), size=(0.015, 0.045), inside=(0.2, 1)) * 0.85)
    return float(rng.uniform(0.22, 0.38))


def _unknown(brush: _Brush) -> float:
    """None of the eight: scars, stains, bluish nodules, plain patches."""
    rng = brush.rng
    brush.outline(irregular=rng.uniform(0.02, 0.2), soft=rng.uniform(0.1, 1.0), elongated=0.4)
    brush.tint(f32(rng.uniform((0.45, 0.28, 0.26), (0.95, 0.78, 0.74))), brush.alpha * rng.uniform(0.25, 0.8))
    brush.stain(
        (0.7, 0.62, 0.6), step(brush.field(int(rng.integers(3, 14)), 2), 0.4, 1.0) * brush.alpha * rng.uniform(0, 0.8)
    )
    return float(rng.uniform(0.15, 0.42))


PAINTERS: dict[str, Callable[[_Brush], float]] = {
    "MEL": _melanoma,
    "NV": _nevus,
    "BCC": _basal_cell,
    "AK": _keratosis_actinic,
    "BKL": _keratosis_benign,
    "DF": _dermatofibroma,
    "VASC": _vascular,
    "SCC": _squamous,
    "UNK": _unknown,
}


def paint(label: str, rng: Rng) -> Lesion:
    """Paint one new lesion of the class `label`, a key of PAINTERS."""
    pale, tanned, dark = np.array([[0.92, 0.75, 0.67], [0.76, 0.55, 0.45], [0.50, 0.34, 0.27]], np.float32)
    tone = rng.beta(1.8, 3.5)
    skin = pale + (tanned - pale) * min(1.0, 2 * tone) + (dark - tanned) * max(0.0, 2 * tone - 1)
    skin = np.clip(skin + rng.normal(0, 0.02, 3), 0, 1).astype(np.float32)
    brush = _Brush(rng, skin)
    radius = PAINTERS[label](brush)
    rgb = brush.rgb * (1 + 0.03 * brush.field(20, 2))[..., None]
    layer = np.dstack([np.clip(rgb, 0, 1), np.clip(brush.alpha, 0, 1)])
    return Lesion(Image.fromarray((layer * 255).astype(np.uint8), "RGBA"), skin, radius)
