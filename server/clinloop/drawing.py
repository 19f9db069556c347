"""Boxes and masks drawn over an image: green is true, another colour was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clinloop.scoring.misses import Miss
from clinloop.scoring.predictions import Detected, Mask, Prediction
from clinloop.scoring.truth import TruthBox, TruthCase

if TYPE_CHECKING:
    from PIL import Image

_TRUE, _SAID = "#2ca25f", "#e31a1c"


def drawn_over(image: Image.Image, miss: Miss) -> Image.Image:
    """Return an image with the boxes and masks of a miss on it."""
    from PIL import Image, ImageDraw

    for mask, colour in ((miss.true_mask, _TRUE), (miss.said_mask, _SAID)):
        if mask is not None:
            image = Image.composite(
                Image.blend(image, Image.new("RGB", image.size, colour), 0.45), image, _stencil(mask)
            )
    draw = ImageDraw.Draw(image)
    line = max(2, round(max(image.size) / 90))
    for boxes, colour in ((miss.true_boxes, _TRUE), (miss.said_boxes, _SAID)):
        for box in boxes:
            x, y = max(0.0, box.x), max(0.0, box.y)
            corner = min(box.x + box.width, image.width - 1), min(box.y + box.height, image.height - 1)
            if corner[0] > x and corner[1] > y:
                draw.rectangle((x, y, *corner), outline=colour, width=line)
    return image


def _stencil(mask: Mask) -> Image.Image:
    import numpy as np
    from PIL import Image

    values = np.repeat(np.arange(len(mask.counts)) % 2 == 1, mask.counts)
    return Image.fromarray(values.reshape((mask.height, mask.width), order="F"))


def outlined(image: Image.Image, truth: TruthCase, said: Sequence[tuple[Prediction, float, str]]) -> Image.Image:
    """Return a small image with the truth in green and what models said in their colours, as boxes and outlines of masks.

    `said`: prediction, score from which a box is shown, colour. Boxes and masks are in pixels of the image file, whose size `truth` states.
    """
    from PIL import Image, ImageChops, ImageDraw, ImageFilter

    layers: list[tuple[Sequence[TruthBox | Detected], Mask | None, str]] = []
    if truth.boxes is not None or truth.mask is not None:
        mask = Mask(truth.height, truth.width, truth.mask) if truth.mask else None
        layers.append((truth.boxes or (), mask, _TRUE))
    for prediction, least, colour in said:
        if isinstance(prediction, Mask):
            layers.append(((), prediction, colour))
        else:
            boxes = [box for box in prediction if isinstance(box, Detected) and box.score >= least]
            layers.append((boxes, None, colour))
    across, down = image.width / max(truth.width, 1), image.height / max(truth.height, 1)
    draw = ImageDraw.Draw(image)
    for boxes, mask, colour in layers:
        if mask is not None:
            area = _stencil(mask).convert("L").resize(image.size, Image.Resampling.BOX).point([0] * 64 + [255] * 192)
            image.paste(colour, mask=ImageChops.subtract(area, area.filter(ImageFilter.MinFilter(3))))
        for box in boxes:
            left, top = box.x * across, box.y * down
            corner = (left + max(2.0, box.width * across), top + max(2.0, box.height * down))
            draw.rectangle((left, top, *corner), outline=colour, width=1)
    return image
