"""Pictures and folders made from stored cases: the gallery, and what predict.py sees."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from clinloop.datasets.dataset import MTIME
from clinloop.datasets.table import CaseRow, csv_text

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

MAX_SIDE = 1600
_LABEL_WIDTH, _GAP, _TITLE = 190, 6, 44
_TITLE_WIDTH = 240
_MAX_ROWS = 30
COLOURS = ("#f2c200", "#00b8d4", "#e040c8", "#43b02a", "#f4511e", "#8e6cef", "#c0ca33", "#6d4c41", "#1e88e5")
"""Of targets, in their order."""


def contact_sheet(
    classes: Sequence[str],
    cases: Sequence[CaseRow],
    counts: Mapping[str, Mapping[str, int]],
    n_per_class: int,
    targets: Sequence[str] = (),
) -> bytes:
    """Return a PNG with one row a class: its name, its counts and n samples; longest side at most MAX_SIDE px.

    With targets, whole images are shown with their boxes and the outlines of their masks; else the middle of each.
    """
    from PIL import Image, ImageDraw, ImageFont

    shown = list(classes[:_MAX_ROWS])
    cell = min(
        228 if targets else 170,
        (MAX_SIDE - _TITLE) // len(shown) - _GAP,
        (MAX_SIDE - _LABEL_WIDTH) // n_per_class - _GAP,
    )
    size = (_LABEL_WIDTH + n_per_class * (cell + _GAP) + _GAP, _TITLE + len(shown) * (cell + _GAP) + _GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(20 if cell >= 60 else 14), ImageFont.load_default(13)
    if targets:
        _legend(draw, targets, size[0])
    more = f", the first {len(shown)} of {len(classes)} classes" if len(shown) < len(classes) else ""
    draw.text(
        (_GAP * 2, 12),
        f"Training samples by class{more}",
        fill="#333333",
        font=ImageFont.load_default(18),
    )
    for row, name in enumerate(shown):
        top = _TITLE + row * (cell + _GAP)
        draw.line([(0, top - _GAP // 2), (size[0], top - _GAP // 2)], fill="#dddddd")
        draw.text((_GAP * 2, top + max(0, cell // 2 - 22)), _fitted(draw, name, large), fill="black", font=large)
        if cell >= 40:
            facts = ", ".join(f"{split} {count.get(name, 0)}" for split, count in counts.items())
            draw.text((_GAP * 2, top + cell // 2 + 4), facts, fill="#666666", font=small)
        samples = [case for case in cases if case.label == name][:n_per_class]
        for column, case in enumerate(samples):
            tile = _tile(case, cell, targets)
            sheet.paste(tile, (_LABEL_WIDTH + column * (cell + _GAP), top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def thumbnail(case: CaseRow, side: int, targets: Sequence[str]) -> bytes:
    """Return a case as a small square JPEG, boxes and masks drawn in."""
    buffer = io.BytesIO()
    _tile(case, side, targets).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _tile(case: CaseRow, cell: int, targets: Sequence[str]) -> Image.Image:
    """Return a case as a square."""
    from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

    with Image.open(case.image) as opened:
        image = opened.convert("RGB")
    if not targets:
        return ImageOps.fit(image, (cell, cell), Image.Resampling.LANCZOS)
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(small)
    if case.mask is not None:
        with Image.open(case.mask) as mask:
            area = mask.convert("L").resize(size, Image.Resampling.BOX).point([0] * 64 + [255] * 192)
        small.paste(COLOURS[0], mask=ImageChops.subtract(area, area.filter(ImageFilter.MinFilter(3))))
    for box in case.boxes or ():
        colour = COLOURS[targets.index(box.target) % len(COLOURS)]
        left, top = box.x * scale, box.y * scale
        corners = (left, top, left + max(2.0, box.width * scale), top + max(2.0, box.height * scale))
        draw.rectangle(corners, outline=colour, width=2 if cell >= 100 else 1)
    if case.supervision == "image" and cell >= 60:
        font = ImageFont.load_default(11)
        draw.rectangle((0, 0, draw.textlength("label only", font=font) + 7, 16), fill="black")
        draw.text((3, 1), "label only", fill="white", font=font)
    square = Image.new("RGB", (cell, cell), "#e8e8e8")
    square.paste(small, ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return square


def _legend(draw: ImageDraw.ImageDraw, targets: Sequence[str], width: int) -> None:
    """Name the colours of the targets at the right end of the title line, as many as there is room for."""
    from PIL import ImageFont

    font, names = ImageFont.load_default(13), [name[:24] for name in targets[: len(COLOURS)]]
    widths = [draw.textlength(name, font=font) + 24 for name in names]
    while sum(widths) > width - _TITLE_WIDTH - _GAP * 2:
        del names[-1], widths[-1]
    left = width - _GAP * 2 - sum(widths)
    for name, own, colour in zip(names, widths, COLOURS, strict=False):
        draw.rectangle((left, 16, left + 12, 28), outline=colour, width=3)
        draw.text((left + 17, 14), name, fill="#333333", font=font)
        left += own


def prepare_predict_view(cases: Sequence[CaseRow], target: Path, *, new_ids: Mapping[str, str] | None = None) -> None:
    """Make the new folder `target` what predict.py sees at /predict: images/ and cases.csv with case_id and attributes, no labels.

    With `new_ids` (old id to new) the cases are renamed and reordered by their new ids, and the pixels are encoded afresh (PNG, without loss), so that neither
    name, order, time nor bytes of a file tell which case it was. The folder appears under its name when it is complete.

    Raises:
        FileExistsError: the target exists.
    """
    if target.exists():
        raise FileExistsError(target)
    renamed = [(new_ids[case.case_id] if new_ids else case.case_id, case) for case in cases]
    renamed.sort(key=lambda item: item[0])
    building = target.with_name(f".{target.name}-building")
    shutil.rmtree(building, ignore_errors=True)
    images = building / "images"
    images.mkdir(parents=True)

    def write(item: tuple[str, CaseRow]) -> None:
        case_id, case = item
        path = images / (case_id + (".png" if new_ids else case.image.suffix))
        if new_ids:
            _encode_afresh(case.image, path)
        else:
            shutil.copyfile(case.image, path)
        path.chmod(0o644)
        os.utime(path, (MTIME, MTIME))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets go of the interpreter while it decodes and encodes
        list(pool.map(write, renamed))
    attributes = list(cases[0].attributes) if cases else []
    table = building / "cases.csv"
    table.write_text(
        csv_text(["case_id", *attributes], ([case_id, *case.attributes.values()] for case_id, case in renamed)),
        encoding="utf-8",
    )
    table.chmod(0o644)
    for path in (table, images, building):
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (MTIME, MTIME))
    building.rename(target)


def _encode_afresh(source: Path, target: Path) -> None:
    """Write the very pixels under other bytes: without loss, so that the same case gets the same prediction under any name."""
    from PIL import Image

    with Image.open(source) as image:
        image.save(target, "PNG", compress_level=1)


def _fitted(draw: object, text: str, font: object) -> str:
    """Shorten a text until it fits the label column."""
    from PIL import ImageDraw, ImageFont

    assert isinstance(draw, ImageDraw.ImageDraw) and isinstance(font, ImageFont.FreeTypeFont | ImageFont.ImageFont)
    while len(text) > 4 and draw.textlength(text, font=font) > _LABEL_WIDTH - 18:
        text = text[:-2].rstrip() + "…" if not text.endswith("…") else text[:-2] + "…"
    return text
