"""The four cells of a confound audit: cases with and without the class, with and without the exposure."""

from __future__ import annotations

import numpy as np

from clinloop.scoring.analysis import Cell
from clinloop.scoring.confound_numbers import CELLS, Numbers
from clinloop.scoring.confounders import Bools
from clinloop.scoring.weighted import Floats

BINS = 20


def cells_of(initial: Numbers, refined: Numbers) -> list[Cell]:
    """Return the four cells of two models on the same cases: how many, and where there are enough quartiles and distributions.

    A distribution of few cases would show single ones.
    """
    groups, cells = initial.cases.groups, list[Cell]()
    for name, (is_positive, is_present) in CELLS.items():
        is_in = initial.cells[name]
        before, after = initial.cases.probabilities[is_in, 1], refined.cases.probabilities[is_in, 1]
        is_enough = f"median_{name}" not in initial.notes
        cells.append(
            Cell(
                positive=is_positive,
                present=is_present,
                n=int(is_in.sum()),
                groups=len(np.unique(groups[is_in])),
                initial=_quartiles(before) if is_enough else None,
                refined=_quartiles(after) if is_enough else None,
                initial_histogram=_histogram(before) if is_enough else [],
                refined_histogram=_histogram(after) if is_enough else [],
            )
        )
    return cells


def prevalence(is_in: Bools, present: Bools) -> float | None:
    """Return the share of some cases that have the exposure; None without a case."""
    return float(present[is_in].mean()) if is_in.any() else None


def _quartiles(values: Floats) -> tuple[float, float, float]:
    low, middle, high = (float(edge) for edge in np.percentile(values, (25, 50, 75)))
    return low, middle, high


def _histogram(values: Floats) -> list[int]:
    return [int(count) for count in np.histogram(values, bins=BINS, range=(0.0, 1.0))[0]]
