"""Scoring as the supervisor calls it: files in, plain values out; untrusted bytes are parsed in a capped child process only.

This module imports no numpy. A predictions file may be a Path (then it must be a regular file with one link, never a symbolic link, a
pipe or a device) or bytes that were read already.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, TypeVar

from clinloop.errors import BadInput, BadPredictions, Refusal
from clinloop.scoring import acceptance
from clinloop.scoring.acceptance import Decision, Look, Mode, Taken, next_look
from clinloop.scoring.metrics import DEFAULT_RULES, OperatingPoint, Scheme, is_higher_better
from clinloop.scoring.predictions import (
    TOLERANCES,
    Detected,
    Detections,
    Mask,
    Prediction,
    Probabilities,
    difference,
    max_submission_bytes,
    predictions_bytes,
    probabilities_csv,
)
from clinloop.scoring.results import ClassRow, Estimate, PairedMetric, ScoreResult
from clinloop.scoring.truth import TruthBox, TruthCase, read_truth, truth_csv

__all__ = [
    "CHILD_LIMITS",
    "DEFAULT_RULES",
    "TOLERANCES",
    "ChildLimits",
    "ClassRow",
    "Decision",
    "Detected",
    "Detections",
    "Estimate",
    "FinalMetric",
    "Look",
    "Mask",
    "OperatingPoint",
    "PairedMetric",
    "Prediction",
    "Probabilities",
    "Scheme",
    "ScoreResult",
    "Taken",
    "TruthBox",
    "TruthCase",
    "compare",
    "decide",
    "difference",
    "final_scores",
    "is_higher_better",
    "max_submission_bytes",
    "next_look",
    "predictions_bytes",
    "probabilities_csv",
    "read_predictions",
    "read_probabilities",
    "read_truth",
    "score_predictions",
    "truth_csv",
]

FinalMetric = PairedMetric
Source = Path | bytes
Truth = Path | Sequence[TruthCase]
"""A server-side truth file, or its cases."""
Points = Mapping[str, OperatingPoint | Mapping[str, object]]
"""Operating points by class, as values or as they come back from JSON."""

RESAMPLES_INTERVAL = 2_000
RESAMPLES_P = 10_000


class ChildLimits(NamedTuple):
    """Caps of one scoring process."""

    memory_bytes: int = 4 << 30
    """Address space; numpy alone maps about 1 GiB."""
    seconds: int = 600
    """Wall-clock time."""


CHILD_LIMITS = ChildLimits()
_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def score_predictions(
    predictions: Source,
    truth: Truth,
    *,
    scheme: Scheme,
    metrics: Sequence[str],
    primary: str,
    operating_rule: str = "",
    intervals: bool = True,
    resamples: int = RESAMPLES_INTERVAL,
    seed: int = 0,
    limits: ChildLimits = CHILD_LIMITS,
) -> ScoreResult:
    """Score validation predictions; the operating point of each class is fixed on them (rule "": the task type's default).

    Raises:
        BadPredictions: the file breaks its contract; says how, and what is valid.
        BadInput: unknown metric, rule or class.
        Refusal: the scoring process ended without an answer.
    """
    job = _job(
        "score",
        truth=truth,
        scheme=scheme,
        metrics=metrics,
        primary=primary,
        rule=operating_rule or DEFAULT_RULES[scheme.task_type],
        resamples=resamples if intervals else 0,
        seed=seed,
    )
    return _run(job, [predictions], limits, ScoreResult)


def compare(
    initial: Source,
    refined: Source,
    truth: Truth,
    *,
    scheme: Scheme,
    metrics: Sequence[str],
    operating_rule: str = "",
    operating_points: tuple[Points, Points] | None = None,
    resamples: int = RESAMPLES_P,
    seed: int = 0,
    unit: str = "group",
    limits: ChildLimits = CHILD_LIMITS,
) -> list[PairedMetric]:
    """Compare two models on the same cases and the same resamples, in the order of `metrics`.

    Without `operating_points` they are fixed by the rule on these very cases, so these must be validation cases.

    Raises:
        BadPredictions, BadInput, Refusal: as `score_predictions`.
    """
    job = _job(
        "paired",
        truth=truth,
        scheme=scheme,
        metrics=metrics,
        rule=operating_rule or DEFAULT_RULES[scheme.task_type],
        thresholds=None if operating_points is None else [_thresholds(points) for points in operating_points],
        resamples=resamples,
        seed=seed,
        unit=unit,
    )
    return _run(job, [initial, refined], limits, list[PairedMetric])


def decide(
    predictions: Source,
    incumbent: Source | None,
    truth: Truth,
    *,
    scheme: Scheme,
    primary: str,
    guards: Mapping[str, float] | None = None,
    mode: Mode = "guarded",
    operating_rule: str = "",
    look: Look | None = None,
    resamples: int = RESAMPLES_P,
    seed: int = 0,
    limits: ChildLimits = CHILD_LIMITS,
) -> Decision:
    """Decide on validation whether a run replaces the incumbent (None: there is none); `guards` maps metrics to margins.

    Raises:
        BadPredictions, BadInput, Refusal: as `score_predictions`.
    """
    if incumbent is None:
        return acceptance.decide(mode, None)
    margins = dict(guards or {})
    pairs = compare(
        incumbent,
        predictions,
        truth,
        scheme=scheme,
        metrics=list(dict.fromkeys([primary, *margins])),
        operating_rule=operating_rule or DEFAULT_RULES[scheme.task_type],
        resamples=resamples,
        seed=seed,
        limits=limits,
    )
    guarding = [pair for pair in pairs if pair.name in margins]
    return acceptance.decide(mode, pairs[0], guards=guarding, margins=margins, look=look)


def final_scores(
    initial: Source,
    refined: Source,
    truth: Truth,
    *,
    scheme: Scheme,
    metrics: Sequence[str],
    operating_points_initial: Points,
    operating_points_refined: Points,
    resamples: int = RESAMPLES_P,
    seed: int = 0,
    unit: str = "group",
    limits: ChildLimits = CHILD_LIMITS,
) -> list[FinalMetric]:
    """Score two models on the test set, each at the operating points that were fixed on validation; never fixes any.

    Raises:
        BadPredictions, BadInput, Refusal: as `score_predictions`.
    """
    return compare(
        initial,
        refined,
        truth,
        scheme=scheme,
        metrics=metrics,
        operating_points=(operating_points_initial, operating_points_refined),
        resamples=resamples,
        seed=seed,
        unit=unit,
        limits=limits,
    )


def read_predictions(
    predictions: Source,
    *,
    scheme: Scheme,
    expected: Sequence[str] | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    limits: ChildLimits = CHILD_LIMITS,
) -> dict[str, Prediction]:
    """Return the predictions by case id: of a classification or segmentation file in its order, of detections in the order of `expected`.

    expected: the ids that must be there, each once; of detections a case without a box is (), and only these ids may occur.
    sizes: width and height of the image file by case id; a mask of another size is an offence.

    Raises:
        BadPredictions, Refusal: as `score_predictions`.
    """
    issued = None if expected is None else list(expected)
    job = _job("rows", truth=(), scheme=scheme, issued=issued, sizes=None if sizes is None else dict(sizes))
    match scheme.task_type:
        case "classification":
            return {**_run(job, [predictions], limits, dict[str, Probabilities])}
        case "detection":
            return {**_run(job, [predictions], limits, dict[str, Detections])}
        case "segmentation":
            return {**_run(job, [predictions], limits, dict[str, Mask])}


def read_probabilities(
    predictions: Source,
    *,
    scheme: Scheme,
    expected: Sequence[str] | None = None,
    limits: ChildLimits = CHILD_LIMITS,
) -> dict[str, Probabilities]:
    """Return the probabilities of a classification file; otherwise as `read_predictions`."""
    issued = None if expected is None else list(expected)
    return _run(_job("rows", truth=(), scheme=scheme, issued=issued), [predictions], limits, dict[str, Probabilities])


def _job(
    action: str,
    *,
    truth: Truth,
    scheme: Scheme,
    metrics: Sequence[str] = (),
    primary: str = "",
    rule: str = "youden",
    thresholds: list[dict[str, float]] | None = None,
    issued: list[str] | None = None,
    sizes: dict[str, tuple[int, int]] | None = None,
    resamples: int = 0,
    seed: int = 0,
    unit: str = "group",
) -> dict[str, object]:
    return {
        "action": action,
        "truth": _truth_rows(truth),
        "scheme": asdict(scheme),
        "metrics": list(metrics),
        "primary": primary,
        "rule": rule,
        "thresholds": thresholds,
        "issued": issued,
        "sizes": sizes,
        "resamples": resamples,
        "seed": seed,
        "unit": unit,
    }


def _truth_rows(truth: Truth) -> list[list[object]]:
    cases = read_truth(truth) if isinstance(truth, Path) else truth
    return [[*case[:-1], dict(case.attributes)] for case in cases]


def _thresholds(points: Points) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, point in points.items():
        threshold = point.threshold if isinstance(point, OperatingPoint) else point["threshold"]
        if not isinstance(threshold, (int, float)):
            raise BadInput(f"The operating point of {name[:80]!r} has no threshold.")
        found[name] = float(threshold)
    return found


def _run(job: dict[str, object], sources: Sequence[Source], limits: ChildLimits, kind: type[_Result]) -> _Result:
    """Do a job in a capped process and return its result as `kind`."""
    from pydantic import TypeAdapter  # late: servers that only resolve metric names need none of this

    with contextlib.ExitStack() as opened:
        files: list[int] = []
        for source in sources:
            files.append(_open(source))
            opened.callback(os.close, files[-1])
        reply = _ask({**job, "files": files}, files, limits)
    if "refused" not in reply:
        return TypeAdapter(kind).validate_python(reply["result"])
    text = str(reply["text"])
    match reply["refused"]:
        case "BadPredictions":
            raise BadPredictions(text)
        case "BadInput":
            raise BadInput(text)
        case _:
            raise Refusal(
                f"Scoring needed more than {limits.memory_bytes >> 20:,} MiB of memory and was stopped; no score was recorded."
            )


def _ask(job: dict[str, object], files: Sequence[int], limits: ChildLimits) -> dict[str, object]:
    """Start the scoring process, hand it the job, return its reply."""
    # The cap on processor time is behind the wall-clock limit: it ends a child whose parent was killed.
    caps = [str(limits.memory_bytes), str(limits.seconds + 5)]
    command = [sys.executable, "-I", "-m", "clinloop.scoring.child", *caps]
    try:
        ended = subprocess.run(
            command,
            input=json.dumps(job).encode(),
            capture_output=True,
            pass_fds=files,
            # One thread: the thread buffers of OpenBLAS alone would exceed the address space of a machine with many cores.
            env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            timeout=limits.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Refusal(f"Scoring took longer than {limits.seconds} s and was stopped; no score was recorded.") from error
    if ended.returncode == 0:
        return json.loads(ended.stdout)
    _log.error("scoring process ended with %d: %s", ended.returncode, ended.stderr[-4000:].decode(errors="replace"))
    raise Refusal(
        f"The scoring process ended without an answer (exit {ended.returncode}); no score was recorded, the cause is in the server's log."
    )


def _open(source: Source) -> int:
    """Open predictions for the child; the caller closes the descriptor. Bytes get an anonymous file."""
    if isinstance(source, bytes):
        file = os.memfd_create("predictions", os.MFD_CLOEXEC)
        with io.FileIO(file, "wb", closefd=False) as writer:
            for start in range(0, len(source), 1 << 24):
                writer.write(source[start : start + (1 << 24)])
        return file
    try:
        file = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise BadPredictions(
            "There is no predictions file; write it to the path that was given, then end the program."
        ) from error
    except OSError as error:
        raise BadPredictions(
            "The predictions file cannot be opened: it must be a plain file, no link, pipe or device."
        ) from error
    facts = os.fstat(file)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
        os.close(file)
        raise BadPredictions("The predictions file must be a plain file with one name, no link, pipe or folder.")
    return file
