"""Splits: whole groups, every class where it can be, the same for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from clinloop.datasets.splits import assign_splits, split_digest, split_problems


def random_cases(seed: int, n: int = 400, n_groups: int = 120, n_classes: int = 4) -> tuple[list[str], list[int]]:
    draw = np.random.default_rng(seed)
    weights = np.array([2.0**-i for i in range(n_classes)])
    return (
        [f"c{i}" for i in draw.choice(n_classes, n, p=weights / weights.sum())],
        draw.integers(0, n_groups, n).tolist(),
    )


@pytest.mark.parametrize("seed", range(20))
def test_no_group_is_in_two_splits_and_the_shares_are_near_what_was_asked(seed: int) -> None:
    labels, groups = random_cases(seed)
    splits = assign_splits(labels, groups, [False] * 400, test=0.2, val=0.2, seed=seed)
    assert all(
        len({split for split, other in zip(splits, groups, strict=True) if other == group}) == 1
        for group in set(groups)
    )
    share = Counter(splits)
    # Both are fractions: test of all cases, val of those that are not test.
    assert 0.1 < share["test"] / 400 < 0.3 and 0.08 < share["val"] / 400 < 0.3
    assert {(label, split) for label, split in zip(labels, splits, strict=True)} == {
        (f"c{i}", split) for i in range(4) for split in ("train", "val", "test")
    }


@pytest.mark.parametrize("seed", range(20))
def test_a_class_with_just_enough_groups_is_in_every_part(seed: int) -> None:
    labels, groups = ["common"] * 60 + ["rare"] * 3, [*range(60), 60, 61, 62]
    splits = assign_splits(labels, groups, [False] * 63, test=0.2, val=0.2, seed=seed)
    assert sorted(splits[60:]) == ["test", "train", "val"]


def test_the_official_test_stays_as_it_is() -> None:
    labels, groups = random_cases(0)
    official = [i % 3 == 0 for i in range(400)]
    splits = assign_splits(labels, groups, official, test=None, val=0.25, seed=0)
    assert [split == "test" for split in splits] == official


def test_the_split_depends_on_the_seed_alone() -> None:
    labels, groups = random_cases(0)
    first, again, other = (
        assign_splits(labels, groups, [False] * 400, test=0.2, val=0.2, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again and first != other
    assert split_digest([("a", "train"), ("b", "val")]) == split_digest([("b", "val"), ("a", "train")])
    assert split_digest([("a", "train"), ("b", "val")]) != split_digest([("a", "val"), ("b", "train")])


def test_every_class_with_too_few_groups_is_named() -> None:
    labels, groups = ["a", "a", "a", "b", "b", "c"], [0, 1, 2, 3, 3, 4]
    problems = split_problems(labels, groups, [False] * 6, ["a", "b", "c", "d"], parts=3)
    assert [problem.split("'")[1] for problem in problems] == ["b", "c", "d"]
