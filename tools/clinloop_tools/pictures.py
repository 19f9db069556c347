"""Pictures for the agent: the running-best curve, and validation misses with their truth."""

from __future__ import annotations

import csv
import io

from clinloop import delivery
from clinloop.datasets.dataset import Dataset
from clinloop.errors import NotNow
from clinloop.scoring import classification, service
from clinloop.services import Services
from clinloop.store.rows import RunRow

MISSES = 15
"""Pictures of one view of validation errors."""
_TILE, _TEXT, _COLUMNS = 224, 40, 5


def trajectory(services: Services, task_id: str) -> bytes:
    """Return a PNG of the running best over the runs of a task."""
    from clinloop.report.figures import trajectory_png

    task = services.store.task(task_id)
    runs = services.store.runs(task_id)
    if not any(run.score is not None for run in runs):
        raise NotNow("There is no scored run yet, so there is nothing to draw; start one with run_training.")
    title = classification.title(task.spec.primary_metric, list(task.spec.target_classes))
    return trajectory_png(delivery.run_summaries(services.store, services.state.task(task_id), task), title)


def errors(services: Services, task_id: str, run: RunRow | None) -> bytes:
    """Return a PNG of the most confident validation misses of a run, each with its truth; costs one error view.

    Raises:
        NotNow: the run has no scores.
        BudgetExceeded: no view is left.
    """
    if run is None or run.mode != "full" or run.status != "succeeded":
        raise NotNow("View 'errors' needs a full run that succeeded; name it with `run`.")
    from PIL import Image, ImageDraw

    task = services.store.task(task_id)
    folder = services.state.task(task_id)
    classes = list(task.spec.target_classes)
    with (folder.data / "val_truth.csv").open(encoding="utf-8", newline="") as file:
        truth = {row["case_id"]: row["label"] for row in csv.DictReader(file)}
    misses: list[tuple[float, str, str]] = []
    for case_id, row in service.read_probabilities(folder.run(run.name).predictions, classes).items():
        said = max(range(len(classes)), key=row.__getitem__)
        if classes[said] != truth[case_id]:
            misses.append(
                (
                    row[said] - row[classes.index(truth[case_id])],
                    case_id,
                    f"{truth[case_id]}, said {classes[said]} {row[said]:.2f}",
                )
            )
    if not misses:
        raise NotNow(f"{run.name} has no validation misses.")
    shown = sorted(misses, reverse=True)[:MISSES]
    services.store.spend_error_view(task_id, {"run": run.name, "cases": len(shown)})
    dataset = Dataset.load(services.settings.state, task.dataset)
    rows = -(-len(shown) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE, rows * (_TILE + _TEXT)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (_, case_id, text) in enumerate(shown):
        left, top = index % _COLUMNS * _TILE, index // _COLUMNS * (_TILE + _TEXT)
        with Image.open(dataset.image_path(case_id)) as image:
            tile = image.convert("RGB")
            tile.thumbnail((_TILE - 8, _TILE - 8))
        sheet.paste(tile, (left + (_TILE - tile.width) // 2, top + 4))
        draw.text((left + 8, top + _TILE), f"true {text}", fill="black", font_size=15)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
