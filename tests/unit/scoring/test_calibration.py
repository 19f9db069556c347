"""Reliability, calibration error, net benefit and the Wilson interval against scikit-learn, scipy and their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve

from clinloop.scoring.calibration import calibration_error, net_benefit, reliability
from clinloop.scoring.evaluate import evaluate, evaluate_once
from clinloop.scoring.metrics import Scheme, metrics_of
from clinloop.scoring.proportions import wilson, wilson_of
from clinloop.scoring.weighted import Cases

SCHEME = Scheme(("no", "yes"))


def drawn(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and outcomes that happen less often than they say."""
    random = np.random.default_rng(seed)
    probability = random.beta(0.7, 1.2, n)
    return probability, random.random(n) < probability**1.5


def binary(probability: np.ndarray, is_class: np.ndarray, groups: np.ndarray | None = None) -> Cases:
    groups = np.arange(len(probability)) if groups is None else groups
    return Cases(
        truth=is_class.astype(np.intp),
        probabilities=np.stack([1 - probability, probability], axis=1),
        groups=groups,
        n_groups=int(groups.max(initial=-1)) + 1,
        thresholds=np.array([0.6, 0.4]),
    )


@pytest.mark.parametrize("bins", [5, 15])
def test_the_reliability_curve_equals_scikit_learn(bins: int) -> None:
    for seed in range(5):
        probability, is_class = drawn(seed, 60)
        found = reliability(probability, is_class, bins)
        share, mean = calibration_curve(is_class, probability, n_bins=bins)
        filled = found.n > 0
        np.testing.assert_allclose(found.mean[filled], mean, atol=1e-12)
        np.testing.assert_allclose(found.share[filled], share, atol=1e-12)
        assert np.isnan(found.mean[~filled]).all()
        assert found.n.sum() == 60


def test_a_probability_on_an_edge_counts_to_the_upper_bin_and_one_to_the_last() -> None:
    found = reliability(np.array([0.0, 0.2, 0.4, 1.0]), np.ones(4, dtype=bool), 5)
    assert found.n.tolist() == [1, 1, 1, 0, 1]
    assert list(zip(found.low, found.high, strict=True))[1] == pytest.approx((0.2, 0.4))


def test_the_curve_its_error_and_the_metric_agree() -> None:
    probability, is_class = drawn(0)
    found, cases = reliability(probability, is_class), binary(probability, is_class)
    filled = found.n > 0
    error = (found.n * np.abs(found.mean - found.share))[filled].sum() / len(probability)
    assert calibration_error(probability, is_class) == pytest.approx(error, abs=1e-12)
    # Of two classes `ece` is that of the positive, else of the second; bins of equal width mirror, so the other one has the same.
    assert evaluate_once(["ece", "ece_yes", "ece_no"], SCHEME, cases) == pytest.approx([error] * 3, abs=1e-12)
    assert evaluate_once(["brier", "brier_yes"], SCHEME, cases) == pytest.approx(
        [np.mean((probability - is_class) ** 2)] * 2, abs=1e-12
    )


def test_two_classes_are_weighted_as_if_cases_were_repeated() -> None:
    probability, is_class = drawn(5, 60)
    groups, counts = np.arange(60) // 3, np.random.default_rng(6).integers(0, 3, (20, 15))
    names = [metric.of("yes") if metric.per_class else metric.name for metric in metrics_of(SCHEME)]
    for scheme in (SCHEME, Scheme(("no", "yes"), positive="yes")):
        positive = 1 if scheme.positive else None
        cases = replace(binary(probability, is_class, groups), positive=positive)
        weighted = evaluate(names, scheme, cases, counts.astype(float))
        for column, values in zip(counts.T, weighted.T, strict=True):
            rows = np.repeat(np.arange(60), column[groups])
            again = replace(binary(probability[rows], is_class[rows]), positive=positive)
            np.testing.assert_allclose(values, evaluate_once(names, scheme, again), atol=1e-12)


def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_a_known_one() -> None:
    random = np.random.default_rng(2)
    probability = random.random(200_000)
    assert calibration_error(probability, random.random(200_000) < probability) < 0.01
    assert calibration_error(np.full(10, 0.9), np.arange(10) < 6) == pytest.approx(0.3)


def test_net_benefit_equals_its_definition_and_what_is_known_of_it() -> None:
    probability, is_class = drawn(1)
    thresholds = np.array([0.0, 0.05, 0.1, 0.5, 0.9])
    expected = [
        ((probability >= t) & is_class).mean() - ((probability >= t) & ~is_class).mean() * t / (1 - t)
        for t in thresholds
    ]
    found = net_benefit(probability, is_class, thresholds)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[0] == pytest.approx(is_class.mean())  # acting on everybody, false alarms free
    assert found[2] == pytest.approx(evaluate_once(["net_benefit_yes"], SCHEME, binary(probability, is_class))[0])
    perfect = net_benefit(is_class.astype(float), is_class, thresholds[1:])
    assert perfect == pytest.approx([is_class.mean()] * 4)


def test_nothing_is_told_of_no_cases() -> None:
    none, never = np.empty(0), np.empty(0, dtype=bool)
    assert reliability(none, never).n.tolist() == [0] * 15
    assert np.isnan(calibration_error(none, never))
    assert np.isnan(net_benefit(none, never, np.array([0.1, 0.5]))).all()


def test_the_wilson_interval_equals_scipy() -> None:
    for successes, n in ((0, 1), (0, 20), (3, 7), (95, 100), (40, 40)):
        low, high = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert wilson(successes, n) == pytest.approx((low, high), abs=1e-12)
    assert wilson(0, 0) is None


def test_wilson_is_for_proportions_of_groups_of_one_case() -> None:
    probability, is_class = drawn(3, 80)
    cases, paired = binary(probability, is_class), binary(probability, is_class, np.arange(80) // 2)
    names = [metric.of("yes") if metric.per_class else metric.name for metric in metrics_of(SCHEME)]
    having = {name for name in names if wilson_of(name, SCHEME, cases)}
    assert having == {"accuracy", "sensitivity_yes", "specificity_yes", "ppv_yes", "npv_yes"}
    for name in having:
        limits, value = wilson_of(name, SCHEME, cases), evaluate_once([name], SCHEME, cases)[0]
        assert limits is not None
        assert limits.low < value < limits.high
        assert wilson_of(name, SCHEME, paired) is None
    flagged, hits = probability >= 0.4, (probability >= 0.4) & is_class
    assert wilson_of("ppv_yes", SCHEME, cases) == wilson(int(hits.sum()), int(flagged.sum()))
    assert wilson_of("sensitivity_yes", SCHEME, binary(probability, np.zeros(80, dtype=bool))) is None
