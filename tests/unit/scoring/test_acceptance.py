"""Acceptance: each mode, each reason code, and how often pure noise is taken for progress."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import binom, norm, t

from clinloop.errors import BadInput
from clinloop.scoring.acceptance import FAMILY_LEVEL, Look, Mode, Taken, decide, needed_p, next_look
from clinloop.scoring.results import Estimate, PairedMetric

ROOT = Path(__file__).resolve().parents[3]


def pair(
    old: float | None, new: float | None, *, p: float | None = 0.01, name: str = "macro_auc", direction: str = "higher"
) -> PairedMetric:
    difference = None if old is None or new is None else new - old
    return PairedMetric(
        name=name,
        direction="lower" if direction == "lower" else "higher",
        initial=Estimate(old),
        refined=Estimate(new),
        difference=Estimate(
            difference, None if difference is None else difference - 0.01, difference and difference + 0.02
        ),
        p=p,
        p_gain=p,
        n=100,
        groups=50,
        unit="lesion",
        resamples=1000,
        seed=0,
    )


@pytest.mark.parametrize("mode", ["paper", "guarded"])
def test_the_first_scored_run_is_the_baseline(mode: Mode) -> None:
    decision = decide(mode, None)
    assert (decision.accepted, decision.reason) == (True, "baseline")


@pytest.mark.parametrize(
    ("mode", "primary", "accepted", "reason"),
    [
        ("paper", pair(0.8, 0.8000001, p=0.49), True, "better"),
        ("paper", pair(0.8, 0.8), False, "not_better"),
        ("paper", pair(0.8, 0.79), False, "not_better"),
        ("guarded", pair(0.8, 0.85, p=0.04), True, "better"),
        ("guarded", pair(0.8, 0.85, p=0.05), False, "within_noise"),
        ("guarded", pair(0.8, 0.85, p=None), False, "within_noise"),
        ("guarded", pair(0.8, 0.75, p=0.01), False, "not_better"),
        ("guarded", pair(0.8, None), False, "undefined"),
        ("paper", pair(None, 0.7), True, "better"),
        ("paper", pair(0.2, 0.1, direction="lower", name="brier"), True, "better"),
        ("guarded", pair(0.2, 0.1, direction="lower", name="brier"), True, "better"),
        ("paper", pair(0.1, 0.2, direction="lower", name="brier"), False, "not_better"),
    ],
)
def test_each_mode_decides_with_its_reason(mode: Mode, primary: PairedMetric, accepted: bool, reason: str) -> None:
    decision = decide(mode, primary)
    assert (decision.accepted, decision.reason) == (accepted, reason)
    assert decision.text.startswith("Kept: " if accepted else "Rejected: ")


def test_the_gain_is_positive_for_a_smaller_brier_score_and_its_limits_turn_with_it() -> None:
    decision = decide("paper", pair(0.2, 0.1, direction="lower", name="brier"))
    assert decision.gain == pytest.approx(0.1)
    assert (decision.low, decision.high) == (pytest.approx(0.08), pytest.approx(0.11))


@pytest.mark.parametrize(
    ("guard", "reason"),
    [
        (pair(0.9, 0.88, name="auc_MEL"), "better"),
        (pair(0.9, 0.8799, name="auc_MEL"), "guard_worse:auc_MEL"),
        (pair(0.9, None, name="auc_MEL"), "guard_worse:auc_MEL"),
        (pair(None, 0.1, name="auc_MEL"), "better"),
        (pair(0.10, 0.13, name="brier", direction="lower"), "guard_worse:brier"),
        (pair(0.13, 0.10, name="brier", direction="lower"), "better"),
    ],
)
def test_a_guard_that_is_worse_than_its_margin_rejects_a_gain(guard: PairedMetric, reason: str) -> None:
    margins = {"auc_MEL": 0.02, "brier": 0.02}
    decision = decide("guarded", pair(0.8, 0.85), guards=[guard], margins=margins)
    assert decision.reason == reason
    assert decision.accepted == (reason == "better")
    assert decide("paper", pair(0.8, 0.85), guards=[guard], margins=margins).accepted


def test_the_text_tells_values_to_what_their_intervals_support_and_the_look() -> None:
    decision = decide("guarded", pair(0.813456789, 0.834567891, p=0.0012345), look=Look(2, 7, 0.05 / 7))
    assert decision.text == (
        "Kept: macro_auc is 0.85 (+0.02 on the incumbent), better beyond noise "
        "(one-sided p = 0.0012; look 2 of at most 7 needs at most 0.0035)."
    )


def test_an_unknown_mode_lists_what_is_valid() -> None:
    with pytest.raises(BadInput, match="'guarded', 'confirmed', 'paper'"):
        decide("greedy", None)  # pyright: ignore[reportArgumentType]  # what an old record could hold


# The level of a look


def played(outcomes: list[bool], mode: Mode = "guarded") -> list[Look]:
    """Return the looks of runs that were accepted or not; the budget allows as many as there are."""
    taken: list[Taken] = []
    looks: list[Look] = []
    for number, accepted in enumerate(outcomes):
        looks.append(next_look(mode, taken, f"code {number}", left=len(outcomes) - number))
        taken.append(Taken(f"code {number}", "better" if accepted else "within_noise", accepted, looks[-1].spends))
    return looks


def test_looks_that_find_nothing_share_the_level_equally() -> None:
    looks = played([False] * 30)
    assert [look.level for look in looks] == pytest.approx([FAMILY_LEVEL / 30] * 30)
    assert [(look.number, look.at_most) for look in looks] == [(number, 30) for number in range(1, 31)]


def test_an_accepted_run_gives_its_share_to_the_looks_that_are_left() -> None:
    levels = [look.level for look in played([False, True, False, True, False])]
    assert levels == pytest.approx([0.01, 0.01, 0.04 / 3, (0.04 - 0.04 / 3) / 2, 0.04 - 0.04 / 3])


def test_what_is_spent_on_rejected_runs_is_never_more_than_the_level_of_the_task() -> None:
    for outcomes in itertools.product([True, False], repeat=8):
        looks = played(list(outcomes))
        spent = sum(look.level for look, accepted in zip(looks, outcomes, strict=True) if not accepted)
        assert spent <= FAMILY_LEVEL + 1e-12


def test_one_acceptance_more_never_lowers_a_later_level() -> None:
    """The chance of any false acceptance is bounded because of this: the proof is in docs/acceptance.md."""
    for outcomes in itertools.product([True, False], repeat=7):
        for at in (at for at, accepted in enumerate(outcomes) if not accepted):
            more = [*outcomes[:at], True, *outcomes[at + 1 :]]
            pairs = zip(played(list(outcomes)), played(more), strict=True)
            assert all(high.level >= low.level - 1e-12 for low, high in pairs)


def extended(outcomes: list[bool], granted: list[int]) -> list[Look]:
    """Return the looks of a task whose budget is extended by so many runs before each of them."""
    taken: list[Taken] = []
    looks: list[Look] = []
    left = len(outcomes) - sum(granted)
    for number, (accepted, more) in enumerate(zip(outcomes, granted, strict=True)):
        left += more
        looks.append(next_look("guarded", taken, f"code {number}", left=left))
        left -= 1
        taken.append(Taken(f"code {number}", "better" if accepted else "within_noise", accepted, looks[-1].spends))
    return looks


def test_extending_the_budget_in_mid_task_never_spends_more_than_the_level_of_the_task() -> None:
    for outcomes in itertools.product([True, False], repeat=6):
        for granted in itertools.product([0, 1, 2], repeat=3):
            looks = extended(list(outcomes), [0, *granted, 0, 0])
            spent = 0.0
            for look, accepted in zip(looks, outcomes, strict=True):
                assert spent + look.level <= FAMILY_LEVEL + 1e-12  # also if this one is a false acceptance
                spent += 0.0 if accepted else look.level


def test_a_run_of_noise_is_accepted_in_one_task_of_twenty_however_the_budget_is_extended() -> None:
    generator, tasks, false = np.random.default_rng(0), 20_000, 0
    for _ in range(tasks):
        taken: list[Taken] = []
        left = 3
        while left:
            look = next_look("guarded", taken, f"code {len(taken)}", left=left)
            left -= 1
            p = generator.uniform()
            if p <= look.level:
                false += 1
                break
            taken.append(Taken(f"code {len(taken)}", "within_noise", False, look.spends))
            if p < 0.3 and len(taken) < 12:  # a clinician who extends when it was close
                left += 2
    assert false / tasks < FAMILY_LEVEL + 3 * (FAMILY_LEVEL * (1 - FAMILY_LEVEL) / tasks) ** 0.5


def test_after_the_last_look_has_spent_the_level_an_extension_accepts_nothing() -> None:
    one = Taken("code", "within_noise", False, FAMILY_LEVEL)
    look = next_look("guarded", [one], "other", left=3)
    assert (look.level, needed_p(look.level, 100)) == (0.0, 0.0)


def test_runs_that_were_given_back_or_crashed_leave_their_share_to_the_others() -> None:
    one = Taken("code", "within_noise", False, 0.01)
    assert next_look("guarded", [one], "other", left=2).level == pytest.approx(
        0.02
    )  # two of the five were never compared


def test_the_p_value_that_is_needed_is_that_of_students_t() -> None:
    for level in (0.05, 0.05 / 7, 0.05 / 30):
        for groups in (40, 100, 400, 5000):
            n = groups // 2
            exact = norm.sf(t.isf(level, n - 1) * np.sqrt(n / (n - 1)))
            assert needed_p(level, groups) == pytest.approx(exact, rel=0.02)
            assert needed_p(level, groups) < level
    assert needed_p(0.05 / 30, 4) < 1e-4  # no p-value of 10,000 resamples is that small
    assert needed_p(0.0, 400) == 0.0


# Confirmation


def test_a_run_that_passes_waits_until_another_run_of_the_same_code_has_passed() -> None:
    first = decide("confirmed", pair(0.8, 0.85, p=0.001), look=Look(1, 7, 0.05 / 7))
    assert (first.accepted, first.reason) == (False, "needs_confirmation")
    assert "run the same revision again" in first.text
    again = next_look("confirmed", [Taken("code", first.reason, False, 0.05 / 7)], "code", left=6)
    assert again == Look(2, 7, FAMILY_LEVEL, confirms=True)
    assert again.spends == 0
    assert decide("confirmed", pair(0.8, 0.83, p=0.03), look=again).accepted
    failed = decide("confirmed", pair(0.8, 0.81, p=0.3), look=again)
    assert (failed.accepted, failed.reason) == (False, "within_noise")
    assert decide("confirmed", pair(0.8, 0.75, p=0.9), look=again).reason == "not_better"
    guard = pair(0.9, 0.7, name="auc_MEL")
    assert decide("confirmed", pair(0.8, 0.83, p=0.03), guards=[guard], look=again).reason == "guard_worse:auc_MEL"


def test_only_the_last_run_of_the_same_code_against_the_same_incumbent_can_be_confirmed() -> None:
    passed = Taken("code", "needs_confirmation", False, 0.01)
    assert next_look("confirmed", [passed], "code", left=3).confirms
    assert not next_look("confirmed", [passed], "other code", left=3).confirms
    assert next_look("confirmed", [passed, Taken("other code", "within_noise", False, 0.01)], "code", left=3).confirms
    assert not next_look("confirmed", [passed, Taken("code", "within_noise", False, 0.0)], "code", left=3).confirms
    assert not next_look("confirmed", [passed, Taken("other code", "better", True, 0.0)], "code", left=3).confirms
    assert not next_look("guarded", [passed], "code", left=3).confirms


# What noise and real gains come to


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    path = ROOT / "benchmarks" / "acceptance.py"
    spec = importlib.util.spec_from_file_location("acceptance_simulation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("groups", "tasks"), [(60, 150), (400, 60)])
def test_thirty_runs_of_pure_noise_are_rarely_accepted_in_guarded_mode_and_nearly_always_on_paper(
    simulation: ModuleType, groups: int, tasks: int
) -> None:
    setting, noise = simulation.Setting(groups=groups), [0.0] * 30
    guarded = [simulation.play(setting, "guarded", noise, seed) for seed in range(tasks)]
    paper = [simulation.play(setting, "paper", noise, seed) for seed in range(tasks)]
    allowed = int(binom.ppf(0.99, tasks, FAMILY_LEVEL))
    assert sum(played.accepted > 0 for played in guarded) <= allowed
    assert np.mean([played.accepted > 0 for played in paper]) > 0.9
    # The winner's curse: the kept model is no better than the first, and validation says that it is.
    assert np.mean([played.seen - played.true for played in paper]) > 0.015
    assert abs(np.mean([played.seen - played.true for played in guarded])) < 0.015


def test_a_gain_that_the_validation_set_can_show_is_accepted(simulation: ModuleType) -> None:
    setting, gains = simulation.Setting(groups=400), [0.0, 0.06, 0.0, 0.04, 0.0, 0.0, 0.0]
    played = [simulation.play(setting, "guarded", gains, seed, resamples=2000) for seed in range(12)]
    assert np.mean([task.accepted - task.false for task in played]) > 1.2
    assert sum(task.false for task in played) <= 2
