"""Pictures for the agent: the running-best curve, and validation misses with their truth."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

from clinloop import delivery
from clinloop.datasets.dataset import Dataset
from clinloop.drawing import drawn_over
from clinloop.errors import NotNow
from clinloop.scoring import metrics, service
from clinloop.scoring.misses import Miss, misses_of
from clinloop.services import Services
from clinloop.store.rows import RunRow

MISSES = 15
"""Pictures of one view of validation errors."""
_ORDER = {
    "classification": "the most confident first",
    "detection": "worst first, green is true, red found",
    "segmentation": "worst first, green is true, red drawn",
}
_TRUE_TEXT = "#1b7f48"
_TILE, _TEXT, _TITLE, _GAP, _COLUMNS = 224, 36, 44, 10, 5


def trajectory(services: Services, task_id: str) -> bytes:
    """Return a PNG of the running best over the runs of a task."""
    from clinloop.report.figures import trajectory_png

    task = services.store.task(task_id)
    runs = services.store.runs(task_id)
    if not any(run.score is not None for run in runs):
        raise NotNow("There is no scored run yet, so there is nothing to draw; start one with run_training.")
    title = metrics.title(task.spec.primary_metric, metrics.scheme_of(task.spec))
    return trajectory_png(delivery.run_summaries(services.store, services.state.task(task_id), task), title)


def errors(services: Services, task_id: str, run: RunRow | None) -> bytes:
    """Return a PNG of the most confident validation misses of a run, each with its truth; costs one error view.

    Raises:
        NotNow: the run has no scores.
        BudgetExceeded: no view is left.
    """
    if run is None or run.mode != "full" or run.status != "succeeded":
        raise NotNow("View 'errors' needs a full run that succeeded; name it with `run`.")
    title, shown = misses_shown(services, task_id, run)
    services.store.spend_error_view(task_id, {"run": run.name, "cases": len(shown)})
    return sheet(title, shown)


def misses_shown(services: Services, task_id: str, run: RunRow) -> tuple[str, list[tuple[Path, Miss]]]:
    """Return a title and the most confident validation misses of a run that succeeded; a view by an agent has to be charged.

    Raises:
        NotNow: it has none.
    """
    task = services.store.task(task_id)
    folder = services.state.task(task_id)
    scheme = metrics.scheme_of(task.spec)
    truth = service.read_truth(folder.data / "val_truth.csv")
    found = service.read_predictions(
        folder.run(run.name).predictions, scheme=scheme, expected=[case.case_id for case in truth]
    )
    points: dict[str, dict[str, float]] = (run.scores or {}).get("operating_points", {})
    missed = misses_of(scheme, truth, found, {name: point["threshold"] for name, point in points.items()})
    if not missed:
        raise NotNow(f"{run.name} has no validation misses.")
    shown = missed[:MISSES]
    dataset = Dataset.load(services.settings.state, task.dataset)
    title = f"{run.name}: {len(shown)} of {len(missed)} validation misses, {_ORDER[scheme.task_type]}"
    return title, [(dataset.image_path(miss.case_id), miss) for miss in shown]


def sheet(title: str, misses: list[tuple[Path, Miss]]) -> bytes:
    """Return a PNG of images, each above what is true and what was said; boxes and masks are drawn, green is true, red was said."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    columns = min(_COLUMNS, max(3, len(misses)))
    rows = -(-len(misses) // columns)
    sheet = Image.new("RGB", (columns * _TILE + _GAP, _TITLE + rows * (_TILE + _TEXT)), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.truetype(_font(), 18), ImageFont.truetype(_font(), 14)
    draw.text((_GAP, 12), title, fill="#333333", font=large)
    for index, (path, miss) in enumerate(misses):
        left, top = _GAP + index % columns * _TILE, _TITLE + index // columns * (_TILE + _TEXT)
        side = _TILE - _GAP
        with Image.open(path) as image:
            tile = ImageOps.contain(drawn_over(image.convert("RGB"), miss), (side, side), Image.Resampling.LANCZOS)
            tile = ImageOps.pad(tile, (side, side), Image.Resampling.LANCZOS, color="#eeeeee")
        sheet.paste(tile, (left, top))
        lines = (miss.true, _TRUE_TEXT if miss.is_drawn else "black"), (miss.said, "#b00020")
        for line, (text, colour) in enumerate(lines):
            while draw.textlength(text, font=small) > side:
                text = text[: max(1, len(text) * 9 // 10 - 1)] + "…"  # noqa: PLW2901
            draw.text((left, top + side + 4 + 18 * line), text, fill=colour, font=small)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _font() -> str:
    """Return the file of DejaVu Sans, which matplotlib brings: the font of Pillow has no letters beyond ASCII."""
    found = importlib.util.find_spec("matplotlib")
    assert found is not None and found.submodule_search_locations
    return str(Path(found.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
