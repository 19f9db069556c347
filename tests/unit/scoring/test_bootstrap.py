"""The group bootstrap: reproducible, with intervals that cover and p-values that are uniform when nothing differs."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from clinloop.scoring.bootstrap import (
    bootstrap,
    draw_counts,
    interval,
    interval_bca,
    leave_one_out,
    p_of_gain,
    p_two_sided,
)
from clinloop.scoring.evaluate import evaluate, evaluate_once
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.weighted import Cases

CLASSES = ["no", "yes"]
SCHEME = Scheme(tuple(CLASSES))


def binary(scores: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> Cases:
    p = 1 / (1 + np.exp(-scores))
    return Cases(
        truth=truth.astype(np.intp),
        probabilities=np.stack([1 - p, p], axis=1),
        groups=groups,
        n_groups=int(groups.max()) + 1,
        thresholds=np.array([0.5, 0.5]),
    )


def patients(random: np.random.Generator, *, n: int, images: int, models: int, shared: float = 1.0) -> list[Cases]:
    """Binormal scores with a patient effect: patients are diseased or not, images of a patient resemble each other."""
    groups = np.repeat(np.arange(n), images)
    truth = (np.arange(n) % 2)[groups]
    effect = random.normal(size=n)[groups] * shared
    return [binary(truth + effect + random.normal(size=len(groups)), truth, groups) for _ in range(models)]


def test_the_same_seed_gives_the_same_resamples_whatever_the_chunk() -> None:
    draws = [np.concatenate(list(draw_counts(7, 50, seed=3, chunk=chunk)), axis=1) for chunk in (1, 13, 50, 1000)]
    assert all((draw == draws[0]).all() for draw in draws)
    assert draws[0].shape == (7, 50)
    assert (draws[0].sum(axis=0) == 7).all()
    assert (np.concatenate(list(draw_counts(7, 50, seed=4)), axis=1) != draws[0]).any()


def test_groups_are_drawn_equally_often() -> None:
    counts = np.concatenate(list(draw_counts(20, 5000, seed=0)), axis=1)
    assert counts.mean(axis=1) == pytest.approx(1.0, abs=0.06)
    assert counts.var() == pytest.approx(1 - 1 / 20, abs=0.03)  # multinomial


def test_metrics_of_resamples_are_deterministic_and_paired() -> None:
    cases = patients(np.random.default_rng(0), n=40, images=2, models=1)[0]
    first = bootstrap(["auc_yes", "accuracy"], SCHEME, [cases, cases], resamples=300, seed=1)
    second = bootstrap(["auc_yes", "accuracy"], SCHEME, [cases, cases], resamples=300, seed=1)
    assert first.shape == (2, 2, 300)
    assert (first == second).all()
    assert (first[0] == first[1]).all()
    assert (bootstrap(["auc_yes"], SCHEME, [cases], resamples=300, seed=2)[0] != first[0, :1]).any()


def test_models_of_other_groups_are_no_pair() -> None:
    random = np.random.default_rng(0)
    one, other = patients(random, n=10, images=2, models=1)[0], patients(random, n=12, images=2, models=1)[0]
    with pytest.raises(ValueError, match="share their groups"):
        bootstrap(["accuracy"], SCHEME, [one, other], resamples=2, seed=0)


def test_the_interval_covers_the_true_auc_when_images_of_a_patient_resemble_each_other() -> None:
    random, true_auc = np.random.default_rng(11), 0.5 * (1 + math.erf(1 / math.sqrt(4) / math.sqrt(2)))
    covered = {"groups": 0, "cases": 0}
    simulations = 200
    for seed in range(simulations):
        cases = patients(random, n=80, images=4, models=1)[0]
        apart = binary(np.log(cases.probabilities[:, 1] / cases.probabilities[:, 0]), cases.truth, np.arange(320))
        for kind, sample in (("groups", cases), ("cases", apart)):
            limits = interval(bootstrap(["auc_yes"], SCHEME, [sample], resamples=300, seed=seed)[0, 0])
            assert limits is not None
            covered[kind] += limits.low <= true_auc <= limits.high
    # 95 % nominal; 200 simulations have a standard error of 1.5 points. Resampling images instead of patients fails.
    assert 0.90 <= covered["groups"] / simulations <= 0.985
    assert covered["cases"] / simulations < 0.85


def test_p_values_are_about_uniform_when_two_models_are_equally_good() -> None:
    random = np.random.default_rng(5)
    two_sided: list[float] = []
    one_sided: list[float] = []
    for seed in range(250):
        pair = patients(random, n=80, images=2, models=2)
        drawn = bootstrap(["auc_yes"], SCHEME, pair, resamples=300, seed=seed)[:, 0]
        two_sided.append(p_two_sided(drawn[1] - drawn[0]) or 0.0)
        one_sided.append(p_of_gain(drawn[1] - drawn[0]) or 0.0)
    for values in (np.array(two_sided), np.array(one_sided)):
        assert np.mean(values) == pytest.approx(0.5, abs=0.07)
        assert 0.04 <= np.mean(values <= 0.10) <= 0.18
        assert 0.35 <= np.mean(values <= 0.5) <= 0.65


def test_p_is_never_zero_and_one_for_equal_models() -> None:
    assert p_two_sided(np.full(999, 0.1)) == 2 / 1000
    assert p_of_gain(np.full(999, 0.1)) == 1 / 1000
    assert p_of_gain(np.full(999, -0.1)) == 1.0
    assert p_two_sided(np.zeros(999)) == 1.0
    assert p_of_gain(np.zeros(999)) == 1.0


def test_p_agrees_with_the_interval() -> None:
    values = np.random.default_rng(0).normal(0.1, 0.05, 4000)
    for shift in np.linspace(-0.1, 0.1, 41):
        limits, p = interval(values - shift), p_two_sided(values - shift)
        assert limits is not None
        assert p is not None
        if abs(p - 0.05) > 0.002:
            assert (p < 0.05) == (limits.low > 0 or limits.high < 0)


def test_undefined_resamples_are_left_out_and_too_many_of_them_give_nothing() -> None:
    values = np.array([0.1, 0.2, 0.3, np.nan, np.nan])
    assert interval(values) == interval(values[:3])
    assert p_of_gain(values) == 1 / 4
    assert interval(np.array([0.1, np.nan, np.nan])) is None
    assert p_two_sided(np.full(5, np.nan)) is None
    assert interval(np.array([])) is None


def test_a_rare_class_makes_some_resamples_undefined() -> None:
    truth = np.zeros(50, dtype=int)
    truth[0] = 1
    cases = binary(np.random.default_rng(0).normal(size=50), truth, np.arange(50))
    drawn = bootstrap(["auc_yes"], SCHEME, [cases], resamples=2000, seed=0)[0, 0]
    assert np.isnan(drawn).mean() == pytest.approx(math.exp(-1), abs=0.05)
    assert np.nanmean(drawn) == pytest.approx(evaluate_once(["auc_yes"], SCHEME, cases)[0], abs=0.02)


def test_leaving_out_a_group_equals_taking_it_away() -> None:
    cases = patients(np.random.default_rng(3), n=30, images=2, models=1)[0]
    found = leave_one_out(["auc_yes", "brier"], SCHEME, [cases])[0]
    for group in range(30):
        kept = cases.groups != group
        without = binary(
            np.log(cases.probabilities[kept, 1] / cases.probabilities[kept, 0]), cases.truth[kept], cases.groups[kept]
        )
        expected = evaluate_once(["auc_yes", "brier"], SCHEME, without)
        np.testing.assert_allclose(found[:, group], expected, atol=1e-9)


@pytest.mark.parametrize("name", ["auc_yes", "f1_yes", "brier"])
def test_the_bca_interval_equals_scipy(name: str) -> None:
    cases = patients(np.random.default_rng(4), n=40, images=3, models=1)[0]

    def of_groups(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        chosen = np.moveaxis(samples[0], axis, -1)  # (…, groups): which were drawn
        counts = np.stack([np.bincount(row.astype(int), minlength=40) for row in chosen.reshape(-1, chosen.shape[-1])])
        return evaluate([name], SCHEME, cases, counts.T.astype(float))[0].reshape(chosen.shape[:-1])

    values = bootstrap([name], SCHEME, [cases], resamples=500, seed=1)[0, 0]
    value, left_out = evaluate_once([name], SCHEME, cases)[0], leave_one_out([name], SCHEME, [cases])[0, 0]
    drawn = stats.bootstrap(
        (np.arange(40),),
        of_groups,
        n_resamples=0,
        method="BCa",
        bootstrap_result=SimpleNamespace(bootstrap_distribution=values),
    )
    assert interval_bca(values, value, left_out) == pytest.approx(tuple(drawn.confidence_interval), abs=1e-12)
    assert interval_bca(values, value, left_out) != interval(values)


def test_a_bca_interval_is_not_made_up() -> None:
    values, left_out = np.linspace(0.5, 0.6, 200), np.linspace(0.54, 0.56, 30)
    assert interval_bca(values, 0.7, left_out) is None  # no resample on one side of the value
    assert interval_bca(np.full(200, np.nan), 0.55, left_out) is None
    assert interval_bca(values, 0.55, np.full(30, np.nan)) is None
    # Without bias and skewness it is the percentile interval.
    plain = interval(values)
    assert plain is not None
    assert interval_bca(values, 0.55, np.full(30, 0.55)) == pytest.approx(tuple(plain))
