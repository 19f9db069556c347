"""Whether a model's answers go with a fact of the image among cases of the same class, and which images fail together. In the scoring process only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clinloop.scoring.compute import Job, scheme_of
from clinloop.scoring.detection import BoxCases
from clinloop.scoring.embeddings import max_bytes, parse_embeddings
from clinloop.scoring.flips import Floats, Ints, flip_test, residuals, sums_by_group
from clinloop.scoring.joining import join, known_truth
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.offences import too_large
from clinloop.scoring.segmentation import MaskCases
from clinloop.scoring.shortcuts import NO_EMBEDDINGS, Followed, Shortcuts, Slice
from clinloop.scoring.weighted import Cases

MIN_LEVEL = 10
"""Cases that a value of a text needs, and that must lack it, to be a question."""
MAX_LEVELS = 8
ALIKE = 0.7
"""Absolute rank correlation from which two facts say nearly the same."""
MAX_EXAMPLES = 6
_NOTEWORTHY = 0.4
"""Difference in standard deviations from which a fact describes a slice: between small and medium (Cohen 1988)."""


class ShortcutJob(Job):
    """A job with what `find_shortcuts` adds."""

    columns: dict[str, list[float | None] | list[str]]


class _Answers(NamedTuple):
    values: Floats
    """(N, C)."""
    names: list[str]
    """(C,) class of each column; "" of boxes and masks."""
    strata: Ints
    """(N,) what is true."""
    is_wrong: Ints
    """(N,) at the operating point, or of several classes by the likeliest."""
    groups: Ints


class _Question(NamedTuple):
    name: str
    level: str
    values: Floats
    """(N,) NaN = missing."""


def shortcuts(job: ShortcutJob) -> Shortcuts:
    """Do a job."""
    scheme = scheme_of(job)
    truth = known_truth(job["truth"], scheme)
    cases, _ = join(truth, scheme, job["files"][0], rule=job["rule"])
    answers = _answers(cases, scheme)
    questions = [question for name, values in job["columns"].items() for question in _questions(name, values)]
    followed, n_tried = _followed(questions, answers, job["seed"])
    case_ids = [case.case_id for case in truth]
    slices, note = _slices(job["files"][1:], case_ids, answers, questions, job["seed"])
    return Shortcuts(followed=followed, slices=slices, n_tried=n_tried, slices_note=note)


def _answers(cases: object, scheme: Scheme) -> _Answers:
    if isinstance(cases, Cases):
        p, truth, groups = cases.probabilities, cases.truth.astype(np.intp), cases.groups.astype(np.intp)
        if cases.positive is None:
            is_wrong = p.argmax(axis=1) != truth
        else:
            is_wrong = cases.flagged[:, cases.positive] != (truth == cases.positive)
        at = list(range(len(scheme.classes))) if scheme.positive_index is None else [scheme.positive_index]
        return _Answers(p[:, at], [scheme.classes[i] for i in at], truth, is_wrong.astype(np.intp), groups)
    if isinstance(cases, MaskCases):
        is_true, value, is_found = cases.has_target, cases.predicted, cases.is_found
    elif isinstance(cases, BoxCases):
        is_true, value, is_found = cases.has_box, cases.best, cases.best >= cases.threshold
    else:
        raise TypeError(type(cases).__name__)
    wrong = (is_found != is_true).astype(np.intp)
    return _Answers(
        value[:, None].astype(np.float64), [""], is_true.astype(np.intp), wrong, cases.groups.astype(np.intp)
    )


def _questions(name: str, values: Sequence[float | None] | Sequence[str]) -> list[_Question]:
    """Return a number as it is, and of a text each frequent value against all others."""
    if not any(isinstance(value, str) for value in values):
        numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        return [_Question(name, "", numbers)] if len(np.unique(numbers[~np.isnan(numbers)])) > 1 else []
    known = np.array([bool(value) for value in values])
    frequent = Counter(str(value) for value in values if value).most_common(MAX_LEVELS)
    return [
        _Question(name, level, np.where(known, [value == level for value in values], np.nan))
        for level, count in frequent
        if MIN_LEVEL <= count <= int(known.sum()) - MIN_LEVEL
    ]


def _followed(questions: list[_Question], answers: _Answers, seed: int) -> tuple[list[Followed], int]:
    """Return the strongest level and class of each fact, and how many questions there were."""
    if not questions:
        return [], 0
    facts = residuals(np.column_stack([_ranks(question.values) for question in questions]), answers.strata)  # (N, Q)
    given = residuals(np.column_stack([_ranks(column) for column in answers.values.T]), answers.strata)  # (N, C)
    known = np.column_stack([~np.isnan(question.values) for question in questions])
    n_classes = given.shape[1]
    scores = (facts[:, :, None] * given[:, None, :]).reshape(len(facts), -1)  # (N, Q·C)
    p = flip_test(sums_by_group(scores, answers.groups), seed=seed).reshape(-1, n_classes)
    size = np.sqrt((facts**2).sum(axis=0)[:, None] * (known.T.astype(np.float64) @ given**2))
    r = np.divide(facts.T @ given, size, out=np.zeros_like(size), where=size > 1e-12)
    best: dict[str, tuple[int, int]] = {}
    for at, question in enumerate(questions):
        column = int(np.abs(r[at]).argmax())
        if question.name not in best or abs(r[at, column]) > abs(r[best[question.name]]):
            best[question.name] = at, column
    places = [at for at, _ in best.values()]
    alike = _alike(facts[:, places], list(best))
    found = [
        Followed(
            name=name,
            level=questions[at].level,
            class_name=answers.names[column],
            partial_r=round(float(r[at, column]), 4),
            p=None if np.isnan(p[at, column]) else float(p[at, column]),
            n=int(known[:, at].sum()),
            alike=alike[name],
        )
        for name, (at, column) in best.items()
    ]
    return found, r.size


def _ranks(values: Floats) -> Floats:
    """Return average ranks; NaN stays."""
    ranks = np.full(len(values), np.nan)
    known = ~np.isnan(values)
    _, place, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    ranks[known] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _alike(facts: Floats, names: list[str]) -> dict[str, tuple[str, ...]]:
    size = np.sqrt((facts**2).sum(axis=0))
    unit = facts / np.where(size > 0, size, 1.0)
    close = np.abs(unit.T @ unit) >= ALIKE
    return {
        name: tuple(other for place, other in enumerate(names) if close[at, place] and place != at)
        for at, name in enumerate(names)
    }


def _slices(
    files: Sequence[int], case_ids: list[str], answers: _Answers, questions: list[_Question], seed: int
) -> tuple[list[Slice], str]:
    if not files:
        return [], NO_EMBEDDINGS
    from clinloop.scoring.slices import find_slices  # late: scikit-learn takes a second

    caps = max_bytes(len(case_ids))
    embedded = parse_embeddings(_content(files[0], caps[0]), _content(files[1], caps[1]), case_ids)
    at = np.array([place for place, case_id in enumerate(case_ids) if case_id in embedded], dtype=np.intp)
    features = np.array([embedded[case_ids[place]] for place in at], dtype=np.float64)
    part = _Answers(answers.values[at], answers.names, answers.strata[at], answers.is_wrong[at], answers.groups[at])
    split = find_slices(features, part.strata, part.values, part.is_wrong, part.groups, seed=seed)
    if isinstance(split, str):
        return [], split
    tested = split.is_tested.astype(bool)
    slices: list[Slice] = []
    for number, p in enumerate(split.p):
        own, others = tested & (split.of_case == number), tested & (split.of_case != number)
        if np.isnan(p) or not own.any() or not others.any():
            continue
        error, elsewhere = float(part.is_wrong[own].mean()), float(part.is_wrong[others].mean())
        if error <= elsewhere:
            continue
        wrong = np.flatnonzero(own & (part.is_wrong == 1))
        surest = wrong[np.argsort(-_certainty(part.values[wrong]), kind="stable")]
        slices.append(
            Slice(
                number=number + 1,
                n=int(own.sum()),
                groups=len(np.unique(part.groups[own])),
                error=error,
                error_elsewhere=elsewhere,
                p=float(p),
                described=_describe(questions, at[own], at[others]),
                examples=tuple(case_ids[at[place]] for place in surest[:MAX_EXAMPLES]),
            )
        )
    return sorted(slices, key=lambda found: (found.p or 0.0, -found.error)), ""


def _certainty(values: Floats) -> Floats:
    """Return how far answers (N, C) are from undecided."""
    return np.abs(values[:, 0] - 0.5) if values.shape[1] == 1 else values.max(axis=1)


def _describe(questions: list[_Question], own: Ints, others: Ints) -> tuple[str, ...]:
    """Return the three facts that differ most, in standard deviations of all cases."""
    found: list[tuple[float, str]] = []
    for question in questions:
        inside, outside = _known(question.values[own]), _known(question.values[others])
        if len(inside) < MIN_LEVEL or len(outside) < MIN_LEVEL:
            continue
        spread = float(np.concatenate([inside, outside]).std())
        difference = float(inside.mean() - outside.mean())
        if spread <= 0 or abs(difference) < _NOTEWORTHY * spread:
            continue
        if question.level:
            text = f"{question.name} = {question.level}: {inside.mean():.0%} against {outside.mean():.0%} elsewhere"
        else:
            way = "higher" if difference > 0 else "lower"
            text = f"{question.name} {way}: mean {inside.mean():.3g} against {outside.mean():.3g} elsewhere"
        found.append((abs(difference) / spread, text))
    return tuple(text for _, text in sorted(found, reverse=True)[:3])


def _known(values: Floats) -> npt.NDArray[np.float64]:
    return values[~np.isnan(values)]


def _content(file: int, cap: int) -> bytes:
    """Read a descriptor up to its cap."""
    size = os.fstat(file).st_size
    if size > cap:
        raise too_large(size, cap)
    return os.pread(file, cap + 1, 0)
