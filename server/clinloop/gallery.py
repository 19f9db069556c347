"""The validation cases that a task gained and lost: the answers of both models beside the truth, with small pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from clinloop.context import TaskContext
from clinloop.drawing import outlined
from clinloop.report.cases import Gallery, GalleryItem
from clinloop.report.figures import DARK
from clinloop.scoring import service
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.misses import Miss, misses_of
from clinloop.scoring.predictions import Prediction, Probabilities
from clinloop.scoring.truth import TruthCase
from clinloop.store.store import Store

SHOWN = 12
"""Pictures of cases gained, and as many of cases lost."""
SIDE = 112
"""Pixels of the longer side of a picture."""


class Answers(NamedTuple):
    """What one model said about the validation cases."""

    predictions: Mapping[str, Prediction]
    thresholds: Mapping[str, float]
    """Operating points by class or target."""


class Changed(NamedTuple):
    """A case that one model gets right and the other wrong."""

    truth: TruthCase
    miss: Miss
    """Of the model that gets it wrong."""


def gained_and_lost(here: TaskContext, store: Store, initial: str, refined: str) -> Gallery | None:
    """Return the gallery of a task for two of its runs; None where they are one run, or where predictions are gone."""
    files = [here.folder.run(name).predictions for name in (initial, refined)]
    if initial == refined or not all(file.is_file() for file in files):
        return None
    truth = service.read_truth(here.folder.data / "val_truth.csv")
    expected = [case.case_id for case in truth]
    before, after = (
        Answers(
            service.read_predictions(file, scheme=here.scheme, expected=expected),
            {
                name: point["threshold"]
                for name, point in (store.run(here.task.id, run).scores or {}).get("operating_points", {}).items()
            },
        )
        for run, file in zip((initial, refined), files, strict=True)
    )
    gained, lost = changed_cases(here.scheme, truth, before, after)
    if not here.settings.report_pictures:
        return Gallery(
            n=len(truth), gained=len(gained), lost=len(lost), note="Pictures are switched off on this server."
        )
    images = {case.case_id: case.image for case in here.val_cases}
    items = [
        _item(here.scheme, outcome, case, before, after, images[case.truth.case_id])
        for outcome, cases in (("gained", gained), ("lost", lost))
        for case in cases[:SHOWN]
    ]
    drawn = here.scheme.task_type != "classification"
    note = "Drawn in: green is true, amber the initial model, blue the refined one." if drawn else ""
    return Gallery(n=len(truth), gained=len(gained), lost=len(lost), items=tuple(items), note=note)


def changed_cases(
    scheme: Scheme, truth: Sequence[TruthCase], before: Answers, after: Answers
) -> tuple[list[Changed], list[Changed]]:
    """Return the cases that only the initial and that only the refined model gets wrong, the worst first, each decided at the model's own threshold."""
    cases = {case.case_id: case for case in truth}
    missed, still = (misses_of(scheme, truth, answers.predictions, answers.thresholds) for answers in (before, after))
    wrong_before, wrong_after = ({miss.case_id for miss in misses} for misses in (missed, still))
    return (
        [Changed(cases[miss.case_id], miss) for miss in missed if miss.case_id not in wrong_after],
        [Changed(cases[miss.case_id], miss) for miss in still if miss.case_id not in wrong_before],
    )


def thumbnail(
    path: Path, truth: TruthCase, said: Sequence[tuple[Prediction, float, str]], *, drawn: bool = True
) -> str:
    """Return an image as a small JPEG in base64, with boxes and masks drawn in."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        small = ImageOps.contain(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    if drawn:
        small = outlined(small, truth, said)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80, optimize=True, subsampling=0)  # else thin lines lose their colour
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _item(scheme: Scheme, outcome: str, case: Changed, before: Answers, after: Answers, path: Path) -> GalleryItem:
    case_id = case.truth.case_id
    right_answers = after if outcome == "gained" else before
    right = "right"
    if scheme.task_type == "classification":
        row = cast("Probabilities", right_answers.predictions[case_id])
        right = f"{case.truth.label} ({row[scheme.classes.index(case.truth.label)]:.2f})"
    initial, refined = (case.miss.said, right) if outcome == "gained" else (right, case.miss.said)
    said = [
        (answers.predictions[case_id], answers.thresholds.get(scheme.detected, 0.0), colour)
        for answers, colour in ((before, DARK.initial), (after, DARK.refined))
    ]
    drawn = scheme.task_type != "classification"
    return GalleryItem(
        case_id=case_id,
        outcome="gained" if outcome == "gained" else "lost",
        truth=case.miss.true if drawn else case.truth.label,
        initial=initial,
        refined=refined,
        picture=thumbnail(path, case.truth, said, drawn=drawn),
    )
