"""A metric in the cases that share a value of an attribute: whether a model is as good for the old as for the young."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from clinloop.scoring.analysis import MIN_CELL, Subgroup
from clinloop.scoring.bootstrap import bootstrap
from clinloop.scoring.confounders import PRESENT
from clinloop.scoring.estimates import estimate
from clinloop.scoring.evaluate import AnyCases, evaluate_once
from clinloop.scoring.metrics import Scheme, TaskType
from clinloop.scoring.proportions import wilson_of
from clinloop.scoring.results import Estimate
from clinloop.scoring.truth import TruthCase

MOST_ROWS = 40
MOST_WORDS = 8
_LONGEST_WORD = 60
_QUARTERS_FROM = 20 * MIN_CELL
"""Cases from which on numbers are cut into quarters, else into thirds."""
_ELSE: dict[TaskType, str] = {"classification": "accuracy", "segmentation": "image_specificity"}
"""What is told where the primary metric is undefined, for example where all cases are of one class."""

Pair = tuple[AnyCases, AnyCases]


class Level(NamedTuple):
    """The cases that share a value of an attribute."""

    value: str
    cases: list[int]
    """Places in the truth."""


def subgroups(
    truth: Sequence[TruthCase],
    scheme: Scheme,
    models_of: Callable[[Sequence[int]], Pair],
    *,
    primary: str,
    resamples: int,
    seed: int,
) -> tuple[list[Subgroup], list[str]]:
    """Return the rows of all attributes, the confounders' first, and notes on what was left out.

    models_of: both models on the cases at some places of the truth.
    """
    rows: list[Subgroup] = []
    left_out: list[str] = []
    names = sorted({name for case in truth for name in case.attributes})
    names.sort(key=lambda name: name not in scheme.confounders)
    for name in names:
        found = levels([case.attributes.get(name, "") for case in truth], is_confounder=name in scheme.confounders)
        if len(found) < 2 or len(rows) + len(found) > MOST_ROWS:
            left_out.append(name)
            continue
        for level in found:
            rows.append(_row(name, level, truth, scheme, models_of, primary, resamples, seed))
    notes: list[str] = []
    if left_out:
        listed = ", ".join(left_out[:10]) + (f" and {len(left_out) - 10} more" if len(left_out) > 10 else "")
        notes.append(
            f"No subgroups by {listed}: they have one value, more than {MOST_WORDS} words, or the table was full ({MOST_ROWS} rows)."
        )
    return rows, notes


def levels(texts: Sequence[str], *, is_confounder: bool = False) -> list[Level]:
    """Return the cases by the value of an attribute; a missing value belongs to none, free text gives no levels.

    At most MOST_WORDS values count as they are. More numbers are cut where a third or a quarter of the cases ends; those of a confounder,
    which are probabilities, at one half.
    """
    known = [(text.strip(), at) for at, text in enumerate(texts) if text.strip()]
    words = Counter(text for text, _ in known)
    if not words or max(map(len, words)) > _LONGEST_WORD:
        return []
    if len(words) <= MOST_WORDS:
        numbers = [_number(word) for word in words]
        ordered = sorted(words, key=lambda word: (_number(word) or 0.0, word) if None not in numbers else (0.0, word))
        return [Level(word, [at for text, at in known if text == word]) for word in ordered]
    values = [(_number(text), at) for text, at in known]
    numeric = [(value, at) for value, at in values if value is not None]
    if len(numeric) < len(values):
        return []
    if is_confounder:
        below, above = (
            [at for value, at in numeric if value < PRESENT],
            [at for value, at in numeric if value >= PRESENT],
        )
        return [
            Level(text, places)
            for text, places in ((f"below {PRESENT}", below), (f"{PRESENT} or more", above))
            if places
        ]
    return list(_cut(numeric))


def _cut(numeric: Sequence[tuple[float, int]]) -> Iterator[Level]:
    parts = 4 if len(numeric) >= _QUARTERS_FROM else 3
    values = np.array([value for value, _ in numeric])
    edges = np.unique(np.quantile(values, np.linspace(0, 1, parts + 1)[1:-1], method="inverted_cdf"))
    part_of = np.searchsorted(edges, values, side="left")  # an edge belongs to the part below
    for part in np.unique(part_of):
        own = values[part_of == part]
        low, high = f"{own.min():g}", f"{own.max():g}"
        yield Level(
            low if low == high else f"{low} to {high}",
            [at for (_, at), p in zip(numeric, part_of, strict=True) if p == part],
        )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _row(
    attribute: str,
    level: Level,
    truth: Sequence[TruthCase],
    scheme: Scheme,
    models_of: Callable[[Sequence[int]], Pair],
    primary: str,
    resamples: int,
    seed: int,
) -> Subgroup:
    groups = len({truth[at].group or f"case {truth[at].case_id}" for at in level.cases})

    def row(metric: str, values: Sequence[Estimate], note: str = "") -> Subgroup:
        return Subgroup(
            attribute=attribute,
            value=level.value,
            n=len(level.cases),
            groups=groups,
            metric=metric,
            initial=values[0],
            refined=values[1],
            difference=values[2],
            note=note,
        )

    nothing = [Estimate(None)] * 3
    if len(level.cases) < MIN_CELL:
        return row(primary, nothing, "too few")
    models = models_of(level.cases)
    for metric in dict.fromkeys([primary, _ELSE.get(scheme.task_type, primary)]):
        values = [float(evaluate_once([metric], scheme, model)[0]) for model in models]
        if any(map(math.isnan, values)):
            continue
        if groups < 2:
            return row(metric, [Estimate(value) for value in (*values, values[1] - values[0])], "one group")
        drawn = bootstrap([metric], scheme, models, resamples=resamples, seed=seed)[:, 0]
        return row(
            metric,
            [
                estimate(values[0], drawn[0], wilson_of(metric, scheme, models[0])),
                estimate(values[1], drawn[1], wilson_of(metric, scheme, models[1])),
                estimate(values[1] - values[0], drawn[1] - drawn[0]),
            ],
        )
    return row(primary, nothing, f"{primary} is undefined here")
