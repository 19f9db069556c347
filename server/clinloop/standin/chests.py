"""Draws frontal chest films: one body a patient, any number of films of it, with or without a pneumothorax and a chest drain.

A pneumothorax shows as on a real film: a thin pleural line, and beyond it no vessels and a little less density. The sign is faint and
varies (`DENSITY`, `LINE`); the drain is a bright tube that nothing hides. What tempts a model is thus drawn as it is in the clinic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clinloop.standin.lesions import Array, Rng, f32, noise, step

SIDE = 287
"""Side of a film in pixels: 0.28 x the 1024 of ChestX-ray14 and SIIM-ACR."""
DENSITY = (0.02, 0.095)
"""Range of how much darker the air beside the lung is; the lung itself is about 0.25 on the same scale of 0…1."""
LINE = (0.02, 0.115)
"""Range of how much brighter the pleural line is."""
TUBE = (0.85, 1.3)
"""Range of how bright a drain is; 1 = a dense line of 0.14 in a tube of 0.12."""
COLLAPSE = (0.03, 0.26)
"""Range of how far the lung has come off, as a share of the way to its root; gives masks of 1.2 % of the film in the median; 0.8 % in public."""
_FINE = 2
"""Strokes are drawn at this multiple of SIDE and reduced, which smooths their edges."""

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_AXIS: Array = np.linspace(0, 1, SIDE, dtype=np.float32)
_X, _Y = np.meshgrid(_AXIS, _AXIS)

LUNG: Points = np.array(
    [(0.12, 0.12), (0.18, 0.15), (0.255, 0.24), (0.31, 0.38), (0.345, 0.54), (0.36, 0.70), (0.355, 0.80), (0.29, 0.735),
     (0.20, 0.705), (0.12, 0.735), (0.075, 0.77), (0.06, 0.62), (0.055, 0.45), (0.045, 0.30), (0.06, 0.17)]
)  # fmt: skip
"""Outline of a lung, (x away from the midline, y), from the apex down the chest wall; the fifteen points are rounded when drawn."""
OFF: Points = np.array([1.0, 1.0, 1.0, 0.95, 0.8, 0.6, 0.3, 0.05, 0.0, 0.0, 0.0, 0.0, 0.05, 0.35, 0.8])
"""How far each point of LUNG moves when the lung comes off the wall: the apex and the side most, the base and the root not."""
ROOT = (0.085, 0.47)
FINDINGS = ("Effusion", "Infiltration", "Atelectasis", "Nodule", "Mass", "Cardiomegaly", "Consolidation", "Pneumonia", "Edema",
            "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia")  # fmt: skip
"""What `Film.findings` may hold beside the pneumothorax."""


class Film(NamedTuple):
    """What one film shows."""

    pneumothorax: bool = False
    drain: bool = False
    findings: tuple[str, ...] = ()
    """Of FINDINGS."""
    side: int = 1
    """Where the pneumothorax and the drain are: -1 = left half of the film (the patient's right), 1 = right half."""
    view: str = "PA"
    """PA, or AP: a bedside film, with a larger heart and more wires."""


class Radiograph(NamedTuple):
    """A film and where its pneumothorax is."""

    pixels: npt.NDArray[np.uint8]
    """(SIDE, SIDE); bright = dense, as MONOCHROME2."""
    mask: Mask
    """(SIDE, SIDE); empty without a pneumothorax."""
    boxes: dict[str, tuple[float, float, float, float]]
    """Of the findings that have a place: x, y, width, height in pixels."""


class _Body:
    """A patient's anatomy: the same in every film of the patient."""

    def __init__(self, rng: Rng) -> None:
        self.width = rng.uniform(0.88, 1.08)
        self.length = rng.uniform(0.92, 1.06)
        self.heart = rng.uniform(0.85, 1.2)
        self.ribs = rng.uniform(0.070, 0.082)
        self.slope = rng.uniform(0.04, 0.11)
        self.bone = rng.uniform(0.04, 0.085)
        self.soft = rng.uniform(0.0, 1.0)
        self.breast = rng.uniform(0.02, 0.07) if rng.random() < 0.45 else 0.0
        self.bend: Points = rng.normal(0, 0.006, (2, *LUNG.shape))


class _Pose:
    """How the patient stood: turns the outlines of the body into positions on the film."""

    def __init__(self, rng: Rng, body: _Body, view: str) -> None:
        self.breath = rng.uniform(0.93, 1.05) * (0.95 if view == "AP" else 1.0)
        self.angle = rng.normal(0, 0.025)
        self.shift = rng.normal(0, 0.015, 2)
        self.scale = rng.uniform(0.95, 1.05)
        self._body = body

    def place(self, points: npt.ArrayLike, side: int) -> Points:
        """Return positions in 0…1 of points given as (distance from the midline, y); `side` is -1 or 1."""
        p = np.array(points, np.float64).reshape(-1, 2)
        x, y = p[:, 0] * side * self._body.width, (p[:, 1] - 0.1) * self._body.length * self.breath + 0.02 - 0.42
        x, y = x * self.scale, y * self.scale
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.stack([0.5 + x * cos - y * sin + self.shift[0], 0.5 + x * sin + y * cos + self.shift[1]], axis=1)


def paint(film: Film, body: Rng, view: Rng) -> Radiograph:
    """Paint a film; equal states of `body` give the same patient, `view` decides on pose, exposure and everything that passes.

    Films that differ in one part only (a drain, say) and start from equal states differ there and nowhere else.
    """
    stance, air_rng, soft, blood, found, passing, tube, exposure = view.spawn(8)  # so that one part changes no other
    patient = _Body(body)
    pose = _Pose(stance, patient, film.view)
    lungs = {side: pose.place(LUNG + patient.bend[(side + 1) // 2], side) for side in (-1, 1)}
    areas = {side: _area(outline) for side, outline in lungs.items()}
    lung = np.maximum(areas[-1], areas[1])
    scene = _chest(soft, patient, pose, lung, film)
    vessels = _vessels(blood, pose, lung)
    mask = np.zeros(lung.shape, np.bool_)
    boxes: dict[str, tuple[float, float, float, float]] = {}
    if film.pneumothorax:
        air, line = _collapse(air_rng, pose, lungs[film.side], film.side)
        mask = (air > 0.5) & (areas[film.side] > 0.5)
        boxes["Pneumothorax"] = _box(mask)
        vessels *= 1 - air
        scene -= air * lung * np.float32(air_rng.uniform(*DENSITY))
        scene += line * lung * np.float32(air_rng.uniform(*LINE))
    scene += vessels + _bones(patient, pose)
    for name in film.findings:
        density, local = _finding(found, name, pose, lung)
        scene += density
        if local:
            boxes[name] = _box(density > 0.4 * density.max())
    scene += _folds(passing, pose) + _wires(passing, count=int(passing.poisson(1.6 if film.view == "AP" else 0.5)))
    if film.drain:
        scene += _drain(tube, pose, film.side)
    return Radiograph(_expose(exposure, scene), mask, boxes)


def _box(mask: Mask) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1)


def _rounded(points: Points) -> Points:
    """Cut the corners of a closed polygon three times (Chaikin), which makes it smooth."""
    for _ in range(3):
        after = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], axis=1).reshape(-1, 2)
    return points


def _area(outline: Points) -> Array:
    """Return (SIDE, SIDE) coverage in 0…1 of a rounded outline."""
    canvas = Image.new("L", (SIDE * _FINE, SIDE * _FINE))
    ImageDraw.Draw(canvas).polygon((_rounded(outline) * SIDE * _FINE).ravel().tolist(), fill=255)
    return _reduced(canvas)


def _stroke(lines: Sequence[Points], width: float) -> Array:
    """Return (SIDE, SIDE) coverage of open lines of a width in pixels of the film."""
    canvas = Image.new("L", (SIDE * _FINE, SIDE * _FINE))
    draw = ImageDraw.Draw(canvas)
    for line in lines:
        draw.line((line * SIDE * _FINE).ravel().tolist(), fill=255, width=max(1, round(width * _FINE)))
    return _reduced(canvas)


def _reduced(canvas: Image.Image) -> Array:
    return f32(canvas.reduce(_FINE)) / np.float32(255)


def _curve(*points: tuple[float, float] | Points, n: int = 40) -> Points:
    """Return n points of the Bézier curve with these control points."""
    p, t = np.array(points, np.float64)[:, None], np.linspace(0, 1, n)[:, None]
    while len(p) > 1:
        p = p[:-1] * (1 - t) + p[1:] * t
    return p[0]


def _collapse(rng: Rng, pose: _Pose, outline: Points, side: int) -> tuple[Array, Array]:
    """Return the air between lung and chest wall, and the pleural line along it."""
    depth = COLLAPSE[0] + (COLLAPSE[1] - COLLAPSE[0]) * rng.beta(0.9, 3.2)
    basal = rng.random() < 0.2  # supine films: the air lies at the base
    amount = np.roll(OFF, 4 if basal else 0) * depth * (1 + 0.15 * rng.standard_normal(len(OFF)).clip(-2, 2))
    root = pose.place(ROOT, side)
    shrunk = outline + (root - outline) * amount[:, None]
    inner = _rounded(shrunk)
    away = np.hypot(*(inner - _rounded(outline)).T) > 0.012
    pieces = np.split(inner, np.nonzero(np.diff(away.astype(int)))[0] + 1)
    keep = [piece for piece in pieces if len(piece) > 2 and np.hypot(*(piece[0] - piece[-1])) > 0.02]
    moved = [p for p in keep if away[np.nonzero((inner == p[len(p) // 2]).all(axis=1))[0][0]]]
    return np.clip(_area(outline) - _area(shrunk), 0, 1), _stroke(moved, 1.5)


def _chest(rng: Rng, body: _Body, pose: _Pose, lung: Array, film: Film) -> Array:
    """Return the soft parts: trunk, mediastinum, heart, diaphragm, and lungs that differ in how much air they hold."""
    trunk = _area(np.concatenate([pose.place([(0.09, -0.1), (0.16, 0.05), (0.36, 0.11), (0.47, 0.2), (0.43, 0.5), (0.42, 1.2)], 1),
                                  pose.place([(0.42, 1.2), (0.43, 0.5), (0.47, 0.2), (0.36, 0.11), (0.16, 0.05), (0.09, -0.1)], -1)]))  # fmt: skip
    scene = 0.04 + 0.52 * trunk + 0.06 * body.soft * trunk * _blurred(_Y)
    clouds = noise(rng, (SIDE, SIDE), cells=3, octaves=2)
    scene -= lung * (0.30 + 0.035 * clouds + 0.05 * (0.5 - _Y))
    size = body.heart * (1.12 if film.view == "AP" else 1.0) * (1.35 if "Cardiomegaly" in film.findings else 1.0)
    left = pose.place(
        [
            (0.0, 0.05),
            (0.035, 0.2),
            (0.05, 0.30),
            (0.06 * size, 0.42),
            (0.13 * size, 0.56),
            (0.17 * size, 0.70),
            (0.13, 0.80),
            (0, 0.82),
        ],
        1,
    )
    right = pose.place([(0, 0.82), (0.06, 0.79), (0.075 * size, 0.66), (0.06 * size, 0.52), (0.04, 0.4), (0.04, 0.2), (0.03, 0.05)], -1)  # fmt: skip
    scene += 0.22 * _blurred(_area(np.concatenate([left, right])), 5)
    scene += 0.10 * step(_Y, pose.place((0, 0.78), 1)[0, 1], 0.12) * trunk
    if body.breast:
        for side in (-1, 1):
            x, y = pose.place((0.22, 0.62), side)[0]
            scene += body.breast * step(-np.hypot(_X - x, (_Y - y) * 1.1), -0.13, 0.04)
    return scene.astype(np.float32)


def _blurred(field: Array, radius: int = 3) -> Array:
    """Return the field after a cheap blur: reduced and enlarged again."""
    small = Image.fromarray(field).resize((SIDE // radius, SIDE // radius), Image.Resampling.BOX)
    return f32(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _vessels(rng: Rng, pose: _Pose, lung: Array) -> Array:
    """Return vessel markings: branches that leave the roots and thin out, and a fine grain."""
    branches: list[Points] = []
    for side in (-1, 1):
        for _ in range(13):
            angle = rng.uniform(-1.5, 1.35)
            reach = rng.uniform(0.14, 0.3)
            start = np.array(ROOT) + rng.normal(0, 0.02, 2)
            end = start + reach * np.array([np.cos(angle), np.sin(angle)])
            bend = (start + end) / 2 + rng.normal(0, 0.025, 2)
            branches.append(pose.place(_curve(start, bend, end, n=12), side))
    roots = [pose.place(ROOT, side)[0] for side in (-1, 1)]
    near = np.minimum(*(np.hypot(_X - x, _Y - y) for x, y in roots))
    fade = np.exp(-near / 0.13)
    grain = noise(rng, (SIDE, SIDE), cells=26, octaves=2)
    return lung * (_stroke(branches, 2.2) * (0.04 + 0.12 * fade) + 0.20 * np.exp(-((near / 0.05) ** 2)) + 0.016 * grain)


def _bones(body: _Body, pose: _Pose) -> Array:
    """Return spine, ribs, clavicles and shoulder blades."""
    back, front, edges = list[Points](), list[Points](), list[Points]()
    for side in (-1, 1):
        for k in range(9):
            y = 0.13 + k * body.ribs
            reach = min(0.20 + 0.05 * k, 0.385)
            rib = _curve(
                (0.02, y), (0.45 * reach, y - 0.055), (reach * 1.05, y - 0.01), (reach, y + body.slope + 0.05), n=24
            )
            back.append(pose.place(rib, side))
            edges += [pose.place(rib + np.array((0, d)), side) for d in (-0.011, 0.011)]
            if 1 <= k <= 6:
                front.append(
                    pose.place(
                        _curve((reach, y + 0.08), (0.75 * reach, y + 0.16), (0.35 * reach, y + 0.17), n=16), side
                    )
                )
    clavicles = [pose.place(_curve((0.03, 0.16), (0.14, 0.17), (0.2, 0.10), (0.36, 0.10)), side) for side in (-1, 1)]
    blades = [pose.place(_curve((0.36, 0.15), (0.30, 0.2), (0.335, 0.42)), side) for side in (-1, 1)]
    spine = [np.concatenate([pose.place((0, 0.0), 1), pose.place((0, 1.1), 1)])]
    scene = body.bone * (_stroke(back, 6.5) + 0.5 * _stroke(edges, 1.2) + 0.6 * _stroke(front, 6.0))
    scene += body.bone * (1.3 * _stroke(clavicles, 7) + 0.7 * _stroke(blades, 4)) + 0.09 * _blurred(
        _stroke(spine, 20), 4
    )
    return f32(scene)


def _finding(rng: Rng, name: str, pose: _Pose, lung: Array) -> tuple[Array, bool]:
    """Return the density that a finding adds (or, of emphysema, takes away), and whether it is in one place."""
    side = int(rng.choice([-1, 1]))
    x, y = pose.place((rng.uniform(0.12, 0.27), rng.uniform(0.25, 0.65)), side)[0]
    distance = np.hypot(_X - x, _Y - y)
    half = step((_X - 0.5) * side, 0.0, 0.05)
    match name:
        case "Effusion" | "Pleural_Thickening":
            level = pose.place((0.2, rng.uniform(0.55, 0.68) if name == "Effusion" else 0.66), side)[0, 1]
            return f32(0.22 * lung * half * step(_Y + 0.25 * np.abs(_X - 0.5), level + 0.08, 0.12)), name == "Effusion"
        case "Nodule" | "Mass":
            radius = rng.uniform(0.014, 0.025) if name == "Nodule" else rng.uniform(0.035, 0.06)
            return f32(0.16 * step(-distance, -radius, 0.01)), True
        case "Infiltration" | "Consolidation" | "Pneumonia":
            cloud = step(noise(rng, (SIDE, SIDE), cells=9, octaves=2), 0.0, 2.0)
            near = np.exp(-((distance / rng.uniform(0.09, 0.16)) ** 2))
            return f32(rng.uniform(0.14, 0.28) * cloud * near * lung), name != "Consolidation"
        case "Edema" | "Fibrosis":
            lines = np.abs(noise(rng, (SIDE, SIDE), cells=22, octaves=2))
            low = step(_Y, 0.5, 0.6) if name == "Fibrosis" else np.float32(1)
            return f32(0.09 * lung * step(-lines, -0.35, 0.5) * low), False
        case "Atelectasis":
            band = pose.place(_curve((0.08, 0.62), (0.2, rng.uniform(0.58, 0.66)), (0.3, 0.64)), side)
            return f32(0.13 * _blurred(_stroke([band], 7), 2) * lung), True
        case "Emphysema":
            return f32(-0.06 * lung), False
        case "Hernia":
            x, y = pose.place((0.0, 0.74), 1)[0]
            return f32(0.12 * step(-np.hypot(_X - x, _Y - y), -0.055, 0.02)), False
        case _:  # Cardiomegaly changes the outline of the heart
            return np.zeros((SIDE, SIDE), np.float32), False


def _folds(rng: Rng, pose: _Pose) -> Array:
    """Return skin folds: edges that a hasty reader takes for a pleural line."""
    scene = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(int(rng.poisson(0.6))):
        side = int(rng.choice([-1, 1]))
        x = rng.uniform(0.15, 0.33)
        fold = pose.place(
            _curve((x, rng.uniform(0.12, 0.3)), (x + 0.04, 0.4), (x - rng.uniform(0, 0.08), rng.uniform(0.5, 0.7))),
            side,
        )
        scene += np.float32(rng.uniform(0.03, 0.09)) * _stroke([fold], 1.6)
    return scene


def _wires(rng: Rng, *, count: int) -> Array:
    """Return ECG leads: thin dark-free wires with a button at their end; they say nothing about drains."""
    scene = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(count):
        start, end = (rng.uniform(0.1, 0.9), rng.choice([0.0, 1.0])), rng.uniform((0.15, 0.2), (0.85, 0.8))
        wire = _curve(start, rng.uniform(0.1, 0.9, 2), rng.uniform(0.2, 0.8, 2), end)
        scene += np.float32(rng.uniform(0.10, 0.2)) * _stroke([wire], 1.0)
        scene += np.float32(rng.uniform(0.2, 0.35)) * step(-np.hypot(_X - end[0], _Y - end[1]), -0.014, 0.006)
    return scene


def _drain(rng: Rng, pose: _Pose, side: int) -> Array:
    """Return a chest drain: a tube from the side of the chest towards the apex or the base, with a line that shows on film."""
    entry = (rng.uniform(0.37, 0.43), rng.uniform(0.45, 0.66))
    wall = (rng.uniform(0.27, 0.33), entry[1] - rng.uniform(0.0, 0.08))
    tip = (
        (rng.uniform(0.08, 0.19), rng.uniform(0.16, 0.32))
        if rng.random() < 0.75
        else (rng.uniform(0.1, 0.2), rng.uniform(0.62, 0.7))
    )
    middle = ((wall[0] + tip[0]) / 2 + rng.uniform(0.0, 0.10), (wall[1] + tip[1]) / 2 + rng.uniform(-0.05, 0.05))
    tube = pose.place(_curve((0.5, entry[1] + rng.uniform(0.0, 0.25)), entry, wall, middle, tip), side)
    width = rng.uniform(4.0, 6.5)
    gain = np.float32(rng.uniform(*TUBE))
    marker = tube + rng.uniform(-0.2, 0.2) * width / SIDE
    body = _stroke([tube], width)
    edge = body - _stroke([tube], width - 2)
    return f32(gain * (0.12 * body + 0.05 * edge + 0.14 * _stroke([marker], 1.5)))


def _expose(rng: Rng, scene: Array) -> npt.NDArray[np.uint8]:
    """Return the film: exposure, contrast, quantum noise, blur, collimation and the side marker."""
    scene = (scene - 0.5) * np.float32(rng.uniform(0.9, 1.2)) + np.float32(0.5 + rng.normal(0, 0.04))
    scene = np.clip(scene, 0, 1.1) ** np.float32(rng.uniform(0.85, 1.2))
    scene += np.float32(rng.uniform(0.006, 0.02)) * rng.standard_normal((SIDE, SIDE), np.float32)
    picture = Image.fromarray((np.clip(scene, 0, 1) * 255).astype(np.uint8))
    if rng.random() < 0.8:
        at = (int(rng.uniform(0.03, 0.07) * SIDE), int(rng.uniform(0.04, 0.10) * SIDE))
        ImageDraw.Draw(picture).text(at, "R", fill=int(rng.integers(200, 256)), font_size=int(rng.integers(13, 19)))
    if rng.random() < 0.35:
        draw, cut = ImageDraw.Draw(picture), int(rng.integers(2, 10))
        for box in [(0, 0, cut, SIDE), (SIDE - cut, 0, SIDE, SIDE)] if rng.random() < 0.5 else [(0, 0, SIDE, cut)]:
            draw.rectangle(box, fill=int(rng.integers(0, 12)))
    return np.asarray(picture)
