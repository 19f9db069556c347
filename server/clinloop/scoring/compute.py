"""The jobs of the scoring process: read predictions strictly, score them, compare two models. Imports numpy; the server does not import this."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

import numpy as np

from clinloop.errors import BadInput
from clinloop.scoring.bootstrap import Floats, bootstrap, interval, p_of_gain, p_two_sided
from clinloop.scoring.classification import OperatingPoint, resolve
from clinloop.scoring.operating import fix_operating_points
from clinloop.scoring.parse import MAX_BYTES, max_bytes, parse_predictions, too_large
from clinloop.scoring.results import ClassRow, Estimate, PairedMetric, ScoreResult
from clinloop.scoring.weighted import Cases, confusion, evaluate_once, thresholds_of

FEW_GROUPS = 30
FEW_GROUPS_OF_CLASS = 5


class Job(TypedDict):
    """A request to the scoring process."""

    action: Literal["rows", "score", "paired"]
    files: list[int]
    """Open descriptors of predictions files."""
    classes: list[str]
    issued: list[str] | None
    """rows: ids that must be there; None: any."""
    truth: list[tuple[str, str, str]]
    """case_id, group, label."""
    metrics: list[str]
    primary: str
    rule: str
    thresholds: list[dict[str, float]] | None
    """paired: operating points by class for each model; None: fixed on these very cases, which are validation cases."""
    positive_class: str | None
    resamples: int
    seed: int
    unit: str


def read_rows(job: Job) -> dict[str, tuple[float, ...]]:
    """Return the probabilities of a file by case id."""
    parsed = parse_predictions(_content(job["files"][0], job["classes"], job["issued"]), job["classes"], job["issued"])
    return dict(zip(parsed.case_ids, parsed.rows, strict=True))


def score(job: Job) -> ScoreResult:
    """Score one file on validation: operating points are fixed here."""
    classes, names = job["classes"], list(dict.fromkeys([job["primary"], *job["metrics"]]))
    for name in names:
        resolve(name, classes)
    cases, points = _cases(job, 0)
    tables = [f"{family}_{name}" for family in ("auc", "sensitivity", "specificity") for name in classes]
    table = evaluate_once(tables, classes, cases).reshape(3, len(classes))
    groups_of = [len(np.unique(cases.groups[cases.truth == index])) for index in range(len(classes))]
    resamples = job["resamples"] if cases.n_groups > 1 else 0
    drawn = bootstrap(names, classes, [cases], resamples=resamples, seed=job["seed"])[0] if resamples else None
    values = evaluate_once(names, classes, cases)
    return ScoreResult(
        primary_metric=job["primary"],
        metrics={
            name: _estimate(values[index], None if drawn is None else drawn[index]) for index, name in enumerate(names)
        },
        operating_points=points,
        per_class=[
            ClassRow(
                class_name=name,
                n=int((cases.truth == index).sum()),
                groups=groups_of[index],
                auc=_or_none(table[0, index]),
                sensitivity=_or_none(table[1, index]),
                specificity=_or_none(table[2, index]),
            )
            for index, name in enumerate(classes)
        ],
        confusion=confusion(cases),
        n=len(cases.truth),
        groups=cases.n_groups,
        resamples=resamples,
        seed=job["seed"],
        notes=_notes(classes, cases.n_groups, groups_of),
    )


def paired(job: Job) -> list[PairedMetric]:
    """Compare two files, the initial and the refined model, on the same resamples."""
    classes, names = job["classes"], list(dict.fromkeys(job["metrics"]))
    resolved = [resolve(name, classes).metric for name in names]
    models = [_cases(job, index)[0] for index in range(2)]
    values = np.stack([evaluate_once(names, classes, model) for model in models])  # (2, M)
    resamples = job["resamples"] if models[0].n_groups > 1 else 0
    drawn = bootstrap(names, classes, models, resamples=resamples, seed=job["seed"])  # (2, M, B)
    result: list[PairedMetric] = []
    for index, (name, metric) in enumerate(zip(names, resolved, strict=True)):
        difference = drawn[1, index] - drawn[0, index]
        defined = not np.isnan(values[:, index]).any()
        result.append(
            PairedMetric(
                name=name,
                direction=metric.direction,
                initial=_estimate(values[0, index], drawn[0, index]),
                refined=_estimate(values[1, index], drawn[1, index]),
                difference=_estimate(values[1, index] - values[0, index], difference),
                p=p_two_sided(difference) if defined else None,
                p_gain=p_of_gain(difference if metric.direction == "higher" else -difference) if defined else None,
                n=len(models[0].truth),
                groups=models[0].n_groups,
                unit=job["unit"],
                resamples=resamples,
                seed=job["seed"],
            )
        )
    return result


def _cases(job: Job, index: int) -> tuple[Cases, dict[str, OperatingPoint]]:
    """Read the file of a model and join it with the truth; the points are those fixed here, if any."""
    classes, truth = job["classes"], job["truth"]
    position = {name: place for place, name in enumerate(classes)}
    if not truth:
        raise BadInput("There is no case to score.")
    if any(label not in position for _, _, label in truth):
        raise BadInput("The truth has a label that is not among the classes of the spec.")
    issued = [case_id for case_id, _, _ in truth]
    if len(set(issued)) != len(issued):
        raise BadInput("The truth names a case twice.")
    rows = read_rows({**job, "files": [job["files"][index]], "issued": issued})
    probabilities = np.array([rows[case_id] for case_id in issued], dtype=np.float64)
    labels = np.array([position[label] for _, _, label in truth], dtype=np.intp)
    # A case without a group is a group of its own; the prefixes keep ids and groups apart.
    names, groups = np.unique(
        [f"g{group}" if group else f"c{case_id}" for case_id, group, _ in truth], return_inverse=True
    )
    points: dict[str, OperatingPoint] = {}
    if job["thresholds"] is None:
        points = fix_operating_points(job["rule"], classes, labels, probabilities)
        thresholds = thresholds_of(points, classes)
    else:
        thresholds = _given(job["thresholds"][index], classes)
    positive = job["positive_class"]
    if positive is not None and positive not in position:
        raise BadInput(f"positive_class {positive[:80]!r} is none of the classes: {', '.join(classes)}.")
    cases = Cases(
        truth=labels,
        probabilities=probabilities,
        groups=groups.astype(np.intp),
        n_groups=len(names),
        thresholds=thresholds,
        positive=None if positive is None else position[positive],
    )
    return cases, points


def _given(thresholds: Mapping[str, float], classes: Sequence[str]) -> Floats:
    return np.array([thresholds.get(name, np.nan) for name in classes])


def _content(file: int, classes: Sequence[str], issued: Sequence[str] | None) -> bytes:
    """Read a descriptor up to one byte more than any valid file has."""
    cap = MAX_BYTES if issued is None else max_bytes(len(issued), len(classes))
    size = os.fstat(file).st_size
    if size > cap:
        raise too_large(size, cap)
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, "rb", closefd=False) as stream:
        return stream.read(cap + 1)


def _notes(classes: Sequence[str], n_groups: int, groups_of: Sequence[int]) -> list[str]:
    notes: list[str] = []
    if n_groups < FEW_GROUPS:
        notes.append(f"Only {n_groups} groups: intervals and p-values are unreliable.")
    if empty := [name for name, count in zip(classes, groups_of, strict=True) if count == 0]:
        notes.append(
            f"Means over classes leave out {', '.join(empty)}: {len(classes) - len(empty)} of {len(classes)} have cases."
        )
    few = [
        f"{name} ({count})" for name, count in zip(classes, groups_of, strict=True) if 0 < count < FEW_GROUPS_OF_CLASS
    ]
    if few:
        notes.append(
            f"Fewer than {FEW_GROUPS_OF_CLASS} groups have a case of {', '.join(few)}: what depends on them is unreliable."
        )
    return notes


def _estimate(value: float, drawn: Floats | None) -> Estimate:
    found = _or_none(value)
    if found is None or drawn is None or not len(drawn):
        return Estimate(found)
    limits = interval(drawn)
    undefined = int(np.isnan(drawn).sum())
    return Estimate(found, None, None, undefined) if limits is None else Estimate(found, *limits, undefined)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
