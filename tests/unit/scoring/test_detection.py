"""Detection metrics against pycocotools, on the images as they are, on repeated images, with ties, empty images and several targets."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import roc_auc_score

from clinloop.scoring.detection import BoxCases, match, max_f1_threshold
from clinloop.scoring.evaluate import evaluate, evaluate_once
from clinloop.scoring.metrics import Scheme, metrics_of
from clinloop.scoring.predictions import Detected
from clinloop.scoring.truth import TruthBox

ONE = Scheme(("no fracture", "fracture"), task_type="detection", targets=("fracture",))
TWO = replace(ONE, targets=("fracture", "metal"))
NAMES = [metric.name for metric in metrics_of(ONE)]
Truth = list[tuple[TruthBox, ...]]
Found = list[tuple[Detected, ...]]


SIZES = ("ap50_95_small", "ap50_95_medium", "ap50_95_large")
COCO_NAMES = ["ap50", "ap75", "ap50_95", *SIZES, "ar100"]


def make_images(
    seed: int = 0, n: int = 60, *, targets: int = 1, ties: bool = False, scale: float = 1.0
) -> tuple[Truth, Found]:
    """Return images with 0 to 3 boxes, found about half the time, more or less exactly, among false boxes; sides are scaled."""
    random = np.random.default_rng(seed)
    truth: Truth = []
    found: Found = []
    for _ in range(n):
        boxes = [
            TruthBox(int(random.integers(targets)), *random.uniform(0, 60, 2), *random.uniform(10, 40, 2))
            for _ in range(random.integers(0, 4))
        ]
        seen: list[Detected] = []
        for box in boxes:
            for _ in range(random.integers(0, 3)):
                moved = np.array(box[1:]) + random.normal(0, 2.5, 4)
                seen.append(Detected(box.target, *moved[:2], *np.maximum(moved[2:], 1), random.beta(3, 2)))
        for _ in range(random.integers(0, 5)):
            seen.append(
                Detected(
                    int(random.integers(targets)),
                    *random.uniform(0, 60, 2),
                    *random.uniform(5, 40, 2),
                    random.beta(2, 3),
                )
            )
        if ties:
            seen = [box._replace(score=round(box.score * 4) / 4) for box in seen]
        truth.append(tuple(TruthBox(box.target, *(side * scale for side in box[1:])) for box in boxes))
        seen = [Detected(box.target, *(side * scale for side in box[1:5]), box.score) for box in seen]
        found.append(tuple(seen[place] for place in random.permutation(len(seen))))
    return truth, found


def joined(
    truth: Truth, found: Found, *, targets: int = 1, groups: np.ndarray | None = None, threshold: float = 0.5
) -> BoxCases:
    places = np.arange(len(truth)) if groups is None else groups
    return match(
        truth,
        found,
        case_ids=[f"c{number:06d}" for number in range(len(truth))],
        n_targets=targets,
        groups=places.astype(np.intp),
        n_groups=int(places.max()) + 1,
        threshold=threshold,
    )


def coco(truth: Truth, found: Found, *, targets: int = 1) -> dict[str, float]:
    """Return what pycocotools makes of COCO_NAMES; NaN where it says -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO()
        oracle.dataset = {
            "images": [{"id": number} for number in range(len(truth))],
            "categories": [{"id": target + 1} for target in range(targets)],
            "annotations": [
                {
                    "id": number + 1,
                    "image_id": image,
                    "category_id": box.target + 1,
                    "bbox": list(box[1:]),
                    "area": box.width * box.height,
                    "iscrowd": 0,
                }
                for number, (image, box) in enumerate(
                    (image, box) for image, boxes in enumerate(truth) for box in boxes
                )
            ],
        }
        oracle.createIndex()
        results = [
            {"image_id": image, "category_id": box.target + 1, "bbox": list(box[1:5]), "score": box.score}
            for image, boxes in enumerate(found)
            for box in boxes
        ]
        run = COCOeval(oracle, oracle.loadRes(results), "bbox") if results else COCOeval(oracle, COCO(), "bbox")
        if not results:
            run.cocoDt.dataset = {**oracle.dataset, "annotations": []}
            run.cocoDt.createIndex()
        run.params.maxDets = [100]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., 0]  # (T, 101, targets, areas)
    recall = run.eval["recall"][:, :, 0, 0]  # (T, targets)

    def mean(values: np.ndarray) -> float:
        return float(values[values > -1].mean()) if (values > -1).any() else float("nan")

    everything = [mean(precision[0, ..., 0]), mean(precision[5, ..., 0]), mean(precision[..., 0])]
    return dict(
        zip(COCO_NAMES, [*everything, *(mean(precision[..., area]) for area in (1, 2, 3)), mean(recall)], strict=True)
    )


def assert_as_coco(ours: np.ndarray, truth: Truth, found: Found, *, targets: int = 1) -> None:
    expected = coco(truth, found, targets=targets)
    assert dict(zip(COCO_NAMES, ours, strict=True)) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_equals_pycocotools(targets: int, ties: bool) -> None:
    scheme = replace(ONE, targets=("a", "b", "c")[:targets])
    for seed in range(4):
        for scale in (1.0, 3.0):  # sides of 10 to 40, then of 30 to 120 pixels
            truth, found = make_images(seed, targets=targets, ties=ties, scale=scale)
            ours = evaluate_once(COCO_NAMES, scheme, joined(truth, found, targets=targets))
            assert_as_coco(ours, truth, found, targets=targets)
            assert 0.1 < ours[2] < ours[0] < 0.95
            assert len(set(ours[3:6])) == 3


def test_boxes_at_the_edge_of_a_range_of_areas_count_as_coco_counts_them() -> None:
    sides = (31.999, 32.0, 32.001, 95.999, 96.0, 96.001)
    truth: Truth = [(TruthBox(0, 5, 5, side, side), TruthBox(0, 300, 300, 20, 20)) for side in sides]
    for factor in (0.97, 1.0, 1.03, 2.0):  # the predicted box may be of another range, and with 2 it has no match
        found: Found = [
            (
                Detected(0, 5, 5, side * factor, side, 0.5 + number / 20),
                Detected(0, 150, 150, side, side, 0.9 - number / 9),
            )
            for number, side in enumerate(sides)
        ]
        assert_as_coco(evaluate_once(COCO_NAMES, ONE, joined(truth, found)), truth, found)


def test_nothing_predicted_one_image_and_no_box_of_a_size_are_as_in_coco() -> None:
    truth, found = make_images(1, n=12, scale=3.0)
    assert_as_coco(evaluate_once(COCO_NAMES, ONE, joined(truth, [()] * 12)), truth, [()] * 12)
    for at in range(12):
        one, seen = truth[at : at + 1], found[at : at + 1]
        assert_as_coco(evaluate_once(COCO_NAMES, ONE, joined(one, seen)), one, seen)


def test_a_weighting_equals_pycocotools_on_physically_repeated_images() -> None:
    for ties in (False, True):
        truth, found = make_images(3, n=40, targets=2, scale=3.0, ties=ties)
        # Scores are equal in different images only: copies of one image would stand one after the other in COCO.
        found = [tuple(box._replace(score=box.score + at / 100) for at, box in enumerate(seen)) for seen in found]
        groups = np.random.default_rng(0).permutation(np.arange(40) % 15)
        cases = joined(truth, found, targets=2, groups=groups)
        counts = np.random.default_rng(1).integers(0, 4, (15, 8))
        weighted = evaluate(COCO_NAMES, TWO, cases, counts.astype(np.float64))
        for column, ours in zip(counts.T, weighted.T, strict=True):
            rows = np.repeat(np.arange(40), column[groups])
            assert_as_coco(ours, [truth[row] for row in rows], [found[row] for row in rows], targets=2)


def test_the_precision_of_a_target_is_that_of_its_boxes_alone() -> None:
    truth, found = make_images(6, targets=2)
    values = evaluate_once(["ap50_fracture", "ap50_metal", "ap50"], TWO, joined(truth, found, targets=2))
    for place in range(2):
        boxes = [tuple(box._replace(target=0) for box in image if box.target == place) for image in truth]
        seen = [tuple(box._replace(target=0) for box in image if box.target == place) for image in found]
        assert values[place] == pytest.approx(coco(boxes, seen)["ap50"], abs=1e-12)
    assert values[2] == pytest.approx(values[:2].mean())


def test_every_metric_under_a_weighting_equals_physically_repeated_images() -> None:
    truth, found = make_images(5, n=50, scale=2.5)
    groups = np.arange(50) % 20
    counts = np.random.default_rng(2).integers(0, 3, (20, 10))
    weighted = evaluate(NAMES, ONE, joined(truth, found, groups=groups), counts.astype(np.float64))
    for column, ours in zip(counts.T, weighted.T, strict=True):
        rows = np.repeat(np.arange(50), column[groups])
        repeated = joined([truth[row] for row in rows], [found[row] for row in rows])
        np.testing.assert_allclose(ours, evaluate_once(NAMES, ONE, repeated), rtol=0, atol=1e-12)


def test_recall_that_falls_on_a_recall_point_counts_as_coco_counts_it() -> None:
    # 57 of 100 found: 57 * 0.01 is more than 0.57 in floating point, and COCO compares just so.
    for n_found in (7, 28, 29, 56, 57, 58, 99, 100):
        truth: Truth = [(TruthBox(0, 0, 0, 10, 10),)] * 100
        found: Found = [(Detected(0, 0, 0, 10, 10, 1 - number / 200),) * (number < n_found) for number in range(100)]
        assert evaluate_once(["ap50"], ONE, joined(truth, found))[0] == pytest.approx(
            coco(truth, found)["ap50"], abs=1e-12
        )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(Detected(0, 10, 10, 20, 20, 0.9),), ()], 1.0),
        ([(Detected(0, 10, 10, 20, 20, 0.9),), (Detected(0, 0, 0, 5, 5, 0.95),)], 0.5),
        ([(), ()], 0.0),
        ([(Detected(0, 10, 10, 0, 0, 0.9),), ()], 0.0),
        (
            [(Detected(0, 10, 10, 20, 20, 0.9), Detected(0, 10, 10, 20, 20, 0.8)), ()],
            1.0,
        ),  # a double is false, but later
    ],
    ids=["exact", "a better false box", "nothing found", "a box without area", "a double"],
)
def test_average_precision_of_images_that_can_be_told_by_hand(found: Found, expected: float) -> None:
    truth: Truth = [(TruthBox(0, 10, 10, 20, 20),), ()]
    assert evaluate_once(["ap50"], ONE, joined(truth, found))[0] == pytest.approx(expected)


def test_without_a_box_in_the_truth_precision_of_boxes_is_undefined_and_never_zero() -> None:
    cases = joined([(), ()], [(Detected(0, 0, 0, 5, 5, 0.9),), ()])
    values = dict(zip(NAMES, evaluate_once(NAMES, ONE, cases), strict=True))
    assert {name for name, value in values.items() if not np.isnan(value)} == {"precision", "f1"}
    assert np.isnan(max_f1_threshold(cases))


def test_a_target_without_a_box_is_left_out_of_the_mean() -> None:
    truth, found = make_images(1)
    one = evaluate_once(["ap50", "ap50_95"], ONE, joined(truth, found))
    two = evaluate_once(["ap50", "ap50_95"], TWO, joined(truth, found, targets=2))
    assert tuple(one) == tuple(two)


def test_the_order_of_the_cases_changes_nothing_even_among_equal_scores() -> None:
    truth, found = make_images(2, ties=True)
    ids, order = [f"{number:03d}" for number in range(60)], np.random.default_rng(0).permutation(60)
    values = [
        evaluate_once(
            NAMES,
            ONE,
            match(
                [truth[row] for row in rows],
                [found[row] for row in rows],
                case_ids=[ids[row] for row in rows],
                n_targets=1,
                groups=np.arange(60),
                n_groups=60,
                threshold=0.5,
            ),
        )
        for rows in (range(60), order)
    ]
    np.testing.assert_array_equal(values[0], values[1])


def brute_force(truth: Truth, found: Found, threshold: float) -> tuple[int, int, int]:
    """Return found, shown and true boxes at a threshold, by matching one box after the other."""
    hits = shown = 0
    for boxes, seen in zip(truth, found, strict=True):
        free = list(boxes)
        for box in sorted(seen, key=lambda box: -box.score):
            if box.score < threshold:
                continue
            shown += 1
            best = max(free, key=lambda other: iou(box, other), default=None)
            if best is not None and iou(box, best) >= 0.5:
                free.remove(best)
                hits += 1
    return hits, shown, sum(map(len, truth))


def iou(one: Detected, other: TruthBox) -> float:
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one.width * one.height + other.width * other.height - shared)


@pytest.mark.parametrize("ties", [False, True])
def test_the_operating_point_has_the_largest_f1_of_all_thresholds(ties: bool) -> None:
    for seed in range(6):
        truth, found = make_images(seed, n=30, ties=ties)
        scores = sorted({box.score for seen in found for box in seen}, reverse=True)
        f1 = [2 * hits / (shown + true) for hits, shown, true in (brute_force(truth, found, score) for score in scores)]
        threshold = max_f1_threshold(joined(truth, found))
        assert threshold == scores[int(np.argmax(np.round(f1, 12)))]
        hits, shown, true = brute_force(truth, found, threshold)
        values = evaluate_once(["precision", "recall", "f1"], ONE, joined(truth, found, threshold=threshold))
        assert tuple(values) == pytest.approx((hits / shown, hits / true, max(f1)))


def test_the_image_auc_is_that_of_the_best_score() -> None:
    truth, found = make_images(4)
    best = [max((box.score for box in seen), default=0.0) for seen in found]
    expected = roc_auc_score([len(boxes) > 0 for boxes in truth], best)
    assert evaluate_once(["image_auc"], ONE, joined(truth, found))[0] == pytest.approx(expected)


def test_without_an_operating_point_what_needs_one_is_undefined() -> None:
    truth, found = make_images(0)
    values = evaluate_once(["precision", "recall", "f1", "ap50"], ONE, joined(truth, found, threshold=np.nan))
    assert np.isnan(values[:3]).all()
    assert values[3] > 0


def test_a_box_between_two_takes_the_one_that_coco_gives_it() -> None:
    truth: Truth = [(TruthBox(0, 0, 0, 20, 20), TruthBox(0, 4, 0, 20, 20))]
    for other in (6, -2):  # what is left for this box decides at which IoU it is found
        found: Found = [(Detected(0, 2, 0, 20, 20, 0.9), Detected(0, other, 0, 20, 20, 0.8))]
        ours = evaluate_once(COCO_NAMES, ONE, joined(truth, found))
        assert_as_coco(ours, truth, found)
        assert ours[2] < 0.8
