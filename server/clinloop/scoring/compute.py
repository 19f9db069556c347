"""The jobs of the scoring process: read predictions strictly, score them, compare two models. Imports numpy; the server does not import this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import numpy as np

from clinloop.scoring.analysis import Analysis
from clinloop.scoring.bootstrap import bootstrap, p_of_gain, p_two_sided
from clinloop.scoring.estimates import estimate
from clinloop.scoring.evaluate import evaluate_once
from clinloop.scoring.joining import join, known_truth, read, read_for
from clinloop.scoring.metrics import Scheme, resolve
from clinloop.scoring.predictions import Prediction
from clinloop.scoring.proportions import wilson_of
from clinloop.scoring.results import PairedMetric, ScoreResult
from clinloop.scoring.tables import tables_of


class Job(TypedDict):
    """A request to the scoring process."""

    action: Literal["rows", "score", "paired", "analyse", "shortcuts"]
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
    p_values: dict[str, float | None]
    """analyse: of the reported metrics, in their order."""
    resamples: int
    seed: int
    unit: str


def read_rows(job: Job) -> Mapping[str, Prediction]:
    """Return the predictions of a file by case id."""
    return read(scheme_of(job), job["files"][0], job["issued"], job["sizes"])


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
    truth = known_truth(job["truth"], scheme)
    cases, points = join(truth, scheme, job["files"][0], rule=job["rule"])
    resamples = job["resamples"] if cases.n_groups > 1 else 0
    drawn = bootstrap(names, scheme, [cases], resamples=resamples, seed=job["seed"])[0] if resamples else None
    values = evaluate_once(names, scheme, cases)
    tables = tables_of(cases, scheme, points)
    return ScoreResult(
        primary_metric=job["primary"],
        metrics={
            name: estimate(values[index], None if drawn is None else drawn[index], wilson_of(name, scheme, cases))
            for index, name in enumerate(names)
        },
        operating_points=points,
        per_class=tables.rows,
        confusion=tables.confusion,
        confusion_is=tables.confusion_is,
        n=len(cases.groups),
        groups=cases.n_groups,
        resamples=resamples,
        seed=job["seed"],
        notes=tables.notes,
    )


def paired(job: Job) -> list[PairedMetric]:
    """Compare two files, the initial and the refined model, on the same resamples."""
    scheme, names = scheme_of(job), list(dict.fromkeys(job["metrics"]))
    resolved = [resolve(name, scheme).metric for name in names]
    truth, thresholds = known_truth(job["truth"], scheme), job["thresholds"]
    models = [
        join(
            truth,
            scheme,
            job["files"][index],
            rule=job["rule"],
            thresholds=None if thresholds is None else thresholds[index],
        )[0]
        for index in range(2)
    ]
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
                initial=estimate(values[0, index], drawn[0, index], wilson_of(name, scheme, models[0])),
                refined=estimate(values[1, index], drawn[1, index], wilson_of(name, scheme, models[1])),
                difference=estimate(values[1, index] - values[0, index], difference),
                p=p_two_sided(difference) if defined else None,
                p_gain=p_of_gain(difference if metric.direction == "higher" else -difference) if defined else None,
                n=len(models[0].groups),
                groups=models[0].n_groups,
                unit=job["unit"],
                resamples=resamples,
                seed=job["seed"],
            )
        )
    return result


def analyse(job: Job) -> Analysis:
    """Analyse two files, the initial and the refined model, beyond their metrics, each at its operating points."""
    from clinloop.scoring.analyse import Predicted  # late: no other job needs it
    from clinloop.scoring.analyse import analyse as put_together

    scheme = scheme_of(job)
    resolve(job["primary"], scheme)
    truth, thresholds = known_truth(job["truth"], scheme), job["thresholds"] or [{}, {}]
    initial, refined = (
        Predicted(read_for(truth, scheme, job["files"][index]), thresholds[index]) for index in range(2)
    )
    return put_together(
        truth,
        scheme,
        initial,
        refined,
        primary=job["primary"],
        p_values=job["p_values"],
        resamples=job["resamples"],
        seed=job["seed"],
    )
