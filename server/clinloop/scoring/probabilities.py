"""What the probabilities of a classification are worth: calibration with intervals, and decision curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinloop.scoring.analysis import Calibration, CalibrationBin, DecisionCurve, Model
from clinloop.scoring.bootstrap import draw_counts
from clinloop.scoring.calibration import BINS, binned, net_benefit, reliability
from clinloop.scoring.estimates import estimate, or_none
from clinloop.scoring.weighted import Cases, Floats, per_group

THRESHOLDS = np.round(np.arange(0.01, 1.0, 0.01), 2)
_CHUNK = 512


def calibrations(
    model: Model, cases: Cases, names: Sequence[str], places: Sequence[int], *, resamples: int, seed: int
) -> list[Calibration]:
    """Return the calibration of a model for the classes at `places`, all on the same resamples."""
    sums = np.concatenate([_sums(cases, place) for place in places], axis=1)  # (G, K (bins + 1))
    sizes = np.bincount(cases.groups, minlength=cases.n_groups).astype(np.float64)
    value = _values(sums, sizes, np.ones((cases.n_groups, 1)))
    drawn = [
        _values(sums, sizes, counts)
        for counts in draw_counts(cases.n_groups, resamples if cases.n_groups > 1 else 0, seed=seed, chunk=_CHUNK)
    ]
    resampled = np.concatenate(drawn, axis=2) if drawn else np.empty((len(places), 2, 0))
    return [
        Calibration(
            model=model,
            name=names[place],
            bins=_bins(cases, place),
            ece=estimate(value[at, 0, 0], resampled[at, 0]),
            brier=estimate(value[at, 1, 0], resampled[at, 1]),
        )
        for at, place in enumerate(places)
    ]


def decision_curves(initial: Cases, refined: Cases, names: Sequence[str], places: Sequence[int]) -> list[DecisionCurve]:
    """Return the net benefit of both models for the classes at `places`, without cases on both sides too: then acting may be free."""
    curves: list[DecisionCurve] = []
    for place in places:
        is_class = initial.truth == place
        ways = initial.probabilities[:, place], refined.probabilities[:, place], np.ones(len(is_class))
        found = [net_benefit(way, is_class, THRESHOLDS).tolist() for way in ways]
        curves.append(
            DecisionCurve(
                name=names[place], thresholds=THRESHOLDS.tolist(), initial=found[0], refined=found[1], all=found[2]
            )
        )
    return curves


def _bins(cases: Cases, place: int) -> list[CalibrationBin]:
    found = reliability(cases.probabilities[:, place], cases.truth == place)
    return [
        CalibrationBin(low=low, high=high, n=n, mean_probability=or_none(mean), share=or_none(share))
        for low, high, n, mean, share in zip(*(column.tolist() for column in found), strict=True)
    ]


def _sums(cases: Cases, place: int) -> Floats:
    """Return per group (G, bins + 1): what probabilities exceed the truth by in each bin, and the squared error."""
    probability = cases.probabilities[:, place]
    excess = probability - (cases.truth == place)
    columns = np.zeros((len(excess), BINS + 1))
    columns[np.arange(len(excess)), binned(probability)] = excess
    columns[:, -1] = np.square(excess)
    return per_group(columns, cases.groups, cases.n_groups)


def _values(sums: Floats, sizes: Floats, counts: Floats) -> Floats:
    """Return calibration error and Brier score (K, 2, B) under weightings (G, B).

    A bin adds its cases' share times |mean probability - share of the class|, which is |summed excess| over all cases.
    """
    weighted = (sums.T @ counts).reshape(-1, BINS + 1, counts.shape[1])
    return np.stack([np.abs(weighted[:, :-1]).sum(axis=1), weighted[:, -1]], axis=1) / (sizes @ counts)
