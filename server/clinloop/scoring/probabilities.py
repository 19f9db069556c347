"""What the probabilities of a classification are worth: calibration with intervals, and decision curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinloop.scoring.analysis import Calibration, CalibrationBin, DecisionCurve, Model
from clinloop.scoring.bootstrap import bootstrap
from clinloop.scoring.calibration import net_benefit, reliability
from clinloop.scoring.estimates import estimate, or_none
from clinloop.scoring.evaluate import evaluate_once
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.weighted import Cases

THRESHOLDS = np.round(np.arange(0.01, 1.0, 0.01), 2)
MODELS: tuple[Model, Model] = ("initial", "refined")


def calibrations(
    models: tuple[Cases, Cases], scheme: Scheme, places: Sequence[int], *, resamples: int, seed: int
) -> list[Calibration]:
    """Return the calibration of both models for the classes at `places`, all on the same resamples."""
    names = [f"{family}_{scheme.classes[place]}" for place in places for family in ("ece", "brier")]
    drawn = bootstrap(names, scheme, models, resamples=resamples, seed=seed)  # (2, 2K, B)
    found: list[Calibration] = []
    for model, cases, resampled in zip(MODELS, models, drawn, strict=True):
        values = evaluate_once(names, scheme, cases)
        ece, brier = ([estimate(values[at], resampled[at]) for at in range(start, len(names), 2)] for start in range(2))
        found += [
            Calibration(model=model, name=scheme.classes[place], bins=_bins(cases, place), ece=ece[at], brier=brier[at])
            for at, place in enumerate(places)
        ]
    return found


def decision_curves(models: tuple[Cases, Cases], classes: Sequence[str], places: Sequence[int]) -> list[DecisionCurve]:
    """Return the net benefit of both models for the classes at `places`."""
    curves: list[DecisionCurve] = []
    for place in places:
        is_class = models[0].truth == place
        ways = *(cases.probabilities[:, place] for cases in models), np.ones(len(is_class))
        initial, refined, everybody = (net_benefit(way, is_class, THRESHOLDS).tolist() for way in ways)
        curves.append(
            DecisionCurve(
                name=classes[place], thresholds=THRESHOLDS.tolist(), initial=initial, refined=refined, all=everybody
            )
        )
    return curves


def _bins(cases: Cases, place: int) -> list[CalibrationBin]:
    found = reliability(cases.probabilities[:, place], cases.truth == place)
    return [
        CalibrationBin(low=low, high=high, n=n, mean_probability=or_none(mean), share=or_none(share))
        for low, high, n, mean, share in zip(*(column.tolist() for column in found), strict=True)
    ]
