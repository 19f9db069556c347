"""What intervals and p-values promise, by simulation: coverage of known true values, and uniform p-values where nothing differs."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from clinloop.scoring.bootstrap import bootstrap, interval, interval_bca, leave_one_out, p_of_gain, p_two_sided
from clinloop.scoring.crosschecks import delong
from clinloop.scoring.evaluate import evaluate_once
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.weighted import Cases

pytestmark = pytest.mark.slow

SCHEME = Scheme(("no", "yes"), positive="yes")
NORMAL = NormalDist()
PATIENTS, IMAGES, SHARE, SHIFT, CUT = 300, 2, 0.3, 1.5, 1.0
SPREAD = 2**0.5
"""Of a score within a class: the patient's own part and the image's, both of variance 1."""
SENSITIVITY, FALSE_ALARMS = 1 - NORMAL.cdf((CUT - SHIFT) / SPREAD), 1 - NORMAL.cdf(CUT / SPREAD)
TRUE = {
    "auc_yes": NORMAL.cdf(SHIFT / (SPREAD * 2**0.5)),
    "f1_yes": 2 * SHARE * SENSITIVITY / (SHARE + SHARE * SENSITIVITY + (1 - SHARE) * FALSE_ALARMS),
    "sensitivity_yes": SENSITIVITY,
    "ppv_yes": SHARE * SENSITIVITY / (SHARE * SENSITIVITY + (1 - SHARE) * FALSE_ALARMS),
}
SIMULATIONS = 1000


class Patients(NamedTuple):
    """The drawn patients of one simulation."""

    truth: np.ndarray
    effect: np.ndarray
    groups: np.ndarray

    def seen_by_a_model(self, random: np.random.Generator) -> Cases:
        """Return what a model of the stated skill says of them."""
        score = SHIFT * self.truth + self.effect + random.normal(size=len(self.truth))
        p = 1 / (1 + np.exp(-score))
        return Cases(
            truth=self.truth.astype(np.intp),
            probabilities=np.stack([1 - p, p], axis=1),
            groups=self.groups,
            n_groups=len(np.unique(self.groups)),
            thresholds=np.array([np.nan, 1 / (1 + np.exp(-CUT))]),
            positive=1,
        )


def patients(random: np.random.Generator, *, n: int = PATIENTS, images: int = IMAGES) -> Patients:
    """Draw patients; those of one patient share disease and a part of the score."""
    groups = np.repeat(np.arange(n), images)
    return Patients((random.random(n) < SHARE)[groups], random.normal(size=n)[groups], groups)


def test_percentile_intervals_cover_the_true_value_in_93_to_97_percent() -> None:
    random, names = np.random.default_rng(0), list(TRUE)
    covered = dict.fromkeys(names, 0)
    for seed in range(SIMULATIONS):
        cases = patients(random).seen_by_a_model(random)
        for name, values in zip(names, bootstrap(names, SCHEME, [cases], resamples=400, seed=seed)[0], strict=True):
            limits = interval(values)
            assert limits is not None
            covered[name] += limits.low <= TRUE[name] <= limits.high
    shares = {name: count / SIMULATIONS for name, count in covered.items()}
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def test_bca_intervals_cover_the_true_value_in_93_to_97_percent() -> None:
    random, names = np.random.default_rng(1), ["auc_yes", "f1_yes"]
    covered = dict.fromkeys(names, 0)
    for seed in range(SIMULATIONS):
        cases = patients(random, n=200).seen_by_a_model(random)
        drawn = bootstrap(names, SCHEME, [cases], resamples=400, seed=seed)[0]
        values, left_out = evaluate_once(names, SCHEME, cases), leave_one_out(names, SCHEME, [cases])[0]
        for index, name in enumerate(names):
            limits = interval_bca(drawn[index], values[index], left_out[index])
            assert limits is not None
            covered[name] += limits.low <= TRUE[name] <= limits.high
    shares = {name: count / SIMULATIONS for name, count in covered.items()}
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


@pytest.mark.parametrize("name", ["auc_yes", "f1_yes"])
def test_p_values_are_uniform_when_two_models_are_equally_good(name: str) -> None:
    random, two_sided, one_sided = np.random.default_rng(2), [], []
    for seed in range(SIMULATIONS):
        drawn = patients(random)
        models = [drawn.seen_by_a_model(random) for _ in range(2)]
        first, second = bootstrap([name], SCHEME, models, resamples=400, seed=seed)[:, 0]
        two_sided.append(p_two_sided(second - first))
        one_sided.append(p_of_gain(second - first))
    for p in (np.array(two_sided, dtype=float), np.array(one_sided, dtype=float)):
        assert stats.kstest(p, "uniform").pvalue > 0.01
        for level in (0.05, 0.10):
            low, high = stats.binom.interval(0.99, SIMULATIONS, level)
            assert low <= (p <= level).sum() <= high


def test_p_values_of_delong_are_uniform_when_each_group_has_one_case() -> None:
    random = np.random.default_rng(3)
    p: list[float] = []
    for _ in range(SIMULATIONS):
        drawn = patients(random, images=1)
        first, second = (drawn.seen_by_a_model(random).probabilities[:, 1] for _ in range(2))
        p.append(delong(drawn.truth, first, second)[1])
    assert stats.kstest(p, "uniform").pvalue > 0.01
