"""Pictures for the agent: the running-best curve, and validation misses with their truth."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

from clinloop import delivery
from clinloop.datasets.dataset import Dataset
from clinloop.errors import NotNow
from clinloop.scoring import metrics, service
from clinloop.scoring.metrics import scheme_of
from clinloop.services import Services
from clinloop.store.rows import RunRow
from clinloop_tools.misses import Miss, find_misses

if TYPE_CHECKING:
    from PIL import Image

MISSES = 15
"""Pictures of one view of validation errors."""
_TILE, _TEXT, _TITLE, _GAP, _COLUMNS = 224, 36, 44, 10, 5
_TRUE, _SAID = "#12a150", "#e5173f"


def trajectory(services: Services, task_id: str) -> bytes:
    """Return a PNG of the running best over the runs of a task."""
    from clinloop.report.figures import trajectory_png

    task = services.store.task(task_id)
    runs = services.store.runs(task_id)
    if not any(run.score is not None for run in runs):
        raise NotNow("There is no scored run yet, so there is nothing to draw; start one with run_training.")
    title = metrics.title(task.spec.primary_metric, scheme_of(task.spec))
    return trajectory_png(delivery.run_summaries(services.store, services.state.task(task_id), task), title)


def errors(services: Services, task_id: str, run: RunRow | None) -> bytes:
    """Return a PNG of the most confident validation misses of a run, each with its truth; costs one error view.

    Raises:
        NotNow: the run has no scores.
        BudgetExceeded: no view is left.
    """
    if run is None or run.mode != "full" or run.status != "succeeded":
        raise NotNow("View 'errors' needs a full run that succeeded; name it with `run`.")
    task = services.store.task(task_id)
    folder = services.state.task(task_id)
    scheme, truth = scheme_of(task.spec), service.read_truth(folder.data / "val_truth.csv")
    found = service.read_predictions(
        folder.run(run.name).predictions, scheme=scheme, expected=[case.case_id for case in truth]
    )
    points = (run.scores or {}).get("operating_points", {})
    threshold = points.get(scheme.detected, {}).get("threshold", 0.5) if scheme.task_type == "detection" else 0.5
    misses = find_misses(scheme, truth, found, threshold)
    if not misses:
        raise NotNow(f"{run.name} has no validation misses.")
    shown = misses[:MISSES]
    services.store.spend_error_view(task_id, {"run": run.name, "cases": len(shown)})
    dataset = Dataset.load(services.settings.state, task.dataset)
    worst = "the most confident" if scheme.task_type == "classification" else "the worst"
    title = f"{run.name}: {len(shown)} of {len(misses)} validation misses, {worst} first"
    title += "" if scheme.task_type == "classification" else "; green: the truth, red: predicted"
    return _sheet(title, [(dataset.image_path(miss.case_id), miss) for miss in shown])


def _sheet(title: str, misses: list[tuple[Path, Miss]]) -> bytes:
    """Return a PNG of images, each above what it is and what it was taken for."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    columns = min(_COLUMNS, max(3, len(misses)))
    rows = -(-len(misses) // columns)
    sheet = Image.new("RGB", (columns * _TILE + _GAP, _TITLE + rows * (_TILE + _TEXT)), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.truetype(_font(), 18), ImageFont.truetype(_font(), 14)
    while draw.textlength(title, font=large) > sheet.width - 2 * _GAP and large.size > 11:
        large = ImageFont.truetype(_font(), large.size - 1)
    draw.text((_GAP, 12), title, fill="#333333", font=large)
    for index, (path, miss) in enumerate(misses):
        left, top = _GAP + index % columns * _TILE, _TITLE + index // columns * (_TILE + _TEXT)
        side = _TILE - _GAP
        with Image.open(path) as image:
            marked = _marked(image.convert("RGB"), miss, side)
            tile = ImageOps.pad(marked, (side, side), Image.Resampling.LANCZOS, color="#eeeeee")
        sheet.paste(tile, (left, top))
        for line, (text, colour) in enumerate(((miss.true, "black"), (miss.said, "#b00020"))):
            while draw.textlength(text, font=small) > side:
                text = text[: max(1, len(text) * 9 // 10 - 1)] + "…"  # noqa: PLW2901
            draw.text((left, top + side + 4 + 18 * line), text, fill=colour, font=small)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _marked(image: Image.Image, miss: Miss, side: int) -> Image.Image:
    """Return an image at the size of its tile with boxes drawn as frames and masks as tints: green the truth, red the prediction."""
    from PIL import Image, ImageDraw

    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    result = image.resize(size, Image.Resampling.LANCZOS)
    for mask, colour in ((miss.true_mask, _TRUE), (miss.said_mask, _SAID)):
        if mask is not None:
            from clinloop.scoring.rle import mask_of

            shape = Image.fromarray(mask_of(mask.counts, mask.height, mask.width)).convert("L").resize(size)
            result.paste(Image.new("RGB", size, colour), mask=shape.point(lambda value: value * 2 // 5))
    draw = ImageDraw.Draw(result)
    for boxes, colour in ((miss.true_boxes, _TRUE), (miss.said_boxes, _SAID)):
        for x, y, width, height in boxes:
            right, bottom = (x + max(width, 0)) * scale, (y + max(height, 0)) * scale
            draw.rectangle((x * scale, y * scale, right, bottom), outline=colour, width=2)
    return result


def _font() -> str:
    """Return the file of DejaVu Sans, which matplotlib brings: the font of Pillow has no letters beyond ASCII."""
    found = importlib.util.find_spec("matplotlib")
    assert found is not None and found.submodule_search_locations
    return str(Path(found.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
