"""The plain words of a trade-off: counts of 100 from numbers as sent, and no claim where the intervals allow none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinloop.scoring.metrics import Scheme
from clinloop.scoring.tradeoff_words import About, loss_words, named, rates, words
from clinloop.scoring.tradeoffs import Loss

SKIN = Scheme(("MEL", "NV", "BKL"))
TWO = Scheme(("benign", "melanoma"), positive="melanoma", confounders=("ruler",))
BOXES = Scheme(("no", "yes"), task_type="detection", targets=("fracture",))
MASKS = Scheme(("no", "yes"), task_type="segmentation", targets=("pneumothorax",))


def around(value: float | None, half: float = 0.01) -> dict[str, float | None]:
    return {
        "value": value,
        "low": None if value is None else value - half,
        "high": None if value is None else value + half,
    }


def sent(half: float = 0.01, *, groups: int = 2000, **metrics: float | None) -> dict[str, Any]:
    """Scores as sent, in which every value has an interval of `half` on both sides."""
    return {
        "metrics": {name: around(value, half) for name, value in metrics.items()},
        "operating_points": {},
        "per_class": [{"class_name": "MEL", "n": 500, "groups": 500}],
        "groups": groups,
    }


OLD = sent(macro_auc=0.80, sensitivity_melanoma=0.80, specificity_melanoma=0.80)
NEW = sent(macro_auc=0.86, sensitivity_melanoma=0.86, specificity_melanoma=0.69)


def test_a_positive_class_is_told_as_cases_found_and_false_alarms_of_100() -> None:
    assert words(NEW, OLD, About(TWO, "macro_auc")) == (
        "Finds 6 more of 100 cases of melanoma; calls 11 more of 100 others melanoma; Macro AUC is better, 0.86 instead of 0.8."
    )
    assert words(OLD, NEW, About(TWO, "macro_auc")) == (
        "Finds 6 fewer of 100 cases of melanoma; calls 11 fewer of 100 others melanoma; Macro AUC is worse, 0.8 instead of 0.86."
    )


def test_false_alarms_come_first_where_they_are_the_worse_error() -> None:
    said = words(NEW, OLD, About(TWO, "macro_auc", risk="specificity_first"))
    assert said.startswith("Calls 11 more of 100 others melanoma; finds 6 more of 100 cases")


def test_what_the_intervals_allow_to_be_chance_is_no_clear_difference() -> None:
    wide = [
        sent(0.1, macro_auc=item["metrics"]["macro_auc"]["value"], **{
            f"{kind}_melanoma": item["metrics"][f"{kind}_melanoma"]["value"] for kind in ("sensitivity", "specificity")
        })
        for item in (NEW, OLD)
    ]  # fmt: skip
    said = words(wide[0], wide[1], About(TWO, "macro_auc"))
    assert said == (
        "No clear difference in how many cases of melanoma it finds or in how many others it calls melanoma; "
        "no clear difference in Macro AUC (0.86 and 0.8)."
    )
    # The rule tested the pair itself, which sees more than two intervals side by side.
    assert "Macro AUC is better" in words(wide[0], wide[1], About(TWO, "macro_auc"), is_gain_known=True)
    assert "Macro AUC" in words(wide[1], wide[0], About(TWO, "macro_auc"), is_gain_known=True)
    assert "is better" not in words(wide[1], wide[0], About(TWO, "macro_auc"), is_gain_known=True)


def test_emphasised_classes_are_told_and_without_any_the_task_as_a_whole() -> None:
    old, new = (sent(macro_auc=0.8 + gain, sensitivity_MEL=0.6 + gain, specificity_MEL=0.9) for gain in (0, 0.1))
    assert words(new, old, About(SKIN, "macro_auc", ("MEL",))) == (
        "Finds 10 more of 100 cases of MEL; no clear difference in how many others it calls MEL; Macro AUC is better, 0.9 instead of 0.8."
    )
    assert words(new, old, About(SKIN, "macro_auc")) == "Macro AUC is better, 0.9 instead of 0.8."


def test_rates_without_an_interval_are_held_against_what_their_cases_allow() -> None:
    def point(value: float, groups: int) -> dict[str, Any]:
        return sent(macro_auc=0.8, groups=2 * groups) | {
            "operating_points": {"MEL": {"sensitivity": value, "specificity": 0.5}},
            "per_class": [{"class_name": "MEL", "n": groups, "groups": groups}],
        }

    about = About(SKIN, "macro_auc", ("MEL",))
    assert words(point(0.7, 1000), point(0.6, 1000), about).startswith("Finds 10 more of 100 cases of MEL")
    assert words(point(0.7, 50), point(0.6, 50), about).startswith("No clear difference in how many cases of MEL")
    assert rates(point(0.7, 50), "MEL") == (0.7, 0.5)
    assert rates(sent(macro_auc=0.8), "MEL") is None


def test_boxes_are_told_as_found_and_false_ones() -> None:
    old, new = sent(ap50=0.5, recall=0.7, precision=0.6), sent(ap50=0.55, recall=0.76, precision=0.5)
    assert words(new, old, About(BOXES, "ap50")) == (
        "Finds 6 more of 100 boxes of fracture; of 100 boxes that it draws 10 more are false; "
        "Average precision of boxes at IoU 0.5 is better, 0.55 instead of 0.5."
    )


def test_masks_are_told_as_images_and_overlap() -> None:
    old = sent(dice=0.5, image_sensitivity=0.7, image_specificity=0.9)
    new = sent(dice=0.6, image_sensitivity=0.75, image_specificity=0.85)
    assert words(new, old, About(MASKS, "dice")) == (
        "Marks something in 5 more of 100 images with pneumothorax; marks something in 5 more of 100 images without pneumothorax; "
        "Dice coefficient is better, 0.6 instead of 0.5."
    )


def test_a_metric_that_is_better_when_lower_is_told_the_right_way_round() -> None:
    said = words(sent(partial_r_ruler=0.1), sent(partial_r_ruler=0.3), About(TWO, "partial_r_ruler"))
    assert said.endswith("is better, 0.1 instead of 0.3.")


@pytest.mark.parametrize("missing", [sent(), sent(macro_auc=None)])
def test_what_is_undefined_is_said_to_be(missing: dict[str, Any]) -> None:
    assert words(missing, OLD, About(SKIN, "macro_auc")) == "Macro AUC is undefined for one of the two."


def test_a_broken_guard_is_told_with_its_margin_and_its_noise() -> None:
    old, new = sent(auc_MEL=0.9), sent(auc_MEL=0.8)
    assert loss_words(Loss("auc_MEL", 0.1, 0.02), new, old, SKIN, "run0") == (
        "Breaks the guard AUC of MEL: 0.1 worse than run0, margin 0.02."
    )
    wide = sent(0.2, auc_MEL=0.8)
    assert loss_words(Loss("auc_MEL", 0.1, 0.02), wide, old, SKIN, "run0").endswith("margin 0.02, which may be noise.")
    assert loss_words(Loss("auc_MEL", None, 0.02), new, old, SKIN, "run0") == (
        "Breaks the guard AUC of MEL: it became undefined."
    )


def test_metrics_have_short_names_for_people() -> None:
    assert named("sensitivity_MEL", SKIN) == "Sensitivity of MEL"
    assert named("macro_auc", SKIN) == "Macro AUC"
    assert (
        named("partial_r_ruler", TWO)
        == "Absolute correlation of the positive probability with the confounder, given the label: ruler"
    )
    assert named("gone", SKIN) == "gone"


shares = st.integers(0, 100).map(lambda count: count / 100)


@given(shares, shares, shares, shares, st.sampled_from([0.0, 0.01, 0.1]))
def test_a_count_is_the_difference_of_what_was_sent_and_swapping_the_runs_swaps_its_sign(
    found: float, spared: float, found_before: float, spared_before: float, half: float
) -> None:
    new = sent(half, macro_auc=0.8, sensitivity_melanoma=found, specificity_melanoma=spared)
    old = sent(half, macro_auc=0.8, sensitivity_melanoma=found_before, specificity_melanoma=spared_before)
    said, back = words(new, old, About(TWO, "macro_auc")), words(old, new, About(TWO, "macro_auc"))
    gained = round(100 * found) - round(100 * found_before)
    is_clear = abs(gained) / 100 > half * 2**0.5
    assert (f"inds {abs(gained)} {'more' if gained > 0 else 'fewer'} of 100 cases" in said) == (
        gained != 0 and is_clear
    )
    swapped = back.replace("more", "\0").replace("fewer", "more").replace("\0", "fewer")
    assert said.partition("; Macro")[0] == swapped.partition("; Macro")[0]
