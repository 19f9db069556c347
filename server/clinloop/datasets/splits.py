"""Train, validation and test: by group, stratified, the same for the same seed."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from clinloop.datasets.case import Split

Indices = npt.NDArray[np.intp]


def assign_splits(
    labels: Sequence[str],
    groups: Sequence[int],
    is_official_test: Sequence[bool],
    *,
    test: float | None,
    val: float,
    seed: int,
) -> list[Split]:
    """Return the split of every case.

    The official test stays as it is; with `test` a fraction there must be none. The other cases are split by group so that each class has
    about the same share in each part, and at least one group where it has enough of them.
    """
    y = np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.intp)
    group = np.asarray(groups, dtype=np.intp)
    splits = np.where(np.asarray(is_official_test, dtype=np.bool_), "test", "train")
    pool = np.flatnonzero(splits == "train")
    if test is not None:
        splits[pool[_carve(y[pool], group[pool], test, seed)]] = "test"
        pool, val = np.flatnonzero(splits == "train"), min(0.5, val / (1 - test))
    splits[pool[_carve(y[pool], group[pool], val, seed + 1)]] = "val"
    return splits.tolist()


def split_problems(
    labels: Sequence[str],
    groups: Sequence[int],
    is_official_test: Sequence[bool],
    classes: Sequence[str],
    *,
    parts: int,
) -> list[str]:
    """Return, for each of some classes with too few groups to be in every one of `parts` parts, one sentence."""
    groups_of: dict[str, set[int]] = {name: set() for name in classes}
    for label, group, official in zip(labels, groups, is_official_test, strict=True):
        if not official and label in groups_of:
            groups_of[label].add(group)
    names = "train, validation and test" if parts == 3 else "train and validation"
    return [
        f"Class {name!r} has {len(found)} group(s) of images; {parts} are needed to have it in {names}. Add images or leave the class out."
        for name, found in groups_of.items()
        if len(found) < parts
    ]


def keep_share(labels: Sequence[str], groups: Sequence[int], share: float, seed: int) -> list[bool]:
    """Choose about `share` of the cases: whole groups, of each label (a group's most frequent) the same share, at least one group each."""
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    by_label: dict[str, list[list[int]]] = {}
    for inside in members.values():
        counts = Counter(labels[i] for i in inside)
        by_label.setdefault(max(sorted(counts), key=counts.__getitem__), []).append(inside)
    draw = np.random.default_rng(seed)
    kept = [False] * len(labels)
    for _, candidates in sorted(by_label.items()):
        wanted, taken = share * sum(map(len, candidates)), 0
        for at in draw.permutation(len(candidates)).tolist():
            size = len(candidates[at])
            if taken and taken + size / 2 > wanted:  # the next group would lead further away from the share
                continue
            taken += size
            for i in candidates[at]:
                kept[i] = True
    return kept


def split_digest(splits: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 over the sorted lines `case_id,split`."""
    return hashlib.sha256("".join(f"{case_id},{split}\n" for case_id, split in sorted(splits)).encode()).hexdigest()


def _carve(y: Indices, group: Indices, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose about `fraction` of the cases, whole groups only, every class included where it has two groups."""
    chosen = np.zeros(len(y), dtype=np.bool_)
    if len(np.unique(group)) < 2:
        return chosen
    largest_class = int(np.bincount(y).max())
    if largest_class >= 2:  # else no fold can be made; the loans below do what can be done
        n_folds, n_taken = _as_folds(fraction, min(len(np.unique(group)), largest_class))
        folds = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with fewer cases than folds: the loans below
            parts = [part for _, part in folds.split(np.zeros(len(y)), y, group)]
        for part in parts[:n_taken]:
            chosen[part] = True
    _lend(chosen, y, group)
    return chosen


def _as_folds(fraction: float, most: int) -> tuple[int, int]:
    """Return folds and how many of them to take: the fraction with the smallest number of folds that comes close."""
    options = [(n, max(1, min(n - 1, round(fraction * n)))) for n in range(2, max(2, min(10, most)) + 1)]
    return min(options, key=lambda option: abs(option[1] / option[0] - fraction) + 0.002 * option[0])


def _lend(chosen: npt.NDArray[np.bool_], y: Indices, group: Indices) -> None:
    """Move the smallest groups so that every class with two groups is on both sides."""
    for side in (True, False):
        for label in np.unique(y).tolist():
            has_label = y == label
            if (chosen[has_label] == side).any():
                continue
            sizes: Counter[int] = Counter(group[np.isin(group, group[has_label])].tolist())
            for candidate, _ in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
                members = group == candidate
                trial = chosen.copy()
                trial[members] = side
                lost = [other for other in np.unique(y[members]).tolist() if not (trial[y == other] != side).any()]
                if not lost:
                    chosen[:] = trial
                    break
