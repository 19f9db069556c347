"""The Pareto set and what counts as a trade-off, against definitions written down once more in the slowest way."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinloop.scoring.tradeoffs import Axis, Candidate, Loss, dominates, judge, losses, one_per_code, pareto

AXES = (Axis("macro_auc", "higher"), Axis("auc_MEL", "higher", 0.02), Axis("partial_r_ruler", "lower", 0.05))
REASONS = ["better", "not_better", "within_noise", "needs_confirmation", "guard_worse:auc_MEL"]


def run(number: int, values: tuple[float | None, ...], reason: str = "", **fields: object) -> Candidate:
    facts = {"code": f"code{number}", "is_accepted": reason in ("baseline", "better"), "is_new": True, **fields}
    named = {axis.metric: value for axis, value in zip(AXES, values, strict=False)}
    return Candidate(run=f"run{number}", reason=reason, values=named, **facts)  # type: ignore[arg-type]


BASELINE = run(0, (0.80, 0.85, 0.1), "baseline")
GAINS_AND_BREAKS = run(1, (0.90, 0.80, 0.1), "guard_worse:auc_MEL")

numbers = st.sampled_from([None, float("nan"), 0.5, 0.6, 0.7, 0.8])
tables = st.lists(
    st.tuples(st.tuples(numbers, numbers, numbers), st.sampled_from(REASONS), st.integers(0, 4)), min_size=1, max_size=7
)


def candidates_of(table: list[tuple[tuple[float | None, ...], str, int]]) -> list[Candidate]:
    return [run(at, values, reason, code=str(code)) for at, (values, reason, code) in enumerate(table)]


def goodness(candidate: Candidate) -> tuple[float, ...]:
    """Return numbers of which larger is better; undefined is below everything."""
    seen = [candidate.values[axis.metric] for axis in AXES]
    signs = [1 if axis.direction == "higher" else -1 for axis in AXES]
    return tuple(-9.0 if v is None or v != v else s * v for s, v in zip(signs, seen, strict=True))


@given(tables)
def test_the_pareto_set_is_what_comparing_every_pair_gives(
    table: list[tuple[tuple[float | None, ...], str, int]],
) -> None:
    found = candidates_of(table)
    beaten = set[str]()
    for one, other in itertools.permutations(found, 2):
        ours, theirs = goodness(one), goodness(other)
        stands = one.reason in ("better", "guard_worse:auc_MEL")
        if stands and ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True)):
            beaten.add(other.run)
    assert [item.run for item in pareto(found, AXES)] == [item.run for item in found if item.run not in beaten]


@given(tables, st.integers(0, 6))
def test_every_rival_is_in_the_pareto_set_and_offers_what_the_incumbent_does_not(
    table: list[tuple[tuple[float | None, ...], str, int]], place: int
) -> None:
    found = candidates_of(table)
    best = found[place % len(found)]
    verdict = judge(found, AXES, incumbent=best.run, reference="run0")
    assert set(verdict.rivals) <= set(verdict.pareto)
    assert best.run not in verdict.rivals
    assert not verdict.is_settled  # no choice was made
    for name in verdict.rivals:
        rival = next(item for item in found if item.run == name)
        gains = goodness(rival)[0] > goodness(best)[0] and rival.reason.startswith("guard_worse")
        keeps = bool(losses(best, found[0], AXES)) and not losses(rival, found[0], AXES)
        assert gains or keeps


@given(tables)
def test_dominance_is_a_strict_order(table: list[tuple[tuple[float | None, ...], str, int]]) -> None:
    found = candidates_of(table)
    for one, two, three in itertools.product(found, repeat=3):
        assert not (dominates(one, two, AXES) and dominates(two, one, AXES))
        if dominates(one, two, AXES) and dominates(two, three, AXES):
            assert dominates(one, three, AXES)


def test_a_gain_that_broke_a_guard_is_a_tradeoff() -> None:
    verdict = judge([BASELINE, GAINS_AND_BREAKS], AXES, incumbent="run0", reference="run0")
    assert verdict == (("run0", "run1"), ("run1",), False)
    assert verdict.exists


@pytest.mark.parametrize("reason", ["within_noise", "not_better", "needs_confirmation"])
def test_a_gain_that_may_be_noise_is_no_tradeoff_and_hides_none(reason: str) -> None:
    noise = run(2, (0.95, 0.9, 0.05), reason)
    assert not judge([BASELINE, noise], AXES, incumbent="run0", reference="run0").exists
    verdict = judge([BASELINE, GAINS_AND_BREAKS, noise], AXES, incumbent="run0", reference="run0")
    assert verdict.rivals == ("run1",)


def test_a_run_that_gains_and_breaks_nothing_ends_the_tradeoff() -> None:
    better = run(2, (0.91, 0.86, 0.1), "better")
    verdict = judge([BASELINE, GAINS_AND_BREAKS, better], AXES, incumbent="run2", reference="run0")
    assert verdict.pareto == ("run2",)
    assert not verdict.exists


def test_small_losses_that_add_up_are_a_tradeoff_with_the_runs_that_break_nothing() -> None:
    first = run(1, (0.85, 0.835, 0.1), "better")
    second = run(2, (0.90, 0.82, 0.1), "better")
    verdict = judge([BASELINE, first, second], AXES, incumbent="run2", reference="run0")
    assert verdict.rivals == ("run0", "run1")


def test_a_choice_settles_it_until_a_new_run_is_as_sensible() -> None:
    old = [
        run(number, tuple(item.values.values()), item.reason, is_new=False)
        for number, item in enumerate((BASELINE, GAINS_AND_BREAKS))
    ]
    kept = judge(old, AXES, incumbent="run0", reference="run0")
    assert kept.exists and kept.is_settled
    again = judge([*old, run(2, (0.95, 0.7, 0.1), "guard_worse:auc_MEL")], AXES, incumbent="run0", reference="run0")
    assert again.exists and not again.is_settled
    dominated = judge([*old, run(2, (0.85, 0.7, 0.1), "guard_worse:auc_MEL")], AXES, incumbent="run0", reference="run0")
    assert dominated.is_settled


def test_after_a_choice_guards_are_held_against_the_chosen_run() -> None:
    chosen = run(1, (0.90, 0.80, 0.1), "guard_worse:auc_MEL", is_accepted=True, is_new=False)
    old = run(0, (0.80, 0.85, 0.1), "baseline", is_new=False)
    assert not judge([old, chosen], AXES, incumbent="run1", reference="run1").exists
    later = run(2, (0.95, 0.79, 0.1), "better")
    assert not judge([old, chosen, later], AXES, incumbent="run2", reference="run1").exists


def test_runs_of_one_code_are_one_candidate() -> None:
    seeds = [run(1, (0.9, 0.8, 0.1), "within_noise", code="a"), run(2, (0.8, 0.9, 0.1), "better", code="a")]
    assert [item.run for item in one_per_code(seeds)] == ["run2"]
    assert [item.run for item in one_per_code(seeds[::-1])] == ["run2"]
    assert [item.run for item in one_per_code(seeds, ["run1"])] == ["run1"]
    same = [run(number, (0.9, 0.8, 0.1), "not_better", code="a") for number in range(3)]
    assert [item.run for item in one_per_code(same, ["run0"])] == ["run0"]


def test_runs_with_equal_numbers_stay_both() -> None:
    twin = run(2, tuple(GAINS_AND_BREAKS.values.values()), "guard_worse:auc_MEL")
    verdict = judge([BASELINE, GAINS_AND_BREAKS, twin], AXES, incumbent="run0", reference="run0")
    assert verdict.rivals == ("run1", "run2")


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_guard_that_became_undefined_is_broken_and_a_run_without_a_primary_value_is_no_candidate(
    missing: float | None,
) -> None:
    undefined = run(1, (0.9, missing, 0.1), "guard_worse:auc_MEL")
    assert losses(undefined, BASELINE, AXES) == [Loss("auc_MEL", None, 0.02)]
    assert losses(BASELINE, undefined, AXES) == []
    verdict = judge([BASELINE, run(1, (missing, 0.99, 0.0), "undefined")], AXES, incumbent="run0", reference="run0")
    assert verdict.pareto == ("run0",)


def test_a_loss_of_just_the_margin_breaks_nothing() -> None:
    assert losses(run(1, (0.9, 0.83, 0.15)), BASELINE, AXES) == []
    assert losses(run(1, (0.9, 0.829, 0.151)), BASELINE, AXES) == [
        Loss("auc_MEL", 0.021, 0.02),
        Loss("partial_r_ruler", 0.051, 0.05),
    ]


def test_without_an_incumbent_there_is_no_tradeoff() -> None:
    assert judge([], AXES, incumbent=None, reference=None) == ((), (), False)
    assert not judge([GAINS_AND_BREAKS], AXES, incumbent=None, reference=None).exists
