"""Batches in which every cell (e.g. disease x drain) is as frequent as the others, or a chosen share."""

import numpy as np


def cells_of(*columns):
    """Return one cell number per case (N,) and the list of cells: every combination of values that occurs."""
    keys = list(zip(*columns, strict=True))
    known = sorted(set(keys))
    return np.array([known.index(key) for key in keys]), known


class BalancedOrder:
    """Draws rows so that cells have given shares; within a cell every row comes once before any comes again.

    cells: (N,) int. shares: (n_cells,) in the order of cell numbers; default all equal. `order.draw(n)` gives n rows in random order with
    each cell's count within one of its share. Repeated rows of a small cell need augmentation, or they are learned by heart.
    """

    def __init__(self, cells, rng, shares=None):
        self._rng = rng
        self._rows = [np.flatnonzero(cells == cell) for cell in range(int(max(cells)) + 1)]
        if empty := [cell for cell, rows in enumerate(self._rows) if len(rows) == 0]:
            raise ValueError(f"cells {empty} hold no case: number the cells without gaps (cells_of does)")
        shares = np.ones(len(self._rows)) if shares is None else np.asarray(shares, dtype=float)
        self._shares = shares / shares.sum()
        self._left = [np.empty(0, dtype=np.int64) for _ in self._rows]

    def draw(self, n):
        """Return n rows (n,)."""
        edges = np.concatenate([[0.0], np.cumsum(self._shares[:-1]) * n, [n]]) + self._rng.random()
        counts = np.diff(np.floor(edges)).astype(int)  # each cell's count is its share on average, and within one of it
        return self._rng.permutation(np.concatenate([self._take(cell, k) for cell, k in enumerate(counts)]))

    def _take(self, cell, k):
        while len(self._left[cell]) < k:
            self._left[cell] = np.concatenate([self._left[cell], self._rng.permutation(self._rows[cell])])
        taken, self._left[cell] = self._left[cell][:k], self._left[cell][k:]
        return taken
