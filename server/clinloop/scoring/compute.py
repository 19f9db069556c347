"""The jobs of the scoring process: read predictions strictly, score them, compare two models. Imports numpy; the server does not import this."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, cast

import numpy as np

from clinloop.errors import BadInput
from clinloop.scoring.bootstrap import Floats, bootstrap, interval, p_of_gain, p_two_sided
from clinloop.scoring.metrics import OperatingPoint, Scheme, resolve
from clinloop.scoring.operating import fix_operating_points
from clinloop.scoring.parse import parse_predictions, too_large
from clinloop.scoring.predictions import MAX_BYTES, Prediction, Probabilities, max_submission_bytes
from clinloop.scoring.results import ClassRow, Estimate, PairedMetric, ScoreResult
from clinloop.scoring.truth import TruthCase
from clinloop.scoring.weighted import Cases, confusion, evaluate_once, thresholds_of

FEW_GROUPS = 30
FEW_GROUPS_OF_CLASS = 5


class Job(TypedDict):
    """A request to the scoring process."""

    action: Literal["rows", "score", "paired"]
    files: list[int]
    """Open descriptors of predictions files."""
    scheme: dict[str, Any]
    """Fields of a Scheme."""
    issued: list[str] | None
    """rows: ids that must be there; None: any."""
    sizes: dict[str, tuple[int, int]] | None
    """rows: width and height of the image file by case id; None: not checked."""
    truth: list[list[Any]]
    """Fields of TruthCases."""
    metrics: list[str]
    primary: str
    rule: str
    thresholds: list[dict[str, float]] | None
    """paired: operating points by class for each model; None: fixed on these very cases, which are validation cases."""
    resamples: int
    seed: int
    unit: str


def read_rows(job: Job) -> Mapping[str, Prediction]:
    """Return the predictions of a file by case id."""
    return _read(job, scheme_of(job), job["files"][0], job["issued"], job["sizes"])


def scheme_of(job: Job) -> Scheme:
    """Return the scheme of a job."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in job["scheme"].items()
    }
    return Scheme(**fields)


def score(job: Job) -> ScoreResult:
    """Score one file on validation: operating points are fixed here."""
    scheme, names = scheme_of(job), list(dict.fromkeys([job["primary"], *job["metrics"]]))
    for name in names:
        resolve(name, scheme)
    cases, points = _cases(job, scheme, 0)
    classes = scheme.classes
    tables = [f"{family}_{name}" for family in ("auc", "sensitivity", "specificity") for name in classes]
    table = evaluate_once(tables, scheme, cases).reshape(3, len(classes))
    groups_of = [len(np.unique(cases.groups[cases.truth == index])) for index in range(len(classes))]
    resamples = job["resamples"] if cases.n_groups > 1 else 0
    drawn = bootstrap(names, scheme, [cases], resamples=resamples, seed=job["seed"])[0] if resamples else None
    values = evaluate_once(names, scheme, cases)
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
    scheme, names = scheme_of(job), list(dict.fromkeys(job["metrics"]))
    resolved = [resolve(name, scheme).metric for name in names]
    models = [_cases(job, scheme, index)[0] for index in range(2)]
    values = np.stack([evaluate_once(names, scheme, model) for model in models])  # (2, M)
    resamples = job["resamples"] if models[0].n_groups > 1 else 0
    drawn = bootstrap(names, scheme, models, resamples=resamples, seed=job["seed"])  # (2, M, B)
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


def _cases(job: Job, scheme: Scheme, index: int) -> tuple[Cases, dict[str, OperatingPoint]]:
    """Read the file of a model and join it with the truth; the points are those fixed here, if any."""
    truth, position = [TruthCase(*row) for row in job["truth"]], {name: at for at, name in enumerate(scheme.classes)}
    if not truth:
        raise BadInput("There is no case to score.")
    if any(case.label not in position for case in truth):
        raise BadInput("The truth has a label that is not among the classes of the spec.")
    issued = [case.case_id for case in truth]
    if len(set(issued)) != len(issued):
        raise BadInput("The truth names a case twice.")
    if scheme.positive and scheme.positive not in position:
        raise BadInput(f"positive_class {scheme.positive[:80]!r} is none of the classes: {', '.join(scheme.classes)}.")
    rows = cast("Mapping[str, Probabilities]", _read(job, scheme, job["files"][index], issued, None))
    probabilities = np.array([rows[case_id] for case_id in issued], dtype=np.float64)
    labels = np.array([position[case.label] for case in truth], dtype=np.intp)
    # A case without a group is a group of its own; the prefixes keep ids and groups apart.
    names, groups = np.unique(
        [f"g{case.group}" if case.group else f"c{case.case_id}" for case in truth], return_inverse=True
    )
    points: dict[str, OperatingPoint] = {}
    if job["thresholds"] is None:
        points = fix_operating_points(job["rule"], scheme.classes, labels, probabilities)
        thresholds = thresholds_of(points, scheme.classes)
    else:
        thresholds = _given(job["thresholds"][index], scheme.classes)
    cases = Cases(
        truth=labels,
        probabilities=probabilities,
        groups=groups.astype(np.intp),
        n_groups=len(names),
        thresholds=thresholds,
        positive=position[scheme.positive] if scheme.positive else None,
    )
    return cases, points


def _given(thresholds: Mapping[str, float], classes: Sequence[str]) -> Floats:
    return np.array([thresholds.get(name, np.nan) for name in classes])


def _read(
    job: Job,
    scheme: Scheme,
    file: int,
    issued: Sequence[str] | None,
    sizes: Mapping[str, tuple[int, int]] | None,
) -> Mapping[str, Prediction]:
    """Return the predictions that a descriptor holds."""
    data = _content(file, MAX_BYTES if issued is None else max_submission_bytes(scheme, len(issued)))
    match scheme.task_type:
        case "classification":
            parsed = parse_predictions(data, scheme.classes, issued)
            return dict(zip(parsed.case_ids, parsed.rows, strict=True))
        case "detection" | "segmentation":
            raise BadInput(f"{scheme.task_type} cannot be scored yet.")


def _content(file: int, cap: int) -> bytes:
    """Read a descriptor up to one byte more than any valid file has."""
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
