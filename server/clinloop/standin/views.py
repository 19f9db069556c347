"""Photographs a painted lesion: pose, skin, light and the usual nuisances (hair, ruler, bubbles, vignette)."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from clinloop.standin.lesions import CANVAS, REACH, Array, Lesion, Rng, f32, noise


def photograph(lesion: Lesion, rng: Rng, *, size: tuple[int, int], dermoscope: bool) -> Image.Image:
    """Return one RGB view of `size` (width, height); `dermoscope` allows the dark round field of contact devices."""
    width, height = size
    short = min(size)
    image = _pose(lesion, rng, size)
    light = 1 + 0.06 * rng.normal() + 0.05 * noise(rng, (height, width), cells=2)
    image *= light[..., None] * (1 + 0.045 * rng.normal(size=3).astype(np.float32))
    overlay = Image.new("L", size)
    draw = ImageDraw.Draw(overlay)
    _hairs(draw, rng, size)
    if rng.random() < 0.12:
        _ruler(draw, rng, size)
    shade = f32(overlay)[..., None] / np.float32(255)
    image += (rng.uniform(0.05, 0.3) - image) * shade
    if rng.random() < 0.15:
        image += _bubbles(rng, size)[..., None] * 0.5
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    aspect = np.float32(max(size) / short)
    distance = np.hypot(x * (width / short), y * (height / short)).astype(np.float32)
    image *= (1 - rng.uniform(0, 0.25) * np.clip(distance / aspect, 0, 1.4) ** 2)[..., None]
    if dermoscope and rng.random() < 0.3:
        field = rng.uniform(1.0, 1.25) * aspect
        image *= np.clip((field - distance) * 12, 0, 1)[..., None]
    image += rng.normal(0, rng.uniform(0.006, 0.02), (height, width, 1)).astype(np.float32)
    return Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))


def _pose(lesion: Lesion, rng: Rng, size: tuple[int, int]) -> Array:
    """Return (height, width, 3): skin, and on it the lesion turned, scaled and moved."""
    width, height = size
    short = min(size)
    angle, zoom = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.2)
    to_canvas = CANVAS / (2 * REACH * lesion.radius * zoom * short)  # canvas pixels per image pixel
    c, s = np.cos(angle) * to_canvas, np.sin(angle) * to_canvas
    centre_x = width / 2 + rng.normal(0, 0.07) * short
    centre_y = height / 2 + rng.normal(0, 0.07) * short
    affine = (c, s, CANVAS / 2 - c * centre_x - s * centre_y, -s, c, CANVAS / 2 + s * centre_x - c * centre_y)
    layer = lesion.layer.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    pixels = f32(layer) * np.float32(1 / 255)
    alpha = pixels[..., 3:]
    mottle = 0.025 * noise(rng, (height, width), cells=5, octaves=2) + 0.012 * noise(rng, (height, width), cells=48)
    flush = 0.02 * noise(rng, (height, width), cells=3)
    skin = lesion.skin * (1 + mottle[..., None]) + flush[..., None] * f32((0.3, -1, -0.8))
    skin += (pixels[..., :3] - skin) * alpha
    return f32(skin)


def _hairs(draw: ImageDraw.ImageDraw, rng: Rng, size: tuple[int, int]) -> None:
    width, height = size
    count = int(rng.poisson(rng.choice([0.0, 1.0, 7.0], p=[0.55, 0.25, 0.2])))
    main = rng.uniform(0, np.pi)
    for _ in range(count):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        angle, bend = main + rng.normal(0, 0.5), rng.normal(0, 0.06)
        points = [(x, y)]
        for _ in range(int(rng.integers(6, 16))):
            x, y, angle = x + 0.05 * width * np.cos(angle), y + 0.05 * width * np.sin(angle), angle + bend
            points.append((x, y))
        draw.line(points, fill=int(rng.integers(130, 240)), width=int(rng.integers(1, 3)))


def _ruler(draw: ImageDraw.ImageDraw, rng: Rng, size: tuple[int, int]) -> None:
    width, height = size
    pitch, top = width * rng.uniform(0.025, 0.05), bool(rng.random() < 0.5)
    for tick in range(int(width / pitch)):
        length = height * (0.07 if tick % 5 == 0 else 0.04)
        x = tick * pitch
        draw.line((x, 0 if top else height - length, x, length if top else height), fill=220, width=1)


def _bubbles(rng: Rng, size: tuple[int, int]) -> Array:
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    for _ in range(int(rng.integers(2, 12))):
        x, y, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(0.006, 0.025) * size[0]
        draw.ellipse((x - r, y - r, x + r, y + r), outline=int(rng.integers(90, 230)))
    return f32(mask) / np.float32(255)
