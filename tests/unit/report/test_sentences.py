"""Sentences below figures say what the numbers say, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clinloop.report import sentences as say
from clinloop.report.cases import Gallery
from clinloop.report.data import Estimate as Shown
from clinloop.report.data import FinalMetric, ReportData, ValidationToTest
from clinloop.scoring.analysis import (
    ConfounderAudit,
    ConfoundMetric,
    Confusion,
    CrossCheck,
    DecisionCurve,
    JointConfounding,
    LabelNoise,
    Subgroup,
)
from clinloop.scoring.results import Estimate

from .analysed import binary_analysis, detection_analysis

NONE = Estimate(None)


def metric(data: ReportData, name: str, difference: tuple[float, float], **changes) -> FinalMetric:
    found = next(metric for metric in data.final if metric.name == name)
    low, high = difference
    return found.model_copy(update={"difference": Shown(value=(low + high) / 2, low=low, high=high), **changes})


def test_results_are_counted_by_their_intervals_and_again_after_correction(data: ReportData) -> None:
    metrics = [
        metric(data, "macro_auc", (0.01, 0.03)),
        metric(data, "brier", (0.01, 0.03)),
        metric(data, "f1", (-0.01, 0.03)),
    ]
    sentence = say.of_results(metrics, {"macro_auc": 0.01, "brier": 0.2, "f1": 0.9})
    assert "Of 3 metrics: 1 better in the refined model, 1 worse and 1 without a shown difference." in sentence
    assert "1 of 2 changes stays below p = 0.05" in sentence
    assert "correction" not in say.of_results(metrics, {})


def test_trajectory_says_where_the_kept_model_began_and_ended(data: ReportData) -> None:
    assert say.of_trajectory(data.runs, "Macro AUC") == (
        "Macro AUC of the kept model went from 0.786 (run 0) to 0.871 (run 9) on validation; 6 of 12 runs were accepted and 1 had no score."
    )
    assert "Run 0 was kept" in say.of_trajectory(data.runs[:1], "Macro AUC")
    assert say.of_trajectory(data.runs[4:5], "Macro AUC") == "None of 1 runs was accepted."


def test_a_curve_whose_difference_includes_zero_is_not_called_a_gain(data: ReportData) -> None:
    curves = binary_analysis().curves
    gained, unclear = (
        say.of_curves(curves, "pneumothorax", {"auc_pneumothorax": metric(data, "auc_MEL", difference)})
        for difference in ((0.01, 0.09), (-0.01, 0.09))
    )
    assert "finds 79\u00a0% of pneumothorax with false alarms in 8\u00a0% of the others" in gained
    assert "larger than chance explains" in gained
    assert "A difference is not shown" in unclear
    assert "larger" not in unclear


def test_boxes_are_told_by_marks_per_image() -> None:
    sentence = say.of_curves(detection_analysis().curves, "fracture", {})
    assert (
        "marks 49\u00a0% of the boxes of fracture at 0.40 false marks per image; the initial model 42\u00a0%"
        in sentence
    )


@pytest.mark.parametrize(
    ("ece", "expected"), [((0.01, 0.03), ": less."), ((0.2, 0.3), ": more."), ((0.06, 0.2), "no difference is claimed")]
)
def test_calibration_claims_a_difference_only_where_intervals_are_apart(ece, expected: str) -> None:
    initial, refined = binary_analysis().calibration
    low, high = ece
    changed = replace(initial, ece=Estimate((low + high) / 2, low, high))
    assert expected in say.of_calibration([changed, refined], "pneumothorax")


def test_decision_curve_names_the_thresholds_where_the_model_is_worth_most() -> None:
    curve = DecisionCurve(
        name="MEL",
        thresholds=[0.1, 0.2, 0.3, 0.4, 0.5],
        initial=[0.2, 0.1, 0.1, 0.0, 0.1],
        refined=[0.1, 0.2, 0.2, 0.0, 0.2],
        all=[0.3, 0.0, -0.1, -0.2, -0.3],
    )
    assert "threshold probabilities of 20 to 30\u00a0% and 50\u00a0%;" in say.of_decision_curve(curve)
    assert "At no threshold" in say.of_decision_curve(replace(curve, refined=[0.0] * 5))


def test_confusion_names_the_most_frequent_error() -> None:
    before = Confusion(model="initial", matrix=[[5, 5], [1, 9]], names=["NV", "MEL"])
    after = replace(before, model="refined", matrix=[[8, 2], [3, 7]])
    assert say.of_confusion([before, after]) == (
        "The refined model decides 15 of 20 (75\u00a0%) of the cases rightly, the initial one 14; its most frequent error is "
        "MEL taken for NV: 3 of 10 (30\u00a0%) of MEL."
    )


def test_subgroups_that_overlap_are_not_said_to_differ() -> None:
    def group(value: str, refined: Estimate, difference: Estimate) -> Subgroup:
        return Subgroup(
            attribute="sex", value=value, n=50, groups=50, metric="macro_auc", initial=Estimate(0.7, 0.6, 0.8),
            refined=refined, difference=difference,
        )  # fmt: skip

    shown, not_shown = Estimate(0.1, 0.02, 0.2), Estimate(0.1, -0.02, 0.2)
    low = group("f", Estimate(0.7, 0.65, 0.75), shown)
    near, far = (group("m", refined, not_shown) for refined in (Estimate(0.78, 0.73, 0.8), Estimate(0.9, 0.85, 0.95)))
    few = replace(low, value="x", refined=NONE, initial=NONE, difference=NONE)
    titles = {"macro_auc": "Macro AUC (mean)"}
    assert "overlap, so a difference between groups is not shown" in say.of_subgroups([low, near], titles)
    sentence = say.of_subgroups([low, far, few], titles)
    assert "shown in 1 of 2 subgroups. 1 is too small for a number. Macro AUC of the refined model runs" in sentence
    assert "do not overlap" in sentence
    assert "No subgroup" in say.of_subgroups([few], titles)


def audit(share: tuple[float, float], difference: tuple[float, float]) -> ConfounderAudit:
    def of(name: str, refined: Estimate, change: Estimate, reference: float | None) -> ConfoundMetric:
        return ConfoundMetric(
            name=name, title=name, initial=Estimate(0.5), refined=refined, difference=change, p=None, reference=reference
        )  # fmt: skip

    return ConfounderAudit(
        attribute="drain", class_name="x", is_declared=True, n=9, auc_alone=None, cells=[],
        metrics=[
            of("fp_share", Estimate(0.4, *share), NONE, 0.21),
            of("partial_r", Estimate(0.2, 0.1, 0.3), Estimate(-0.1, *difference), None),
        ],
    )  # fmt: skip


def test_an_audit_says_beside_chance_only_what_its_intervals_show() -> None:
    sentence = say.of_audit(audit((0.3, 0.5), (-0.2, -0.01)))
    assert "40\u00a0% have drain; chance would give 21\u00a0%. Given" in sentence
    assert "; a change is shown." in sentence
    sentence = say.of_audit(audit((0.1, 0.7), (-0.2, 0.01)))
    assert "chance would give 21\u00a0%, and the interval does not leave that out" in sentence
    assert "a change is not shown" in sentence
    assert say.of_audit(replace(audit((0.3, 0.5), (0, 1)), sentence="Own words.")) == "Own words."
    assert "too few" in say.of_audit(replace(audit((0.3, 0.5), (0, 1)), metrics=[]))


def test_confounders_together_are_named_only_where_the_interval_leaves_out_zero() -> None:
    def joint(name: str, low: float) -> JointConfounding:
        return JointConfounding(
            attribute=name, class_name="x", initial=NONE, refined=Estimate(0.2, low, 0.4), difference=NONE
        )

    assert "drain remains correlated" in say.of_joint([joint("drain", 0.1), joint("view", -0.1)])
    assert "none is shown" in say.of_joint([joint("view", -0.1)])


def test_label_noise_is_told_by_share() -> None:
    def noise(share: float, r: float | None) -> LabelNoise:
        return LabelNoise(
            share=share, partial_r_initial=0.5, partial_r_refined=r, conflict_auc_initial=None, conflict_auc_refined=None
        )  # fmt: skip

    assert "would be 0.22 as the values stand, 0.17 if 10\u00a0% were wrong." in say.of_label_noise(
        "drain", [noise(0.1, 0.17), noise(0.0, 0.22)]
    )
    assert say.of_label_noise("drain", [noise(0.1, None)]) == ""


def test_cross_checks_say_whether_they_agree_or_why_there_are_none(data: ReportData) -> None:
    metrics = {"auc_MEL": metric(data, "auc_MEL", (0.01, 0.1), p=0.01)}
    check = CrossCheck(test="DeLong", metric="auc_MEL", statistic=2.0, p=0.02)
    lines = say.of_checks(
        [
            replace(check, p=None, note="not valid: groups have several cases"),
            check,
            replace(check, p=0.3),
            replace(check, metric="auc_NV", p=None, note="not valid: groups have several cases"),
        ],
        metrics,
    )
    assert lines[0].endswith("p = 0.020, which agrees with the bootstrap (p = 0.010) at 0.05.")
    assert "does not agree" in lines[1]
    assert lines[2:] == ["DeLong for AUC of MEL and auc_NV: not valid: groups have several cases."]


def test_drop_is_compared_with_the_interval_of_the_test_value(data: ReportData) -> None:
    metrics = {"macro_auc": data.final[0]}
    inside, outside = (
        say.of_drop(ValidationToTest(metric="macro_auc", validation=value, test=0.862, drop=value - 0.862), metrics)
        for value in (0.87, 0.95)
    )
    higher = say.of_drop(ValidationToTest(metric="macro_auc", validation=0.8, test=0.862, drop=-0.062), metrics)
    assert "inside" in inside and "a drop of 0.008" in inside and "could explain it" in inside
    assert "outside" in outside and "does not explain it" in outside
    assert "a rise of 0.062" in higher


def test_gallery_counts_gains_and_losses() -> None:
    assert say.of_gallery(Gallery(n=1285, gained=41, lost=7)) == (
        "Of 1,285 validation cases the refined model gets 41 right that the initial one got wrong, and 7 wrong that the "
        "initial one got right; in 1,237 both are right or both are wrong."
    )
