"""Confounder metrics of a task of two classes: how much of a model's probability is explained by something that is no sign of the class.

A case has the confounder where its value is at least 0.5; correlations use the value itself, so a probability from another model keeps
what it says. Cases whose value is missing are left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clinloop.scoring.weighted import Cases, Floats, Ints, Weighting, order, per_group, ratio

Bools = npt.NDArray[np.bool_]

PRESENT = 0.5
_NO_VARIANCE = 1e-12


def conflict_auc(weighting: Weighting, positive: int, place: int) -> Floats:
    """(B,) AUC of positives without the confounder against negatives with it: the ranking in which a shortcut is wrong."""
    cases = weighting.cases
    value, is_positive = cases.confounders[:, place], cases.truth == positive
    # NaN compares as False on both sides.
    sides = is_positive & (value < PRESENT), ~is_positive & (value >= PRESENT)
    curve = cases.once(
        ("conflict", positive, place), lambda: order(cases.probabilities[:, positive], cases.groups, sides[0], sides[1])
    )
    return weighting.auc_of(curve)


def raw_r(weighting: Weighting, positive: int, place: int) -> Floats:
    """(B,) absolute Pearson correlation of the positive probability and the confounder."""
    return np.abs(raw_correlation(_moments(weighting.cases, positive, place) @ weighting.counts))


def partial_r(weighting: Weighting, positive: int, place: int) -> Floats:
    """(B,) absolute partial correlation of the positive probability and the confounder, given the label."""
    return np.abs(partial_correlation(_moments(weighting.cases, positive, place) @ weighting.counts))


def fp_share(weighting: Weighting, positive: int, place: int) -> Floats:
    """(B,) share of the false positives at the operating point that have the confounder."""
    cases = weighting.cases
    value = cases.confounders[:, place]
    is_false = cases.flagged[:, positive] & (cases.truth != positive) & ~np.isnan(value)
    columns = np.stack([is_false & (value >= PRESENT), is_false], axis=1).astype(np.float64)
    having, all_of_them = per_group(columns, cases.groups, cases.n_groups).T @ weighting.counts
    return ratio(having, all_of_them)


CONFOUNDER_METRICS: dict[str, Callable[[Weighting, int, int], Floats]] = {
    "conflict_auc_<confounder>": conflict_auc,
    "partial_r_<confounder>": partial_r,
    "raw_r_<confounder>": raw_r,
    "fp_share_<confounder>": fp_share,
}


def raw_correlation(sums: Floats) -> Floats:
    """(B,) Pearson correlation, with its sign, from the `moments` (12, B) of weightings; NaN where p or c does not vary."""
    return _correlation(*_centred(sums[:6] + sums[6:]))


def partial_correlation(sums: Floats) -> Floats:
    """(B,) partial correlation given the label, with its sign, from the `moments` (12, B) of weightings; NaN where p or c does not vary.

    Given a label of two values it is the correlation of the deviations from the means of the label. Source: the definition by residuals.
    """
    within = [one + other for one, other in zip(_centred(sums[:6]), _centred(sums[6:]), strict=True)]
    return _correlation(*within)


def moments(p: Floats, value: Floats, is_positive: Bools, groups: Ints, n_groups: int) -> Floats:
    """(12, G) for positives, then for negatives: cases and sums of p, c, pp, cc, pc, with p and c shifted by their means.

    c is the value (N,) of the confounder; cases where it is NaN are left out.
    """
    known = ~np.isnan(value)
    if not known.any():
        return np.zeros((12, n_groups))
    p = np.where(known, p - p[known].mean(), 0.0)
    c = np.where(known, value - value[known].mean(), 0.0)
    one_each = np.stack([known.astype(np.float64), p, c, p * p, c * c, p * c], axis=1)
    of_positives = is_positive[:, None]
    columns = np.concatenate([one_each * of_positives, one_each * ~of_positives], axis=1)
    return per_group(columns, groups, n_groups).T


def _moments(cases: Cases, positive: int, place: int) -> Floats:
    return cases.once(
        ("moments", positive, place),
        lambda: moments(
            cases.probabilities[:, positive],
            cases.confounders[:, place],
            cases.truth == positive,
            cases.groups,
            cases.n_groups,
        ),
    )


def _centred(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the sums of squares of p and of c and of their products about the means, from the six sums (6, B)."""
    n, p, c, pp, cc, pc = sums
    n = np.maximum(n, 1.0)
    return pp - p * p / n, cc - c * c / n, pc - p * c / n


def _correlation(pp: Floats, cc: Floats, pc: Floats) -> Floats:
    varies = (pp > _NO_VARIANCE) & (cc > _NO_VARIANCE)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies, np.clip(pc / np.sqrt(np.maximum(pp * cc, 0.0)), -1.0, 1.0), np.nan)
