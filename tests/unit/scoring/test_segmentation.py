"""Segmentation metrics of run lengths against drawn masks."""

from __future__ import annotations

import numpy as np
import pytest

from clinloop.scoring.evaluate import evaluate, evaluate_once
from clinloop.scoring.metrics import Scheme, metrics_of
from clinloop.scoring.predictions import Mask
from clinloop.scoring.segmentation import MaskCases, areas, measure

SCHEME = Scheme(("no pneumothorax", "pneumothorax"), task_type="segmentation", targets=("pneumothorax",))
NAMES = [metric.name for metric in metrics_of(SCHEME)]


def draw(random: np.random.Generator, *, height: int = 23, width: int = 17, share: float = 0.4) -> np.ndarray:
    mask = random.random((height, width)) < share
    return mask & (random.random() < 0.7)  # some are empty


def counts_of(mask: np.ndarray) -> tuple[int, ...]:
    """Return run lengths, counted pixel by pixel."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = not value
        counts[-1] += 1
    return tuple(counts)


def make_masks(seed: int = 0, n: int = 60) -> tuple[list[np.ndarray], list[np.ndarray]]:
    random = np.random.default_rng(seed)
    truth = [draw(random) for _ in range(n)]
    return truth, [(mask & (random.random() < 0.8)) ^ draw(random, share=0.1) for mask in truth]


def joined(truth: list[np.ndarray], found: list[np.ndarray], groups: np.ndarray | None = None) -> MaskCases:
    places = np.arange(len(truth)) if groups is None else groups
    masks = [Mask(*mask.shape, counts_of(mask)) for mask in found]
    return measure([counts_of(mask) for mask in truth], masks, places.astype(np.intp), int(places.max()) + 1)


def by_drawing(truth: list[np.ndarray], found: list[np.ndarray]) -> list[float]:
    having = [(one, other) for one, other in zip(truth, found, strict=True) if one.any()]
    empty = [other for one, other in zip(truth, found, strict=True) if not one.any()]
    return [
        float(np.mean([2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in having])),
        float(np.mean([(one & other).sum() / (one | other).sum() for one, other in having])),
        float(np.mean([other.any() for _, other in having])),
        float(np.mean([not other.any() for other in empty])),
    ]


def test_areas_are_those_of_drawn_masks() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        one, other = draw(random), draw(random)
        found = areas(counts_of(one), counts_of(other))
        assert found == ((one & other).sum(), one.sum(), other.sum())


def test_metrics_equal_those_of_drawn_masks() -> None:
    for seed in range(5):
        truth, found = make_masks(seed)
        assert tuple(evaluate_once(NAMES, SCHEME, joined(truth, found))) == pytest.approx(by_drawing(truth, found))


def test_a_weighting_equals_physically_repeated_images() -> None:
    truth, found = make_masks(7)
    groups = np.arange(60) % 25
    counts = np.random.default_rng(2).integers(0, 4, (25, 10))
    weighted = evaluate(NAMES, SCHEME, joined(truth, found, groups), counts.astype(np.float64))
    for column, ours in zip(counts.T, weighted.T, strict=True):
        rows = np.repeat(np.arange(60), column[groups])
        assert tuple(ours) == pytest.approx(by_drawing([truth[row] for row in rows], [found[row] for row in rows]))


def test_overlap_is_undefined_without_a_target_and_specificity_without_an_empty_image() -> None:
    full, empty = np.ones((3, 3), bool), np.zeros((3, 3), bool)
    without = dict(zip(NAMES, evaluate_once(NAMES, SCHEME, joined([empty, empty], [full, empty])), strict=True))
    assert {name for name, value in without.items() if np.isnan(value)} == {"dice", "iou", "image_sensitivity"}
    assert without["image_specificity"] == 0.5
    only = dict(zip(NAMES, evaluate_once(NAMES, SCHEME, joined([full], [empty])), strict=True))
    assert np.isnan(only["image_specificity"])
    assert (only["dice"], only["iou"], only["image_sensitivity"]) == (0.0, 0.0, 0.0)
