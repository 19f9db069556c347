"""Which images belong together: exact duplicates, near-duplicates, siblings; joined by union-find."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from clinloop.datasets.case import Case

HAMMING = 4
"""Perceptual hashes (64 bits) that differ in at most this many are candidates."""
MIN_CORRELATION = 0.99
MAX_DIFFERENCE = 24.0
"""Gray levels by which the 99th percentile of a confirmed pair of thumbnails may differ, after matching mean and contrast.

pHash alone joins unrelated plain or small images (handwritten digits, radiographs). Measured on scikit-learn's 1,797 digits: 78 candidate
pairs, 1 confirmed; JPEG quality 50, half size and 10 % brighter copies of textured images all correlate above 0.999.
"""
MAX_CANDIDATES = 30_000_000
"""Candidate pairs that are examined; beyond it the images are too plain for the hash to tell them apart."""

_AFFIX = r"(?:downsampled|aug(?:mented)?|[hv]?flip(?:ped)?|rot(?:ated)?\d*|copy|crop(?:ped)?)"
_PREFIX = re.compile(rf"^(?:{_AFFIX}[_-]\d*_?)+", re.IGNORECASE)
_SUFFIX = re.compile(rf"(?:[_-]{_AFFIX}(?:[_-]?\d+)?)+$", re.IGNORECASE)


class UnionFind:
    """Disjoint sets of 0…n-1; the root of a set is its smallest member, so results do not depend on the order of joins."""

    def __init__(self, n: int) -> None:
        self._parent = np.arange(n)

    def find(self, i: int) -> int:
        """Return the root of a member."""
        root = i
        while (parent := int(self._parent[root])) != root:
            root = parent
        while (parent := int(self._parent[i])) != root:
            self._parent[i], i = root, parent
        return root

    def union(self, i: int, j: int) -> None:
        """Join two sets."""
        a, b = self.find(i), self.find(j)
        self._parent[max(a, b)] = min(a, b)

    def join(self, members: Sequence[int]) -> None:
        """Join all sets of some members."""
        for other in members[1:]:
            self.union(members[0], other)

    def roots(self) -> npt.NDArray[np.intp]:
        """Return the root of every member."""
        while True:
            above = self._parent[self._parent]
            if np.array_equal(above, self._parent):
                return above
            self._parent = above


class NearDuplicates(NamedTuple):
    """Clusters of confirmed near-duplicates."""

    clusters: list[list[int]]
    too_large: list[list[int]]
    """Clusters of more than the allowed share of all cases: reported, not joined."""
    is_complete: bool
    """False: there were too many candidates to look at all."""


def by_value(values: Iterable[str | None]) -> list[list[int]]:
    """Return the positions of each value that occurs more than once; None is never shared."""
    positions: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        if value is not None:
            positions.setdefault(value, []).append(i)
    return [members for members in positions.values() if len(members) > 1]


def sibling_clusters(cases: Sequence[Case]) -> list[list[int]]:
    """Return cases whose file names say that one was made from the other (`_downsampled`, `aug_`, `_flip`, …).

    An altered name belongs to its original in the same folder, else to the same name with the same label anywhere (an `aug_` copy in
    train/ of an image in test/).
    """
    stems = [PurePosixPath(case.source).stem for case in cases]
    bases = [_SUFFIX.sub("", _PREFIX.sub("", stem)) or stem for stem in stems]
    altered = [base != stem for base, stem in zip(bases, stems, strict=True)]
    here = {
        (PurePosixPath(case.source).parent, stem): i for i, (case, stem) in enumerate(zip(cases, stems, strict=True))
    }
    originals: dict[tuple[str, str], list[int]] = {}
    for i, case in enumerate(cases):
        if not altered[i]:
            originals.setdefault((case.label, stems[i]), []).append(i)
    sets = UnionFind(len(cases))
    first_altered: dict[tuple[PurePosixPath, str], int] = {}
    for i, case in enumerate(cases):
        if not altered[i]:
            continue
        folder = PurePosixPath(case.source).parent
        beside = here.get((folder, bases[i]))
        if beside is not None:
            sets.union(i, beside)
        else:
            sets.join([i, *originals.get((case.label, bases[i]), [])])
        sets.union(i, first_altered.setdefault((folder, bases[i]), i))
    return _clusters(sets.roots())


def near_duplicate_clusters(
    hashes: npt.NDArray[np.uint64], thumbnails: npt.NDArray[np.uint8], *, max_share: float = 0.05, chunk: int = 512
) -> NearDuplicates:
    """Return clusters of images with perceptual hashes within HAMMING bits and thumbnails that agree.

    hashes: (N,); thumbnails: (N, P) gray. All pairs are compared, `chunk` rows at a time. A cluster may hold `max_share` of all cases, but
    at least 10.
    """
    n = len(hashes)
    sets = UnionFind(n)
    normal, mean, contrast = _normalised(thumbnails)
    seen = 0
    for start in range(0, n, chunk):
        rows = np.arange(start, min(start + chunk, n))
        distance = np.bitwise_count(hashes[rows, None] ^ hashes[None, start:])
        a, b = np.nonzero(distance <= HAMMING)
        a, b = a + start, b + start
        a, b = a[a < b], b[a < b]
        seen += len(a)
        if seen > MAX_CANDIDATES:
            break
        for at in range(0, len(a), 50_000):  # 50,000 pairs of thumbnails: about 400 MB
            i, j = a[at : at + 50_000], b[at : at + 50_000]
            confirmed = _agree(normal, mean, contrast, i, j)
            for left, right in zip(i[confirmed].tolist(), j[confirmed].tolist(), strict=True):
                sets.union(left, right)
    clusters = _clusters(sets.roots())
    limit = max(10, int(max_share * n))
    small = [cluster for cluster in clusters if len(cluster) <= limit]
    return NearDuplicates(small, [cluster for cluster in clusters if len(cluster) > limit], seen <= MAX_CANDIDATES)


def _normalised(
    thumbnails: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return thumbnails with mean 0 and deviation 1, their means and their deviations."""
    values = thumbnails.astype(np.float32)
    mean, contrast = values.mean(axis=1), values.std(axis=1)
    return (values - mean[:, None]) / np.maximum(contrast, 1e-3)[:, None], mean, contrast


def _agree(
    normal: npt.NDArray[np.float32],
    mean: npt.NDArray[np.float32],
    contrast: npt.NDArray[np.float32],
    i: npt.NDArray[np.intp],
    j: npt.NDArray[np.intp],
) -> npt.NDArray[np.bool_]:
    """Tell for each pair of thumbnails whether they show the same picture up to brightness and contrast."""
    a, b = normal[i], normal[j]
    correlation = np.einsum("ij,ij->i", a, b) / a.shape[1]
    difference = np.percentile(np.abs(a - b), 99, axis=1) * np.maximum(contrast[i], contrast[j])
    ratio = np.maximum(contrast[i], contrast[j]) / np.maximum(np.minimum(contrast[i], contrast[j]), 1e-3)
    is_same = (correlation >= MIN_CORRELATION) & (difference <= MAX_DIFFERENCE)
    return cast("npt.NDArray[np.bool_]", is_same & (ratio <= 1.5) & (np.abs(mean[i] - mean[j]) <= 40))


def _clusters(roots: npt.NDArray[np.intp]) -> list[list[int]]:
    return by_value(str(root) for root in roots.tolist())
