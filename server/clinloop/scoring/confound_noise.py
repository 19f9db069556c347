"""How the numbers of a predicted confounder would change if some of its values were wrong."""

from __future__ import annotations

import numpy as np

from clinloop.scoring.analysis import LabelNoise
from clinloop.scoring.confound_numbers import Numbers
from clinloop.scoring.confound_words import TOO_FEW
from clinloop.scoring.confounders import PRESENT, Bools, moments, partial_correlation
from clinloop.scoring.exposures import Exposure
from clinloop.scoring.weighted import Cases, Floats, Weighting, order

SHARES = (0.0, 0.05, 0.1, 0.2)
DRAWS = 20
"""Random choices of the wrong values over which each share is averaged."""


def label_noise(initial: Numbers, refined: Numbers, *, seed: int) -> list[LabelNoise]:
    """Return what both models' numbers become when a share of the known values, chosen at random, is turned into 1 - value.

    Nothing is given where the audit itself says "too few".
    """
    random, rows = np.random.default_rng(seed), list[LabelNoise]()
    models = (initial.cases, refined.cases)
    for share in SHARES:
        draws = [_flipped(initial.exposure, share, random) for _ in range(DRAWS if share else 1)]
        partial: list[float | None] = [None, None]
        conflict: list[float | None] = [None, None]
        if initial.notes.get("partial_r") != TOO_FEW:
            partial = [_mean([_partial(cases, value) for value in draws]) for cases in models]
        if initial.notes.get("conflict_auc") != TOO_FEW:
            conflict = [_mean([_conflict(cases, value) for value in draws]) for cases in models]
        rows.append(
            LabelNoise(
                share=share,
                partial_r_initial=partial[0],
                partial_r_refined=partial[1],
                conflict_auc_initial=conflict[0],
                conflict_auc_refined=conflict[1],
            )
        )
    return rows


def _flipped(exposure: Exposure, share: float, random: np.random.Generator) -> Floats:
    known = np.flatnonzero(exposure.known)
    wrong = random.permutation(known)[: round(share * len(known))]
    value = exposure.value.copy()
    value[wrong] = 1.0 - value[wrong]
    return value


def _partial(cases: Cases, value: Floats) -> float:
    sums = moments(cases.probabilities[:, 1], value, cases.truth == 1, cases.groups, cases.n_groups)
    return float(partial_correlation(sums.sum(axis=1, keepdims=True))[0])


def _conflict(cases: Cases, value: Floats) -> float:
    is_positive: Bools = cases.truth == 1
    curve = order(
        cases.probabilities[:, 1], cases.groups, is_positive & (value < PRESENT), ~is_positive & (value >= PRESENT)
    )
    return float(Weighting(cases, np.ones((cases.n_groups, 1))).auc_of(curve)[0])


def _mean(values: list[float]) -> float | None:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else None
