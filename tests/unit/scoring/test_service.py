"""Scoring through the capped child process, as the supervisor calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clinloop.errors import BadInput, BadPredictions, Refusal
from clinloop.scoring import service
from clinloop.scoring.metrics import metrics_of
from clinloop.scoring.service import ChildLimits, Scheme, TruthBox, TruthCase

CLASSES = ["MEL", "NV", "BCC"]
SCHEME = Scheme(tuple(CLASSES))
ALL = [metric.of("MEL") if metric.per_class else metric.name for metric in metrics_of(SCHEME)]
TruthRows = list[TruthCase]


@pytest.fixture(scope="module")
def truth() -> TruthRows:
    random = np.random.default_rng(0)
    return [TruthCase(f"c{index:011x}", f"g{index // 2}", CLASSES[random.integers(0, 3)]) for index in range(120)]


def predict(truth: TruthRows, *, skill: float, seed: int = 1) -> bytes:
    random = np.random.default_rng(seed)
    rows: dict[str, list[float]] = {}
    for case_id, _, label, *_ in truth:
        scores = random.random(3)
        scores[CLASSES.index(label)] += skill
        rows[case_id] = list(scores / scores.sum())
    return service.probabilities_csv(rows, CLASSES)


@pytest.fixture
def score(truth: TruthRows) -> Callable[..., service.ScoreResult]:
    def call(predictions: Path | bytes, **options: object) -> service.ScoreResult:
        settings: dict[str, object] = {"metrics": ["macro_auc"], "intervals": False, "scheme": SCHEME, **options}
        return service.score_predictions(predictions, truth, primary="macro_auc", **settings)  # pyright: ignore[reportArgumentType]

    return call


def test_a_score_has_everything_that_a_run_records(truth: TruthRows, tmp_path: Path) -> None:
    file, truth_file = tmp_path / "predictions.csv", tmp_path / "val_truth.csv"
    file.write_bytes(predict(truth, skill=0.5))
    truth_file.write_text(
        "case_id,group,label\n" + "".join(",".join(row[:3]) + "\n" for row in truth), encoding="utf-8"
    )
    result = service.score_predictions(
        file,
        truth_file,
        scheme=SCHEME,
        metrics=ALL,
        primary="macro_auc",
        operating_rule="sensitivity>=0.9",
        resamples=200,
        seed=7,
    )
    assert set(result.metrics) == set(ALL)
    for estimate in result.metrics.values():
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high
    assert result.primary == result.metrics["macro_auc"].value
    assert result.operating_points["MEL"].sensitivity >= 0.9
    assert [row.n for row in result.per_class] == [sum(case.label == name for case in truth) for name in CLASSES]
    assert result.per_class[0].sensitivity == result.metrics["sensitivity_MEL"].value
    assert sum(map(sum, result.confusion)) == result.n == 120
    assert (result.groups, result.resamples, result.seed) == (60, 200, 7)
    assert json.loads(json.dumps(result.as_json(), allow_nan=False))["metrics"]["macro_auc"]["value"] == result.primary


def test_the_same_seed_gives_the_same_result(truth: TruthRows, score: Callable[..., service.ScoreResult]) -> None:
    data = predict(truth, skill=0.3)
    first, second, other = (score(data, intervals=True, resamples=100, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first.metrics["macro_auc"].low != other.metrics["macro_auc"].low


def test_few_groups_and_absent_classes_are_said(truth: TruthRows) -> None:
    few = [row for row in truth if row[2] != "BCC"][:20]
    result = service.score_predictions(
        predict(few, skill=0.4), few, scheme=SCHEME, metrics=["auc_BCC"], primary="macro_auc", resamples=50
    )
    assert result.metrics["auc_BCC"] == service.Estimate(None)
    assert "BCC" not in result.operating_points
    assert len(result.notes) >= 2
    assert "2 of 3" in " ".join(result.notes)


def test_one_group_has_no_interval(truth: TruthRows) -> None:
    one = [case._replace(group="g") for case in truth]
    result = service.score_predictions(
        predict(one, skill=0.4), one, scheme=SCHEME, metrics=[], primary="macro_auc", resamples=50
    )
    assert result.metrics["macro_auc"].value is not None
    assert (result.metrics["macro_auc"].low, result.resamples) == (None, 0)
    pairs = service.compare(
        predict(one, skill=0.1), predict(one, skill=0.4), one, scheme=SCHEME, metrics=["macro_auc"], resamples=50
    )
    assert (pairs[0].p, pairs[0].p_gain, pairs[0].difference.low) == (None, None, None)


def test_cases_without_a_group_are_groups_of_their_own(truth: TruthRows) -> None:
    alone = [case._replace(group="") for case in truth]
    result = service.score_predictions(
        predict(alone, skill=0.4), alone, scheme=SCHEME, metrics=[], primary="f1", intervals=False
    )
    assert result.groups == 120


def test_a_better_run_is_accepted_and_a_copy_is_not(truth: TruthRows) -> None:
    weak, strong = predict(truth, skill=0.2), predict(truth, skill=0.8)

    def decide(run: bytes, incumbent: bytes | None, **options: object) -> service.Decision:
        return service.decide(
            run,
            incumbent,
            truth,
            scheme=SCHEME,
            primary="macro_auc",
            resamples=300,
            **options,  # pyright: ignore[reportArgumentType]
        )

    assert decide(weak, None).reason == "baseline"
    assert decide(strong, weak, guards={"auc_MEL": 0.02, "brier": 0.0}).reason == "better"
    assert decide(weak, strong).reason == "not_better"
    assert decide(strong, strong, mode="paper").reason == "not_better"


def test_final_scores_use_the_given_operating_points_and_fix_none(truth: TruthRows) -> None:
    initial, refined = predict(truth, skill=0.2), predict(truth, skill=0.8)
    point = {"rule": "youden", "class_name": "MEL", "threshold": 0.0, "sensitivity": 0.5, "specificity": 0.5}
    sensitivity, nothing, auc = service.final_scores(
        initial,
        refined,
        truth,
        scheme=SCHEME,
        metrics=["sensitivity_MEL", "sensitivity_NV", "macro_auc"],
        operating_points_initial={"MEL": point},
        operating_points_refined={"MEL": point | {"threshold": 1.1}},
        resamples=400,
        unit="lesion",
    )
    assert (sensitivity.initial.value, sensitivity.refined.value) == (1.0, 0.0)
    assert sensitivity.difference.value == -1.0
    assert (nothing.initial.value, nothing.p) == (None, None)
    assert auc.initial.value is not None
    assert auc.refined.value is not None
    assert auc.difference.value == auc.refined.value - auc.initial.value
    assert auc.difference.low is not None
    assert auc.difference.low > 0
    assert auc.p == pytest.approx(2 / 401)
    assert (auc.n, auc.groups, auc.unit, auc.resamples, auc.direction) == (120, 60, "lesion", 400, "higher")


def test_probabilities_come_back_exactly(truth: TruthRows) -> None:
    data = predict(truth, skill=0.5)
    rows = service.read_predictions(data, scheme=SCHEME, expected=[case.case_id for case in truth])
    assert service.predictions_bytes(rows, SCHEME) == data


def test_offences_and_unknown_names_arrive_as_what_they_are(
    truth: TruthRows, score: Callable[..., service.ScoreResult]
) -> None:
    data = predict(truth, skill=0.5)
    with pytest.raises(BadPredictions, match="1 issued case is missing"):
        score(data[: data.rstrip(b"\n").rindex(b"\n") + 1])
    with pytest.raises(BadInput, match="Unknown metric 'auroc'"):
        score(data, metrics=["auroc"])
    with pytest.raises(BadInput, match="Unknown operating-point rule"):
        score(data, operating_rule="best")
    with pytest.raises(BadInput, match="positive_class"):
        score(data, scheme=replace(SCHEME, positive="SCC"))


def test_a_bad_truth_is_refused_without_its_labels(truth: TruthRows) -> None:
    for wrong in ([], [truth[0]._replace(label="UNK")], [truth[0], truth[0]]):
        with pytest.raises(BadInput) as caught:
            service.score_predictions(
                predict(truth[:1], skill=0.5), wrong, scheme=SCHEME, metrics=[], primary="macro_auc"
            )
        assert "UNK" not in str(caught.value)


@pytest.fixture(params=["missing", "link", "hard link", "pipe", "folder", "device", "sparse", "sparse line"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path, truth: TruthRows) -> Path:
    path, good = tmp_path / "predictions.csv", tmp_path / "good.csv"
    good.write_bytes(predict(truth, skill=0.5))
    match request.param:
        case "link":
            path.symlink_to(good)
        case "hard link":
            path.hardlink_to(good)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            return Path("/dev/zero")
        case "sparse":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        case "sparse line":
            with path.open("wb") as file:
                file.write(b"case_id,p_MEL,p_NV,p_BCC\nc0,")
                file.truncate(1 << 30)
        case _:
            pass
    return path


def test_a_file_that_is_not_a_plain_small_file_is_refused_at_once(
    hostile: Path, score: Callable[..., service.ScoreResult]
) -> None:
    started = time.monotonic()
    with pytest.raises(BadPredictions) as caught:
        score(hostile)
    assert str(hostile) not in str(caught.value)
    with pytest.raises(BadPredictions):
        service.read_predictions(hostile, scheme=SCHEME)
    assert time.monotonic() - started < 20


def test_a_scoring_process_that_takes_too_long_is_stopped(
    truth: TruthRows, score: Callable[..., service.ScoreResult]
) -> None:
    with pytest.raises(Refusal, match="longer than 1 s") as caught:
        score(predict(truth, skill=0.5), intervals=True, resamples=20_000_000, limits=ChildLimits(seconds=1))
    assert type(caught.value) is Refusal


def test_a_scoring_process_that_needs_too_much_memory_is_stopped(
    truth: TruthRows, score: Callable[..., service.ScoreResult]
) -> None:
    with pytest.raises(Refusal, match=r"memory.*no score was recorded") as caught:
        score(predict(truth, skill=0.5), intervals=True, resamples=2_000_000_000)
    assert type(caught.value) is Refusal


def test_a_scoring_process_that_dies_is_reported(truth: TruthRows, score: Callable[..., service.ScoreResult]) -> None:
    with pytest.raises(Refusal, match="ended without an answer"):
        score(predict(truth, skill=0.5), limits=ChildLimits(memory_bytes=24 << 20))


def test_the_server_side_imports_neither_numpy_nor_scikit_learn() -> None:
    code = (
        "import sys, clinloop.scoring.service, clinloop.scoring.metrics;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'numpy', 'sklearn', 'scipy', 'torch'}))"
    )
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


BOXES = Scheme(("no fracture", "fracture"), task_type="detection", targets=("fracture",))
MASKS = replace(BOXES, task_type="segmentation")


def drawn_boxes(*, skill: float, seed: int = 1) -> tuple[TruthRows, bytes]:
    """Return 60 cases in 30 groups, every third without a box, and boxes that are found as often as `skill` says."""
    random = np.random.default_rng(0)
    truth = [
        TruthCase(f"b{at:03d}", f"g{at // 2}", "fracture", 100, 80, (TruthBox(0, *random.uniform(5, 40, 4)),))
        if at % 3
        else TruthCase(f"b{at:03d}", f"g{at // 2}", "no fracture", 100, 80, ())
        for at in range(60)
    ]
    random = np.random.default_rng(seed)
    rows: dict[str, service.Prediction] = {}
    for case in truth:
        boxes = [
            service.Detected(*box, score=0.4 + 0.6 * random.random())
            for box in case.boxes or ()
            if random.random() < skill
        ]
        boxes += [service.Detected(0, *random.uniform(40, 60, 4), score=0.7 * random.random())] * (
            random.random() < 0.6
        )
        rows[case.case_id] = tuple(boxes)
    return truth, service.predictions_bytes(rows, BOXES)


def drawn_masks(*, skill: float) -> tuple[TruthRows, bytes]:
    """Return 40 cases in 20 groups, every fourth without a target, and masks that cover a share `skill` of it."""
    truth: TruthRows = []
    rows: dict[str, service.Prediction] = {}
    for at in range(40):
        target = 20 + at if at % 4 else 0
        truth.append(
            TruthCase(
                f"m{at:03d}",
                f"g{at // 2}",
                "fracture" if target else "no fracture",
                10,
                12,
                None,
                (120 - target, target)[: 1 + (target > 0)],
            )
        )
        found = int(target * skill) or int(at % 8 == 0)
        rows[truth[-1].case_id] = service.Mask(12, 10, (120 - found, found)[: 1 + (found > 0)])
    return truth, service.predictions_bytes(rows, MASKS)


def test_boxes_are_scored_with_their_operating_point_and_a_better_detector_is_kept() -> None:
    names = [metric.name for metric in metrics_of(BOXES)]
    truth, weak = drawn_boxes(skill=0.4)
    strong = drawn_boxes(skill=0.9)[1]
    result = service.score_predictions(strong, truth, scheme=BOXES, metrics=names, primary="ap50", resamples=200)
    assert set(result.metrics) == set(names)
    for estimate in result.metrics.values():
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high
    point = result.operating_points["fracture"]
    assert point.rule == "max_f1"
    assert (point.sensitivity, point.specificity) == (result.per_class[0].sensitivity, result.per_class[0].specificity)
    assert (result.per_class[0].n, result.per_class[0].auc) == (40, result.metrics["image_auc"].value)
    assert [sum(row) for row in result.confusion] == [20, 40]
    decision = service.decide(strong, weak, truth, scheme=BOXES, primary="ap50", guards={"recall": 0.05}, resamples=300)
    assert (decision.accepted, decision.reason) == (True, "better")
    final = service.final_scores(
        weak,
        strong,
        truth,
        scheme=BOXES,
        metrics=["ap50_95", "f1", "recall"],
        operating_points_initial={"fracture": {"threshold": 1.0}},
        operating_points_refined=result.operating_points,
        resamples=100,
    )
    assert final[0].gain is not None
    assert final[0].gain > 0
    assert (final[2].initial.value, final[2].refined.value) == (0.0, result.metrics["recall"].value)
    assert (final[0].n, final[0].groups) == (60, 30)


def test_a_rule_for_images_fixes_the_operating_point_of_boxes_by_the_best_score() -> None:
    truth, found = drawn_boxes(skill=0.9)
    result = service.score_predictions(
        found, truth, scheme=BOXES, metrics=[], primary="ap50", operating_rule="sensitivity>=0.9", intervals=False
    )
    sensitivity = result.operating_points["fracture"].sensitivity
    assert sensitivity is not None
    assert 0.9 <= sensitivity == result.per_class[0].sensitivity


def test_boxes_in_shares_of_the_image_are_pointed_out() -> None:
    truth, _ = drawn_boxes(skill=1)
    rows = {case.case_id: (service.Detected(0, 0.1, 0.2, 0.3, 0.4, 0.9),) for case in truth}
    result = service.score_predictions(
        service.predictions_bytes(rows, BOXES), truth, scheme=BOXES, metrics=[], primary="ap50", intervals=False
    )
    assert result.primary == 0.0
    assert "write pixels of the image file" in " ".join(result.notes)


def test_masks_are_scored_and_a_better_one_is_kept() -> None:
    names = [metric.name for metric in metrics_of(MASKS)]
    truth, weak = drawn_masks(skill=0.5)
    strong = drawn_masks(skill=0.9)[1]
    result = service.score_predictions(strong, truth, scheme=MASKS, metrics=names, primary="dice", resamples=200)
    assert result.operating_points == {}
    assert 0.93 < (result.primary or 0) < 0.95
    assert result.metrics["image_specificity"].value == 0.5
    assert result.confusion == [[5, 5], [0, 30]]
    assert service.decide(strong, weak, truth, scheme=MASKS, primary="dice", resamples=300).reason == "better"
    rows = service.read_predictions(strong, scheme=MASKS, sizes={case.case_id: (10, 12) for case in truth})
    assert service.predictions_bytes(rows, MASKS) == strong
    with pytest.raises(BadPredictions, match=r"size \[12, 10\]; its image has \[10, 12\]"):
        service.read_predictions(strong, scheme=MASKS, sizes={case.case_id: (12, 10) for case in truth})


def test_what_a_model_owes_to_a_confounder_is_scored_from_the_truth_file(tmp_path: Path) -> None:
    scheme = Scheme(("no pneumothorax", "pneumothorax"), positive="pneumothorax", confounders=("drain",))
    random = np.random.default_rng(0)
    truth = [
        TruthCase(
            f"p{at:03d}",
            f"g{at // 2}",
            scheme.classes[at % 2],
            attributes={"drain": "1" if (at * 7 // 5) % 2 else "0.1"},
        )
        for at in range(200)
    ]
    rows = {
        case.case_id: (1 - p, p)
        for case in truth
        for p in [
            0.2
            + 0.3 * (case.label == "pneumothorax")
            + 0.4 * (case.attributes["drain"] == "1")
            + 0.05 * random.random()
        ]
    }
    (tmp_path / "truth.csv").write_bytes(service.truth_csv(truth))
    result = service.score_predictions(
        service.predictions_bytes(rows, scheme),
        tmp_path / "truth.csv",
        scheme=scheme,
        metrics=["partial_r_drain", "conflict_auc_drain", "fp_share_drain", "raw_r_drain"],
        primary="auc_pneumothorax",
        operating_rule="sensitivity>=0.9",
        resamples=200,
    )
    values = {name: estimate.value for name, estimate in result.metrics.items()}
    assert (values["partial_r_drain"] or 0) > 0.95
    assert values["conflict_auc_drain"] == 0.0
    assert values["fp_share_drain"] == 1.0
    low = result.metrics["partial_r_drain"].low
    assert low is not None
    assert low > 0.9
    assert result.notes == []
    few = [case._replace(attributes={"drain": ""}) if at > 60 else case for at, case in enumerate(truth)]
    noted = service.score_predictions(
        service.predictions_bytes(rows, scheme), few, scheme=scheme, metrics=[], primary="f1", intervals=False
    )
    assert "positives without drain and" in noted.notes[0]
    assert "139 of 200 cases do not say drain" in noted.notes[1]
    with pytest.raises(BadInput, match="no attribute 'pacemaker'"):
        service.score_predictions(
            service.predictions_bytes(rows, scheme),
            truth,
            scheme=replace(scheme, confounders=("pacemaker",)),
            metrics=["partial_r_pacemaker"],
            primary="f1",
        )


def test_a_truth_that_lacks_what_its_task_needs_is_refused() -> None:
    boxes, found = drawn_boxes(skill=1)
    masks, mask_file = drawn_masks(skill=1)
    for truth, data, scheme in (
        ([boxes[0]._replace(boxes=None), *boxes[1:]], found, BOXES),
        ([boxes[0]._replace(boxes=(TruthBox(1, 0, 0, 5, 5),)), *boxes[1:]], found, BOXES),
        ([masks[0]._replace(mask=None), *masks[1:]], mask_file, MASKS),
        ([masks[0]._replace(width=11), *masks[1:]], mask_file, MASKS),
    ):
        with pytest.raises(BadInput, match="The truth"):
            service.score_predictions(
                data, truth, scheme=scheme, metrics=[], primary="ap50" if scheme is BOXES else "dice"
            )


def test_a_nested_bomb_of_a_file_ends_as_bad_predictions() -> None:
    truth, _ = drawn_boxes(skill=1)
    for data in (b"[" * 1_000_000, b"[" + b"{}," * 500_000 + b"{}]"):
        with pytest.raises(BadPredictions):
            service.score_predictions(data, truth, scheme=BOXES, metrics=[], primary="ap50", intervals=False)
    runs = b'[{"image_id":"m000","size":[1,1],"counts":[' + b"1000," * 24_000_000 + b"1]}]"
    with pytest.raises(BadPredictions, match="more memory than any valid one"):
        service.read_predictions(runs, scheme=MASKS, limits=ChildLimits(memory_bytes=1 << 29))
    with pytest.raises(BadPredictions, match="bytes"):
        service.read_predictions(b" " * 4_000_000, scheme=BOXES, expected=[case.case_id for case in truth])


def test_the_difference_of_two_predictions_is_how_far_they_are_apart() -> None:
    def boxes(*found: tuple[float, ...]) -> tuple[service.Detected, ...]:
        return tuple(service.Detected(0, *values) for values in found)  # pyright: ignore[reportArgumentType]

    one = boxes((10, 10, 20, 20, 0.9), (50, 50, 10, 10, 0.3))
    for other, expected in (
        (one, 0.0),
        (one[::-1], 0.0),
        (boxes((10, 10, 20, 20, 0.8), (50, 50, 10, 10, 0.3)), 0.1),
        (one[:1], 0.3),
        ((*one, *boxes((80, 80, 5, 5, 0.05))), 0.05),
        (boxes((12, 10, 20, 20, 0.9), (50, 50, 10, 10, 0.3)), 0.9 * (1 - 18 / 22)),
        ((), 0.9),
        ((one[0]._replace(target=1), one[1]), 0.9),
    ):
        assert service.difference(BOXES, one, other) == pytest.approx(expected)
        assert service.difference(BOXES, other, one) == pytest.approx(expected)
    assert service.difference(SCHEME, (0.2, 0.3, 0.5), (0.2, 0.35, 0.45)) == pytest.approx(0.05)


def test_the_difference_of_masks_is_the_share_of_the_union_that_differs() -> None:
    def mask(drawn: np.ndarray) -> service.Mask:
        edges = np.flatnonzero(np.diff(drawn.ravel(order="F"), prepend=False)).tolist()
        return service.Mask(40, 50, tuple(np.diff([0, *edges, 2000]).tolist()))

    random = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 1.0):
        one, other = random.random((40, 50)) < share, random.random((40, 50)) < 0.5
        first, second = mask(one), mask(other)
        expected = (one ^ other).sum() / max((one | other).sum(), 2)
        assert service.difference(MASKS, first, second) == pytest.approx(expected)
        assert service.difference(MASKS, first, first) == 0.0
    nothing, dot = service.Mask(40, 50, (2000,)), service.Mask(40, 50, (7, 1, 1992))
    assert service.difference(MASKS, nothing, dot) == 0.5  # a pixel is half a thousandth of this image
    assert service.difference(MASKS, nothing, service.Mask(50, 40, (2000,))) == 1.0
