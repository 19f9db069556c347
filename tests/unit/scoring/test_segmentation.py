"""Segmentation metrics of run lengths against drawn masks."""

from __future__ import annotations

import numpy as np
import pytest

from clinloop.scoring import segmentation
from clinloop.scoring.evaluate import evaluate, evaluate_once
from clinloop.scoring.metrics import Scheme, metrics_of
from clinloop.scoring.predictions import Mask
from clinloop.scoring.segmentation import MaskCases, areas, measure

from .test_surfaces import by_definition

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


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum()) if one.any() or other.any() else 1.0


def by_drawing(truth: list[np.ndarray], found: list[np.ndarray]) -> dict[str, float]:
    having = [(one, other) for one, other in zip(truth, found, strict=True) if one.any()]
    empty = [other for one, other in zip(truth, found, strict=True) if not one.any()]
    diagonal = np.hypot(*truth[0].shape)
    distances = [by_definition(one, other) if other.any() else (diagonal, 0.0) for one, other in having]
    values = {
        "dice": [dice(one, other) for one, other in having],
        "dice_all": [dice(one, other) for one, other in zip(truth, found, strict=True)],
        "iou": [(one & other).sum() / (one | other).sum() for one, other in having],
        "hd95": [hd95 for hd95, _ in distances],
        "nsd": [nsd for _, nsd in distances],
        "image_sensitivity": [other.any() for _, other in having],
        "image_specificity": [not other.any() for other in empty],
    }
    return {name: float(np.mean(values[name])) for name in NAMES}


def test_areas_are_those_of_drawn_masks() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        one, other = draw(random), draw(random)
        found = areas(counts_of(one), counts_of(other))
        assert found == ((one & other).sum(), one.sum(), other.sum())


def test_metrics_equal_those_of_drawn_masks() -> None:
    for seed in range(5):
        truth, found = make_masks(seed)
        values = dict(zip(NAMES, evaluate_once(NAMES, SCHEME, joined(truth, found)), strict=True))
        assert values == pytest.approx(by_drawing(truth, found))


def test_a_weighting_equals_physically_repeated_images() -> None:
    truth, found = make_masks(7)
    groups = np.arange(60) % 25
    counts = np.random.default_rng(2).integers(0, 4, (25, 10))
    weighted = evaluate(NAMES, SCHEME, joined(truth, found, groups), counts.astype(np.float64))
    for column, ours in zip(counts.T, weighted.T, strict=True):
        rows = np.repeat(np.arange(60), column[groups])
        expected = by_drawing([truth[row] for row in rows], [found[row] for row in rows])
        assert dict(zip(NAMES, ours, strict=True)) == pytest.approx(expected)


def test_overlap_is_undefined_without_a_target_and_specificity_without_an_empty_image() -> None:
    full, empty = np.ones((3, 3), bool), np.zeros((3, 3), bool)
    without = dict(zip(NAMES, evaluate_once(NAMES, SCHEME, joined([empty, empty], [full, empty])), strict=True))
    assert {name for name, value in without.items() if np.isnan(value)} == {
        "dice",
        "iou",
        "hd95",
        "nsd",
        "image_sensitivity",
    }
    assert without["image_specificity"] == 0.5
    only = dict(zip(NAMES, evaluate_once(NAMES, SCHEME, joined([full], [empty])), strict=True))
    assert np.isnan(only["image_specificity"])
    assert (only["dice"], only["dice_all"], only["iou"], only["nsd"], only["image_sensitivity"]) == (0.0,) * 5
    assert only["hd95"] == pytest.approx(np.sqrt(18))  # the diagonal of the image


def test_masks_that_are_both_empty_count_as_1_in_dice_all_and_one_alone_as_0() -> None:
    full, empty = np.ones((3, 3), bool), np.zeros((3, 3), bool)
    for truth, found, expected in (
        ([empty], [empty], 1.0),
        ([empty], [full], 0.0),
        ([full], [empty], 0.0),
        ([full, empty, empty], [full, empty, full], 2 / 3),
    ):
        assert evaluate_once(["dice_all"], SCHEME, joined(truth, found))[0] == pytest.approx(expected)


def test_distances_are_measured_only_for_a_metric_that_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "compare", lambda *_: pytest.fail("measured"))
    cases = joined(*make_masks(0))
    evaluate_once([name for name in NAMES if name not in ("hd95", "nsd")], SCHEME, cases)
    with pytest.raises(pytest.fail.Exception):
        evaluate_once(["nsd"], SCHEME, cases)
