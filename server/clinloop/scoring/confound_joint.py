"""Several confounders at once: the correlation of a probability with each, given the class and all the others.

Source: the partial correlation given all other variables is -P[i, j] / sqrt(P[i, i] P[j, j]) with P the inverse of their correlation
matrix, which equals the correlation of the residuals of two linear regressions (Whittaker 1990, 5.8).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinloop.scoring.confounders import Bools
from clinloop.scoring.exposures import Exposure
from clinloop.scoring.weighted import Cases, Floats, per_group

_SINGULAR = 1e-9
"""Smallest eigenvalue of a correlation matrix below which its variables explain each other."""


class JointNumbers:
    """Joint partial correlations of one model; `cases` has two classes, of which 1 counts as positive."""

    def __init__(self, cases: Cases, items: Sequence[Exposure], known: Bools) -> None:
        """Sum up once per group; only `known` cases (N,), of which every value is known, are used."""
        columns = [
            cases.probabilities[:, 1],
            (cases.truth == 1).astype(np.float64),
            *(item.value for item in items),
        ]
        self._n = len(columns)
        table = np.stack([np.ones(len(known)), *(_standardised(column, known) for column in columns)], axis=1)
        table[~known] = 0.0
        self._pairs = [(i, j) for i in range(self._n + 1) for j in range(i, self._n + 1)]
        products = np.stack([table[:, i] * table[:, j] for i, j in self._pairs], axis=1)
        self._sums = per_group(products, cases.groups, cases.n_groups).T  # (pairs, G)

    def under(self, counts: Floats) -> Floats:
        """Return (C, B) correlations with each of the confounders, with their sign; NaN where variables explain each other."""
        sums = self._sums @ counts  # (pairs, B)
        full = np.empty((counts.shape[1], self._n + 1, self._n + 1))
        for (i, j), row in zip(self._pairs, sums, strict=True):
            full[:, i, j] = full[:, j, i] = row
        n = np.maximum(full[:, :1, :1], 1.0)
        covariance = full[:, 1:, 1:] - full[:, 1:, :1] * full[:, :1, 1:] / n
        variance = np.einsum("bii->bi", covariance)
        scale = np.sqrt(np.maximum(variance, _SINGULAR))
        correlation = covariance / (scale[:, :, None] * scale[:, None, :])
        good = (variance > _SINGULAR).all(axis=1)
        good &= np.linalg.eigvalsh(correlation)[:, 0] > _SINGULAR
        correlation[~good] = np.eye(self._n)
        inverse = np.linalg.inv(correlation)
        diagonal = np.einsum("bii->bi", inverse)
        found = -inverse[:, 0, 2:] / np.sqrt(diagonal[:, :1] * diagonal[:, 2:])
        return np.where(good[:, None], found, np.nan).T


def _standardised(column: Floats, known: Bools) -> Floats:
    values = column[known]
    spread = float(values.std()) if len(values) else 0.0
    return (column - (float(values.mean()) if len(values) else 0.0)) / (spread or 1.0)
