"""The table of what computes each classification metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from clinloop.scoring import calibration, ranking, thresholded
from clinloop.scoring.weighted import Floats, Weighting, ratio

CLASSIFICATION_METRICS: Mapping[str, Callable[[Weighting, int], Floats]] = {
    "macro_auc": lambda weighting, _: weighting.macro(weighting.auc),
    "auc_<class>": lambda weighting, index: weighting.auc(index),
    "macro_auprc": lambda weighting, _: weighting.macro(partial(ranking.average_precision, weighting)),
    "auprc_<class>": ranking.average_precision,
    "f1": lambda weighting, _: weighting.macro(partial(thresholded.f1, weighting)),
    "f1_<class>": thresholded.f1,
    "mcc": lambda weighting, _: thresholded.mcc(weighting),
    "sensitivity_<class>": lambda weighting, index: ratio(*thresholded.found_of_cases(weighting, index)),
    "specificity_<class>": lambda weighting, index: ratio(*thresholded.rejected_of_others(weighting, index)),
    "ppv_<class>": lambda weighting, index: ratio(*thresholded.found_of_flagged(weighting, index)),
    "npv_<class>": lambda weighting, index: ratio(*thresholded.rejected_of_unflagged(weighting, index)),
    "mcc_<class>": thresholded.mcc_of_class,
    "sens_at_spec80_<class>": partial(ranking.sensitivity_at, 0.80),
    "sens_at_spec90_<class>": partial(ranking.sensitivity_at, 0.90),
    "spec_at_sens95_<class>": partial(ranking.specificity_at, 0.95),
    "balanced_accuracy": lambda weighting, _: weighting.macro(partial(thresholded.recall, weighting)),
    "accuracy": lambda weighting, _: thresholded.accuracy(weighting),
    "brier": lambda weighting, _: calibration.brier(weighting),
    "brier_<class>": calibration.brier_of_class,
    "ece": lambda weighting, _: calibration.ece(weighting),
    "ece_<class>": calibration.ece_of_class,
    "net_benefit_<class>": calibration.net_benefit_of_class,
}
"""What computes a metric (B,); the class index means something for families only."""
