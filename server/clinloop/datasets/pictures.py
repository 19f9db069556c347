"""Pictures and folders made from stored cases: the gallery, and what predict.py sees."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clinloop.datasets.dataset import MTIME, CaseRow, csv_text

MAX_SIDE = 1600
_LABEL_WIDTH, _GAP, _TITLE = 190, 6, 44
_MAX_ROWS = 30


def contact_sheet(
    classes: Sequence[str], cases: Sequence[CaseRow], counts: Mapping[str, Mapping[str, int]], n_per_class: int
) -> bytes:
    """Return a PNG with one row a class: its name, its counts and n samples; longest side at most MAX_SIDE px."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    shown = list(classes[:_MAX_ROWS])
    cell = min(170, (MAX_SIDE - _TITLE) // len(shown) - _GAP, (MAX_SIDE - _LABEL_WIDTH) // n_per_class - _GAP)
    size = (_LABEL_WIDTH + n_per_class * (cell + _GAP) + _GAP, _TITLE + len(shown) * (cell + _GAP) + _GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(20 if cell >= 60 else 14), ImageFont.load_default(13)
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
            with Image.open(case.image) as image:
                tile = ImageOps.fit(image.convert("RGB"), (cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(tile, (_LABEL_WIDTH + column * (cell + _GAP), top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


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
