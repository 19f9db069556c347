"""Probabilities scored through the capped child process, as the supervisor calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from clinloop.errors import BadInput, BadPredictions
from clinloop.scoring import service
from clinloop.scoring.metrics import metrics_of

from .drawn import CLASSES, SCHEME, TruthRows, predict

ALL = [metric.of("MEL") if metric.per_class else metric.name for metric in metrics_of(SCHEME)]


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


def test_a_proportion_of_independent_cases_has_an_interval_also_where_every_case_is_right(truth: TruthRows) -> None:
    alone = [service.TruthCase(case_id, "", label) for case_id, _, label, *_ in truth]
    data, n = predict(truth, skill=5.0), len(truth)
    found, grouped = (
        service.score_predictions(
            data, labels, scheme=SCHEME, metrics=["accuracy", "macro_auc"], primary="accuracy", resamples=100
        ).metrics
        for labels in (alone, truth)
    )
    low, high = stats.binomtest(n, n).proportion_ci(method="wilson")
    assert (found["accuracy"].value, found["accuracy"].low, found["accuracy"].high) == (1.0, pytest.approx(low), high)
    assert (found["macro_auc"].low, grouped["accuracy"].low) == (1.0, 1.0)
    models = [data, predict(truth, skill=0.5)]
    paired = service.final_scores(
        *models,
        alone,
        scheme=SCHEME,
        metrics=["accuracy"],
        operating_points_initial={},
        operating_points_refined={},
        resamples=100,
        unit="image",
    )[0]
    assert paired.initial == found["accuracy"]
    assert paired.refined.low is not None
    assert paired.refined.low < (paired.refined.value or 0)


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
