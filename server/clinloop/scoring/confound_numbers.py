"""The numbers of a confound audit under many weightings of the groups at once, and when there are too few cases for one.

A case counts as with or without the exposure; correlations use the value itself and keep their sign. Cases whose value is missing are
left out of everything but the AUC over all cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clinloop.scoring.analysis import MIN_CELL
from clinloop.scoring.confound_words import TOO_FEW
from clinloop.scoring.confounders import Bools, moments, partial_correlation, raw_correlation
from clinloop.scoring.exposures import Exposure
from clinloop.scoring.weighted import Cases, Floats, Ints, Weighting, order, per_group, ratio

MIN_GROUPS = 5
"""Groups below which a cell says "too few" however many cases it has: a bootstrap over fewer says nothing."""
NO_POINT = "no operating point"
NO_VARIANCE = "does not vary"

CELLS: Mapping[str, tuple[bool, bool]] = {
    "positive_with": (True, True),
    "positive_without": (True, False),
    "negative_with": (False, True),
    "negative_without": (False, False),
}
"""The four cells: (has the class, has the exposure)."""
_AUCS: Mapping[str, tuple[str, str]] = {
    "auc_with": ("positive_with", "negative_with"),
    "auc_without": ("positive_without", "negative_without"),
    "conflict_auc": ("positive_without", "negative_with"),
    "aligned_auc": ("positive_with", "negative_without"),
}
"""Which cell shall be ranked above which."""
NAMES: tuple[str, ...] = (
    "auc",
    *_AUCS,
    "fp_share",
    "fn_share",
    "raw_r",
    "partial_r",
    "rank_partial_r",
    *(f"median_{cell}" for cell in CELLS),
)
TESTED: tuple[str, ...] = NAMES[:10]
"""Numbers that get a p-value; medians describe."""


def cell_of(cases: Cases, exposure: Exposure, name: str) -> Bools:
    """Return which of the cases (N,) are in a cell."""
    is_positive, is_present = CELLS[name]
    has_class = cases.truth == 1
    has_it = exposure.present if is_present else exposure.known & ~exposure.present
    return (has_class if is_positive else ~has_class) & has_it


class Numbers:
    """What one exposure says about one model; `cases` has two classes, of which 1 counts as positive."""

    def __init__(self, cases: Cases, exposure: Exposure) -> None:
        """Sort and sum up once what no weighting changes."""
        self.cases, self.exposure = cases, exposure
        self.cells = {name: cell_of(cases, exposure, name) for name in CELLS}
        p, groups = cases.probabilities[:, 1], cases.groups
        self._curves = {
            name: order(p, groups, self.cells[above], self.cells[below]) for name, (above, below) in _AUCS.items()
        }
        self._medians = {
            name: _Median(p[is_in], groups[is_in]) for name, is_in in self.cells.items() if _enough(is_in, groups)
        }
        self._sums = np.concatenate([
            moments(p, exposure.value, cases.truth == 1, groups, cases.n_groups),
            moments(_ranks(p, exposure.known), _ranks(exposure.value, exposure.known), cases.truth == 1, groups, cases.n_groups),
            per_group(np.stack(self._errors, axis=1), groups, cases.n_groups).T,
        ])  # fmt: skip

    def under(self, weighting: Weighting) -> Floats:
        """Return the NAMES (M, B) under a weighting of the cases, NaN where undefined or too few."""
        sums = self._sums @ weighting.counts
        values = {
            "auc": weighting.auc(1),
            **{name: weighting.auc_of(curve) for name, curve in self._curves.items() if name not in self.notes},
            "fp_share": ratio(sums[24], sums[25]),
            "fn_share": ratio(sums[26], sums[27]),
            "raw_r": raw_correlation(sums[:12]),
            "partial_r": partial_correlation(sums[:12]),
            "rank_partial_r": partial_correlation(sums[12:24]),
            **{f"median_{name}": median.under(weighting.counts) for name, median in self._medians.items()},
        }
        missing = np.full(weighting.counts.shape[1], np.nan)
        return np.stack([missing if name in self.notes else values[name] for name in NAMES])

    @cached_property
    def notes(self) -> dict[str, str]:
        """Why a number is not given, by name."""
        groups, has_class = self.cases.groups, self.cases.truth == 1
        enough = {name: _enough(is_in, groups) for name, is_in in self.cells.items()}
        found = {name: TOO_FEW for name, sides in _AUCS.items() if not all(enough[side] for side in sides)}
        found |= {f"median_{name}": TOO_FEW for name in CELLS if not enough[name]}
        if not (_enough(has_class, groups) and _enough(~has_class, groups)):
            found["auc"] = TOO_FEW
        for name, wrong in zip(("fp_share", "fn_share"), self._errors[1::2], strict=True):
            if np.isnan(self.cases.thresholds[1]):
                found[name] = NO_POINT
            elif not _enough(wrong, groups) or self._too_few_on_a_side:
                found[name] = TOO_FEW
        found |= dict.fromkeys(("raw_r", "partial_r", "rank_partial_r"), TOO_FEW) if self._too_few_to_correlate else {}
        return found

    @property
    def _too_few_on_a_side(self) -> bool:
        item, groups = self.exposure, self.cases.groups
        return not (_enough(item.present, groups) and _enough(item.known & ~item.present, groups))

    @property
    def _too_few_to_correlate(self) -> bool:
        """Tell whether either side has too few cases; of a value that is no yes or no, whether as many are too few altogether."""
        if self.exposure.is_yes_no:
            return self._too_few_on_a_side
        known = self.exposure.known
        return not _enough(known, self.cases.groups) or int(known.sum()) < 2 * MIN_CELL

    @cached_property
    def _errors(self) -> tuple[Bools, Bools, Bools, Bools]:
        """(N,) each: false positives with the exposure, false positives, false negatives with it, false negatives."""
        flagged, has_class, item = self.cases.flagged[:, 1], self.cases.truth == 1, self.exposure
        false_positive, false_negative = flagged & ~has_class & item.known, ~flagged & has_class & item.known
        return false_positive & item.present, false_positive, false_negative & item.present, false_negative


class _Median:
    """The median of some cases under weightings of their groups."""

    def __init__(self, values: Floats, groups: Ints) -> None:
        by_value = np.argsort(values, kind="stable")
        self._values, self._groups = values[by_value], groups[by_value]

    def under(self, counts: Floats) -> Floats:
        """(B,) median of the cases, each as often as its group is counted; NaN where none is left."""
        reached = np.cumsum(counts[self._groups], axis=0)
        total = reached[-1]
        # Of an even number of values the mean of the middle two, as numpy's median.
        lower = (reached < np.floor((total + 1) / 2)).sum(axis=0)
        upper = (reached < np.floor((total + 2) / 2)).sum(axis=0)
        last = len(self._values) - 1
        middle = (self._values[np.minimum(lower, last)] + self._values[np.minimum(upper, last)]) / 2
        return np.where(total > 0, middle, np.nan)


def _ranks(values: Floats, known: Bools) -> Floats:
    """Return midranks among the known cases, from 0 to about 1; NaN elsewhere."""
    ranks = np.full(len(values), np.nan)
    # By hand: scipy.stats takes 0.7 s to import, longer than most analyses.
    _, place, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    ranks[known] = (np.cumsum(counts) - (counts - 1) / 2)[place] / max(1, int(known.sum()))
    return ranks


def _enough(is_in: npt.NDArray[np.bool_], groups: Ints) -> bool:
    return int(is_in.sum()) >= MIN_CELL and len(np.unique(groups[is_in])) >= MIN_GROUPS
