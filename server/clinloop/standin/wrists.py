"""Draws radiographs of children's wrists: bones as projected tubes and shells, broken or whole, and everything a reader trips over.

A tube of radius R with a cortex of thickness t shows, at the offset u from its axis, the path length sqrt(R² - u²) - k sqrt((R - t)² - u²):
bright edges and a grey marrow, as on a film. A fracture is what it is in life: a bulge of the cortex, a step, an angle, a dark gap or a
dense line. Growth plates, growth-arrest lines, vessel channels, casts and old callus look like one and are none.
Lengths are in widths of a frontal image; the origin is the radiocarpal joint, x points to the thumb, y to the elbow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from clinloop.standin.lesions import noise

Array = npt.NDArray[np.floating]
Rng = np.random.Generator
Corners = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

MARROW = 0.72
"""Share of the path through the marrow that counts as empty."""
RADIUS = {
    "frontal": ((0.0, 0.05, 0.16, 0.34, 0.6, 1.2), (0.135, 0.138, 0.112, 0.084, 0.072, 0.07)),
    "lateral": ((0.0, 0.05, 0.16, 0.34, 0.6, 1.2), (0.105, 0.108, 0.090, 0.070, 0.062, 0.06)),
}
"""Distance from the distal end, and radius there."""
ULNA = ((0.0, 0.05, 0.16, 0.34, 0.6, 1.2), (0.060, 0.064, 0.058, 0.050, 0.050, 0.056))
FLESH = {
    "frontal": ((0.0, 0.3, 0.55, 0.85, 1.15, 2.2), (0.22, 0.30, 0.30, 0.24, 0.25, 0.33)),
    "lateral": ((0.0, 0.3, 0.55, 0.85, 1.15, 2.2), (0.13, 0.16, 0.19, 0.18, 0.20, 0.26)),
}
METACARPAL = ((0.0, 0.04, 0.12, 0.24, 0.32, 0.36), (0.044, 0.046, 0.030, 0.029, 0.040, 0.036))
CARPALS = (  # x, y, half axes; in the order in which they ossify
    (0.01, -0.20, 0.055, 0.065), (-0.08, -0.20, 0.055, 0.060), (-0.10, -0.10, 0.050, 0.045), (0.01, -0.09, 0.055, 0.045),
    (0.12, -0.09, 0.060, 0.050), (0.17, -0.19, 0.050, 0.045), (0.09, -0.20, 0.042, 0.042), (-0.13, -0.13, 0.030, 0.030),
)  # fmt: skip
RAYS = (  # base and direction of the metacarpals I to V
    ((0.20, -0.24), (0.66, -0.75)), ((0.10, -0.27), (0.12, -0.99)), ((0.02, -0.28), (0.0, -1.0)),
    ((-0.06, -0.27), (-0.11, -0.99)), ((-0.12, -0.25), (-0.26, -0.97)),
)  # fmt: skip


class Break(NamedTuple):
    """A fracture of one bone, before it is seen from a side."""

    bone: str
    """radius or ulna."""
    at: float
    """Distance from the distal end."""
    kind: str
    """buckle, complete, greenstick or impacted."""
    severity: float
    """0 = at the limit of what can be seen, 1 = plain to anybody."""
    tilt: float
    side: float
    """-1 or 1: the side that gives way."""


class Wrist(NamedTuple):
    """What all views of one wrist share."""

    age: float
    seed: int
    breaks: tuple[Break, ...]


class View(NamedTuple):
    """One exposure."""

    size: tuple[int, int]
    """Width and height in pixels."""
    projection: str
    """frontal, lateral or other."""
    left: bool
    cast: bool = False
    metal: bool = False
    osteopenia: bool = False
    healing: float = 0.0
    """0 = fresh, 1 = callus all around, the line nearly gone."""
    hidden: bool = False
    """The fracture does not show in this view."""
    marker: str = "L"
    seed: int = 0


class Found(NamedTuple):
    """A box that the annotators drew."""

    title: str
    corners: Corners


class _Film:
    """A film under exposure: the path lengths summed so far, and where the wrist lies."""

    def __init__(self, rng: Rng, view: View) -> None:
        width, height = view.size
        self.rng, self.view = rng, view
        self.unit = height / 1.57 * rng.uniform(0.86, 1.02)
        angle = rng.normal(0, 0.09)
        self.origin = np.array([width * (0.5 + rng.normal(0, 0.03)), height * (0.43 + rng.normal(0, 0.03))])
        mirror = -1.0 if view.left else 1.0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.axes = turn @ np.diag([mirror, 1.0])  # wrist direction -> image direction
        self.density: Array = np.zeros((height, width), np.float32)
        self.found: list[Found] = []

    def place(self, point: tuple[float, float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return a point of the wrist in pixels (x, y)."""
        return self.origin + self.unit * (self.axes @ np.asarray(point))

    def window(self, points: npt.NDArray[np.float64], margin: float) -> tuple[slice, slice]:
        """Return the rows and columns that hold pixel points (N, 2) with a margin in pixels."""
        height, width = self.density.shape
        left, top = np.floor(points.min(axis=0) - margin).astype(int)
        right, bottom = np.ceil(points.max(axis=0) + margin).astype(int)
        return slice(max(top, 0), max(min(bottom, height), 0)), slice(max(left, 0), max(min(right, width), 0))

    def frame(
        self, start: tuple[float, float], end: tuple[float, float], margin: float
    ) -> tuple[tuple[slice, slice], Array, Array, float]:
        """Return where a bone from `start` to `end` lies, and there the distance along and across it, in units, and its length."""
        p, q = self.place(start), self.place(end)
        rows, columns = self.window(np.stack([p, q]), margin * self.unit)
        y, x = np.mgrid[rows, columns].astype(np.float32)
        length = float(np.hypot(*(q - p)))
        along = (q - p) / max(length, 1e-6)
        s = ((x - p[0]) * along[0] + (y - p[1]) * along[1]) / self.unit
        u = (-(x - p[0]) * along[1] + (y - p[1]) * along[0]) / self.unit
        return (rows, columns), s.astype(np.float32), u.astype(np.float32), length / self.unit

    def tube(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        profile: tuple[tuple[float, ...], tuple[float, ...]],
        *,
        strength: float = 1.0,
        thickness: float = 0.020,
        breaks: tuple[Break, ...] = (),
        scale: float = 1.0,
    ) -> None:
        """Expose a bone; `breaks` are drawn into it and boxed."""
        where, s, u, length = self.frame(start, end, 0.32)
        if not s.size:
            return
        line = np.zeros_like(s)
        bulge = np.zeros_like(s)
        for fracture in breaks:
            s, u, bulge, line = self._give_way(fracture, s, u, bulge, line)
        radius = scale * np.interp(s, *profile).astype(np.float32) + bulge
        cap = np.minimum(1, np.maximum(0, (s + 0.012) / 0.03)) * np.minimum(1, np.maximum(0, (length - s) / 0.03))
        radius = radius * np.sqrt(cap) * (1 + 0.02 * noise(self.rng, s.shape, cells=6))
        path = _chord(radius, u) - MARROW * _chord(radius - thickness, u)
        texture = 1 + 0.10 * noise(self.rng, s.shape, cells=26)
        self.density[where] += 9.0 * strength * path * texture * np.maximum(0.1, 1 + line)
        for fracture in breaks:
            self._box(fracture, start, end, profile, scale)

    def _give_way(
        self, fracture: Break, s: Array, u: Array, bulge: Array, line: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Return the coordinates, the bulge and the line (relative density) of a bone that broke."""
        rng, healing = self.rng, self.view.healing
        lateral = self.view.projection == "lateral"
        force = fracture.severity * rng.uniform(0.75, 1.15)
        side = np.float32(fracture.side)
        ragged = 0.012 * noise(rng, s.shape, cells=14)
        off = s - fracture.at - fracture.tilt * u + ragged
        near = np.exp(-((off / 0.028) ** 2))
        if fracture.kind in ("complete", "greenstick"):
            angle = (0.10 + 0.34 * force) * (1.3 if lateral else 0.7) * side * (1 - 0.4 * healing)
            step = 0.045 * force * side if fracture.kind == "complete" else 0.0
            u = np.where(off < 0, u - step + angle * (s - fracture.at), u)
        if fracture.kind in ("buckle", "greenstick"):
            one_sided = 1 / (1 + np.exp(-side * u / 0.03))
            bulge = bulge + (0.010 + 0.030 * force) * np.exp(-((off / 0.032) ** 2)) * (0.25 + 0.75 * one_sided)
            line = line + (0.15 + 0.4 * force) * near * one_sided
        if fracture.kind == "impacted":
            bulge = bulge + (0.006 + 0.014 * force) * near
            line = line + (0.25 + 0.55 * force) * np.exp(-((off / 0.018) ** 2))
        if fracture.kind in ("complete", "greenstick"):
            open_side = 1.0 if fracture.kind == "complete" else 1 / (1 + np.exp(side * u / 0.02))
            line = line - (0.35 + 0.5 * force) * (1 - 0.7 * healing) * np.exp(-((off / 0.012) ** 2)) * open_side
        if healing > 0.05:
            bulge = bulge + 0.022 * healing * np.exp(-((off / 0.07) ** 2))
        return s.astype(np.float32), u.astype(np.float32), bulge.astype(np.float32), line.astype(np.float32)

    def _box(
        self,
        fracture: Break,
        start: tuple[float, float],
        end: tuple[float, float],
        profile: tuple[tuple[float, ...], tuple[float, ...]],
        scale: float,
    ) -> None:
        """Box a fracture as an annotator does: the broken stretch of the bone and a little more, never twice alike."""
        rng = self.rng
        half_length = 0.062 + 0.03 * fracture.severity + abs(fracture.tilt) * 0.05
        half_width = scale * float(np.interp(fracture.at, *profile)) * 1.12 + 0.012
        p, q = np.asarray(start), np.asarray(end)
        along = (q - p) / np.hypot(*(q - p))
        across = np.array([-along[1], along[0]])
        centre = p + along * fracture.at
        corners = [centre + i * half_length * along + j * half_width * across for i in (-1, 1) for j in (-1, 1)]
        self.box("fracture", np.stack([self.place(corner) for corner in corners]), jitter=0.05)
        if self.view.healing > 0.3 and rng.random() < 0.5:
            self.box("periostealreaction", np.stack([self.place(c) for c in corners[1::2]]), grow=4, jitter=0.05)

    def box(self, title: str, points: npt.NDArray[np.float64], *, grow: float = 0.0, jitter: float = 0.0) -> None:
        """Add the box around pixel points (N, 2), cut at the film's border; what is nearly outside is left out."""
        height, width = self.density.shape
        low, high = points.min(axis=0) - grow, points.max(axis=0) + grow
        shake = jitter * self.rng.normal(size=4) * np.tile(high - low, 2)
        left, top = np.clip(low + shake[:2], 0, (width, height))
        right, bottom = np.clip(high + shake[2:], 0, (width, height))
        if right - left >= 4 and bottom - top >= 4:
            self.found.append(Found(title, (float(left), float(top), float(right), float(bottom))))

    def shell(self, centre: tuple[float, float], axes: tuple[float, float], *, strength: float = 1.0) -> None:
        """Expose a small round bone."""
        where, s, u, _ = self.frame((centre[0], centre[1] - axes[1]), (centre[0], centre[1] + axes[1]), axes[0] + 0.02)
        if not s.size:
            return
        wobble = 1 + 0.08 * noise(self.rng, s.shape, cells=3)
        inside = (u / axes[0]) ** 2 + ((s - axes[1]) / axes[1]) ** 2
        path = np.sqrt(np.maximum(0, wobble - inside)) - MARROW * np.sqrt(np.maximum(0, 0.72 * wobble - inside))
        self.density[where] += 9.0 * strength * axes[0] * path * (1 + 0.08 * noise(self.rng, s.shape, cells=12))

    def veil(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        profile: tuple[tuple[float, ...], tuple[float, ...]],
        depth: float,
    ) -> None:
        """Expose soft tissue: a full tube whose radius follows a profile."""
        where, s, u, _ = self.frame(start, end, max(profile[1]) + 0.02)
        if s.size:
            self.density[where] += depth * _chord(np.interp(s, *profile).astype(np.float32), u)

    def stripe(
        self, start: tuple[float, float], end: tuple[float, float], *, at: float, wide: float, gain: float
    ) -> None:
        """Make a thin line across or along a bone denser or thinner: growth-arrest lines and vessel channels."""
        where, s, u, _ = self.frame(start, end, 0.2)
        if s.size:
            bow = 0.01 * noise(self.rng, s.shape, cells=4)
            inside = np.exp(-((u / 0.09) ** 4))
            self.density[where] *= 1 + gain * np.exp(-(((s - at + bow) / wide) ** 2)) * inside


def expose(wrist: Wrist, view: View, rng: Rng) -> tuple[npt.NDArray[np.uint16], list[Found]]:
    """Return the film (height, width) as 16-bit counts of a 12-bit detector, and the annotators' boxes.

    Bones and soft tissue come from the wrist's own seed, so that its views show the same wrist; pose and exposure from `rng`.
    """
    body = np.random.default_rng([wrist.seed, 7])
    film = _Film(rng, view)
    lateral = view.projection == "lateral"
    _soft_tissue(film, lateral=lateral, swollen=bool(wrist.breaks) and view.healing < 0.3)
    _hand(film, body, wrist.age, lateral=lateral)
    _forearm(film, body, wrist, lateral=lateral)
    if view.cast:
        _cast(film, lateral=lateral)
    light = _develop(film)
    light = _overlays(film, light, wrist)
    counts = np.round(np.clip(light, 0, 1) * 4095).astype(np.uint16)
    low = int(rng.integers(10, 250))
    return (low * 16 + counts * int(rng.integers(7, 15))).astype(np.uint16), film.found


def _soft_tissue(film: _Film, *, lateral: bool, swollen: bool) -> None:
    film.veil((0, -0.85), (0, 1.4), FLESH["lateral" if lateral else "frontal"], 1.3)
    if swollen and film.rng.random() < 0.6:
        side = film.rng.choice([-1, 1]) * (0.1 if lateral else 0.14)
        film.veil((side, 0.02), (side, 0.34), ((0.0, 0.06, 0.16, 0.26, 0.32), (0.0, 0.12, 0.16, 0.12, 0.0)), 0.5)
        if film.rng.random() < 0.1:
            film.box("softtissue", np.stack([film.place((side * 2.2, 0.02)), film.place((side * 1.2, 0.34))]), grow=3)


def _hand(film: _Film, body: Rng, age: float, *, lateral: bool) -> None:
    """Metacarpals and as many carpals as a child of this age has."""
    squeeze = 0.35 if lateral else 1.0
    for i, ((x, y), (dx, dy)) in enumerate(RAYS):
        base = (x * (1.0 if lateral and i == 0 else squeeze) + body.normal(0, 0.006), y + body.normal(0, 0.006))
        length = 0.36 * body.uniform(0.93, 1.05) * (0.75 if i == 0 else 1.0)
        tip = (base[0] + dx * length * (1.0 if i == 0 else squeeze), base[1] + dy * length)
        film.tube(base, tip, METACARPAL, strength=0.8, thickness=0.012)
    shown = int(np.clip(round(age * 0.75 + body.normal(1, 0.5)), 1, len(CARPALS)))
    grown = float(np.clip(0.5 + age / 22, 0.5, 1.05))
    for x, y, a, b in CARPALS[:shown]:
        centre = (x * (0.55 if lateral else 1.0) + body.normal(0, 0.006), y + body.normal(0, 0.006))
        film.shell(centre, (a * grown * (0.9 if lateral else 1.0), b * grown), strength=0.9)


def _forearm(film: _Film, body: Rng, wrist: Wrist, *, lateral: bool) -> None:
    """Radius and ulna with their growth plates, fractures, and what resembles fractures."""
    rng, view = film.rng, film.view
    scale = float(np.clip(0.82 + wrist.age / 70, 0.82, 1.06)) * body.uniform(0.95, 1.05)
    cortex = (0.013 if view.osteopenia else 0.020) * body.uniform(0.85, 1.15)
    gap = float(np.clip((15.5 - wrist.age) / 15, 0, 1)) * 0.03 + 0.012  # the growth plate closes
    closed = wrist.age > 15.5
    radius_x, ulna_x = (0.03, -0.04) if lateral else (0.10, -0.165)
    ulna_y = 0.055 + body.normal(0, 0.012)
    breaks = () if view.hidden else wrist.breaks
    bones = {
        "radius": ((radius_x, 0.035 + gap), (radius_x + body.normal(0.01, 0.01), 1.4), RADIUS["lateral" if lateral else "frontal"]),
        "ulna": ((ulna_x, ulna_y + 0.02 + gap), (ulna_x * 0.8 + body.normal(0, 0.01), 1.4), ULNA),
    }  # fmt: skip
    for name, (start, end, profile) in bones.items():
        own = tuple(fracture for fracture in breaks if fracture.bone == name)
        film.tube(start, end, profile, thickness=cortex, breaks=own, scale=scale)
        head = scale * profile[1][0]
        if wrist.age > 1.5 or closed:
            y = start[1] - gap - 0.012 * (not closed)
            film.shell((start[0], y), (head * (0.75 + 0.25 * min(1, wrist.age / 10)), 0.026), strength=0.7)
        if body.random() < 0.35:  # lines of arrested growth, on both sides of the body and in every view
            film.stripe(start, end, at=body.uniform(0.06, 0.3), wide=0.008, gain=body.uniform(0.15, 0.5))
        if body.random() < 0.25:
            film.stripe(start, end, at=body.uniform(0.2, 0.6), wide=0.006, gain=-body.uniform(0.1, 0.3))
        if view.metal and name == "radius":
            wire = (start[0] + rng.uniform(-0.06, 0.06), start[1] + 0.02)
            tip = (start[0] + rng.uniform(-0.05, 0.05), start[1] + rng.uniform(0.35, 0.5))
            film.tube(wire, tip, ((0.0, 1.0), (0.011, 0.011)), strength=40.0, thickness=0.011)
            film.box("metal", np.stack([film.place(wire), film.place(tip)]), grow=2)


def _cast(film: _Film, *, lateral: bool) -> None:
    """A plaster tube: bright rims, crumbs, and bandage weave over everything."""
    rng = film.rng
    wide = rng.uniform(0.27, 0.32) if lateral else rng.uniform(0.34, 0.40)
    profile = ((0.0, 2.0), (wide, wide * 0.95))
    film.tube((0.0, rng.uniform(-0.5, -0.2)), (0.0, 1.4), profile, strength=0.16, thickness=0.05)
    height, width = film.density.shape
    weave = noise(rng, (height, width), cells=40, octaves=2)
    film.density += (0.05 * np.abs(weave) * (film.density > 0.02)).astype(np.float32)


def _develop(film: _Film) -> Array:
    """Turn path lengths into light: saturation, scatter, quantum noise, uneven tube, collimation."""
    rng = film.rng
    height, width = film.density.shape
    exposed = 1 - np.exp(-rng.uniform(0.75, 1.15) * film.density)
    soft = Image.fromarray((np.clip(exposed, 0, 1) * 255).astype(np.uint8))
    scatter = np.asarray(soft.filter(ImageFilter.GaussianBlur(0.05 * height)), np.float32) / 255
    light = (0.84 * exposed + 0.16 * scatter) ** rng.uniform(0.85, 1.25)
    light = light * (1 + 0.06 * noise(rng, (height, width), cells=2)) * rng.uniform(0.72, 0.95) + 0.03
    blur = rng.uniform(0.1, 0.3)
    for axis in (0, 1):
        light = (1 - blur) * light + blur / 2 * (np.roll(light, 1, axis) + np.roll(light, -1, axis))
    grain = rng.standard_normal((height, width)).astype(np.float32)
    light = light + rng.uniform(0.008, 0.022) * grain * np.sqrt(0.2 + light)
    if rng.random() < 0.3:  # shutters of the collimator
        margin = np.round(rng.uniform(0, 0.07, 4) * (width, height, width, height)).astype(int)
        shut = np.ones((height, width), bool)
        shut[margin[1] : height - margin[3], margin[0] : width - margin[2]] = False
        light[shut] = 0.01
    return light.astype(np.float32)


def _overlays(film: _Film, light: Array, wrist: Wrist) -> Array:
    """Add the side marker, sometimes a second text, and on lateral views the pronator's fat stripe."""
    rng, view = film.rng, film.view
    height, width = light.shape
    sheet = Image.new("L", (width, height))
    draw = ImageDraw.Draw(sheet)
    texts = [view.marker] + (["AB"] if rng.random() < 0.17 else [])
    for text in texts:
        font = ImageFont.load_default(size=float(rng.integers(14, 22)))
        x, y = rng.choice([0.05, 0.80]) * width, rng.uniform(0.03, 0.85) * height
        draw.text((x, y), text, fill=255, font=font)
        left, top, right, bottom = draw.textbbox((x, y), text, font=font)
        film.box("text", np.array([[left, top], [right, bottom]], np.float64), grow=1)
    if view.projection == "lateral" and wrist.breaks and view.healing < 0.2 and rng.random() < 0.08:
        corners = np.stack([film.place((0.1, 0.08)), film.place((0.2, 0.36))])
        draw.line([(float(x), float(y)) for x, y in corners], fill=60, width=2)
        film.box("pronatorsign", corners, grow=3)
    shade = np.asarray(sheet, np.float32) / 255
    return light + (0.97 - light) * shade


def _chord(radius: Array, u: Array) -> Array:
    """Return half the path through a round rod at the offset `u` from its axis."""
    return np.sqrt(np.maximum(0, np.maximum(radius, 0) ** 2 - u**2)).astype(np.float32)
