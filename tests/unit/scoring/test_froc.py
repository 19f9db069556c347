"""FROC and precision-recall curves of boxes against their definitions, scikit-learn, and physically repeated images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve as sklearn_curve

from clinloop.scoring.evaluate import evaluate, evaluate_once
from clinloop.scoring.froc import RATES, froc_curve, precision_recall_curve
from clinloop.scoring.metrics import Scheme, metrics_of
from clinloop.scoring.predictions import Detected
from clinloop.scoring.truth import TruthBox

from .test_detection import ONE, TWO, Found, Truth, joined, make_images

FROC = ["froc", *(f"froc_{name}" for name in RATES)]


def marks(truth: Truth, found: Found) -> tuple[list[tuple[float, bool]], int]:
    """Return (score, right) of each mark, matched one box after the other, and the number of boxes in the truth."""
    result: list[tuple[float, bool]] = []
    for boxes, seen in zip(truth, found, strict=True):
        free = list(boxes)
        for box in sorted(seen, key=lambda box: -box.score):
            mates = [other for other in free if other.target == box.target and iou(box, other) >= 0.5]
            if mates:
                free.remove(max(mates, key=lambda other: iou(box, other)))
            result.append((box.score, bool(mates)))
    return result, sum(map(len, truth))


def iou(one: Detected, other: TruthBox) -> float:
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one.width * one.height + other.width * other.height - shared)


def points(truth: Truth, found: Found) -> list[tuple[float, float]]:
    """Return (false marks per image, recall) at each threshold, highest first."""
    told, true = marks(truth, found)
    result: list[tuple[float, float]] = []
    for threshold in sorted({score for score, _ in told}, reverse=True):
        shown = [right for score, right in told if score >= threshold]
        result.append(((len(shown) - sum(shown)) / len(truth), sum(shown) / true))
    return result


def by_definition(truth: Truth, found: Found) -> list[float]:
    """Return the FROC metrics from the points."""
    curve = [(0.0, 0.0), *points(truth, found)]
    recalls = [max(recall for false, recall in curve if false <= rate) for rate in RATES.values()]
    return [float(np.mean(recalls)), *recalls]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("scheme", [ONE, TWO])
def test_the_curve_and_its_metrics_are_what_every_threshold_gives(scheme: Scheme, ties: bool) -> None:
    targets = len(scheme.targets)
    for seed in range(6):
        truth, found = make_images(seed, n=30, targets=targets, ties=ties)
        cases = joined(truth, found, targets=targets)
        assert np.stack(froc_curve(cases), axis=1) == pytest.approx(np.array(points(truth, found)))
        values = evaluate_once(FROC, scheme, cases)
        assert list(values) == pytest.approx(by_definition(truth, found))
        assert values[1] < values[0] < values[-1]


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_under_a_weighting_are_those_of_physically_repeated_images(ties: bool) -> None:
    truth, found = make_images(5, n=40, targets=2, ties=ties)
    groups = np.random.default_rng(0).permutation(np.arange(40) % 15)
    counts = np.random.default_rng(1).integers(0, 4, (15, 12))
    weighted = evaluate(FROC, TWO, joined(truth, found, targets=2, groups=groups), counts.astype(np.float64))
    for column, ours in zip(counts.T, weighted.T, strict=True):
        rows = np.repeat(np.arange(40), column[groups])
        assert list(ours) == pytest.approx(by_definition([truth[row] for row in rows], [found[row] for row in rows]))


def test_false_marks_that_reach_a_rate_exactly_are_allowed_and_one_more_is_not() -> None:
    truth: Truth = [(TruthBox(0, 0, 0, 10, 10),), *[()] * 7]
    right, wrong = Detected(0, 0, 0, 10, 10, 0.5), Detected(0, 50, 50, 9, 9, 0.9)
    for n_wrong, expected in ((1, 1.0), (2, 0.0)):  # 1 in 8 images is the rate 1/8
        found: Found = [(right,), *[(wrong,)] * n_wrong, *[()] * (7 - n_wrong)]
        assert evaluate_once(["froc_1_8"], ONE, joined(truth, found))[0] == expected
    equal: Found = [(right,), *[(wrong._replace(score=0.5),)] * 2, *[()] * 5]  # a threshold takes all marks of a score
    assert evaluate_once(["froc_1_8", "froc_1_4"], ONE, joined(truth, equal)).tolist() == [0.0, 1.0]


def test_a_second_mark_on_a_box_is_false() -> None:
    truth: Truth = [(TruthBox(0, 0, 0, 10, 10),)]
    found: Found = [(Detected(0, 0, 0, 10, 10, 0.9), Detected(0, 0, 0, 10, 10, 0.8))]
    assert list(zip(*froc_curve(joined(truth, found)), strict=True)) == [(0.0, 1.0), (1.0, 1.0)]


@pytest.mark.parametrize("ties", [False, True])
def test_the_precision_recall_curve_equals_scikit_learn(ties: bool) -> None:
    truth, found = make_images(2, targets=2, ties=ties)
    cases = joined(truth, found, targets=2)
    for target in (0, 1, None):
        boxes = [tuple(box for box in image if target in (None, box.target)) for image in truth]
        seen = [tuple(box for box in image if target in (None, box.target)) for image in found]
        told, true = marks(boxes, seen)
        precision, recall, _ = sklearn_curve([right for _, right in told], [score for score, _ in told])
        reachable = sum(right for _, right in told) / true  # scikit-learn knows only of boxes that some mark finds
        ours = precision_recall_curve(cases, target)
        assert ours.recall == pytest.approx(recall[-2::-1] * reachable)
        assert ours.precision == pytest.approx(precision[-2::-1])


def test_without_boxes_there_is_no_recall_and_without_marks_there_are_no_points() -> None:
    nothing = joined([()], [(Detected(0, 0, 0, 5, 5, 0.9),)])
    assert np.isnan(evaluate_once(FROC, ONE, nothing)).all()
    assert froc_curve(nothing).fp_per_image.tolist() == [1.0]
    assert np.isnan(froc_curve(nothing).recall).all()
    unseen = joined([(TruthBox(0, 0, 0, 5, 5),)], [()])
    assert evaluate_once(FROC, ONE, unseen).tolist() == [0.0] * 8
    assert [len(column) for column in (*froc_curve(unseen), *precision_recall_curve(unseen))] == [0] * 4


def test_a_family_of_targets_is_offered_only_where_there_are_several() -> None:
    assert "ap50_<target>" not in {metric.name for metric in metrics_of(ONE)}
    assert "ap50_<target>" in {metric.name for metric in metrics_of(TWO)}
