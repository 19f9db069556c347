"""Confounder metrics against definitions by residuals and by sorting, weighted, missing, and undefined."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from clinloop.errors import BadInput
from clinloop.scoring.evaluate import evaluate, evaluate_once
from clinloop.scoring.metrics import Scheme, metrics_of, resolve, title
from clinloop.scoring.truth import confounder_value
from clinloop.scoring.weighted import Cases

SCHEME = Scheme(("no pneumothorax", "pneumothorax"), confounders=("drain", "age"))
NAMES = [metric.of("drain") for metric in metrics_of(SCHEME) if metric.per_confounder]


def make_cases(seed: int = 0, n: int = 300, *, leak: float = 0.3, missing: float = 0.1) -> Cases:
    """Return cases whose drain goes with the disease and raises the score by `leak`."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, n)
    drain = np.clip(0.5 + 0.35 * (truth - 0.5) + random.normal(0, 0.35, n), 0, 1)
    p = np.clip(0.25 + 0.3 * truth + leak * drain + random.normal(0, 0.15, n), 0, 1)
    drain = np.where(random.random(n) < missing, np.nan, np.round(drain, 1))  # 0.5 is often met
    return Cases(
        truth=truth,
        probabilities=np.stack([1 - p, p], axis=1),
        groups=random.integers(0, n // 3, n),
        n_groups=n // 3,
        thresholds=np.array([np.nan, 0.55]),
        confounders=np.stack([drain, random.random(n)], axis=1),
    )


def repeated(cases: Cases, times: np.ndarray) -> Cases:
    rows = np.repeat(np.arange(len(cases.truth)), times[cases.groups])
    return Cases(
        truth=cases.truth[rows],
        probabilities=cases.probabilities[rows],
        groups=np.arange(len(rows)),
        n_groups=len(rows),
        thresholds=cases.thresholds,
        confounders=cases.confounders[rows],
    )


def by_definition(cases: Cases) -> dict[str, float]:
    known = ~np.isnan(cases.confounders[:, 0])
    y, p, drain = cases.truth[known], cases.probabilities[known, 1], cases.confounders[known, 0]

    def residual(values: np.ndarray) -> np.ndarray:
        return values - LinearRegression().fit(y[:, None], values).predict(y[:, None])

    has = drain >= 0.5
    conflict = ((y == 1) & ~has) | ((y == 0) & has)
    false_positive = (y == 0) & (p >= cases.thresholds[1])
    return {
        "conflict_auc_drain": float(roc_auc_score(y[conflict], p[conflict])),
        "partial_r_drain": float(abs(np.corrcoef(residual(p), residual(drain))[0, 1])),
        "raw_r_drain": float(abs(np.corrcoef(p, drain)[0, 1])),
        "fp_share_drain": float(has[false_positive].mean()),
    }


def test_confounder_metrics_equal_their_definitions() -> None:
    for seed in range(8):
        cases = make_cases(seed)
        expected = by_definition(cases)
        assert set(expected) == set(NAMES)
        assert tuple(evaluate_once(NAMES, SCHEME, cases)) == pytest.approx(
            [expected[name] for name in NAMES], abs=1e-10
        )


def test_a_weighting_equals_physically_repeated_cases() -> None:
    cases = make_cases(1)
    counts = np.random.default_rng(2).integers(0, 4, (cases.n_groups, 10))
    weighted = evaluate(NAMES, SCHEME, cases, counts.astype(np.float64))
    for column, ours in zip(counts.T, weighted.T, strict=True):
        expected = by_definition(repeated(cases, column))
        assert tuple(ours) == pytest.approx([expected[name] for name in NAMES], abs=1e-10)


def test_a_score_that_follows_the_confounder_is_told_from_one_that_does_not() -> None:
    names = ["conflict_auc_drain", "partial_r_drain", "fp_share_drain"]
    shortcut, honest = (evaluate_once(names, SCHEME, make_cases(0, 3000, leak=leak)) for leak in (0.5, 0.0))
    assert shortcut[0] < honest[0]
    assert shortcut[1] > 0.5 > 0.05 > honest[1]
    assert shortcut[2] > honest[2]
    assert evaluate_once(["partial_r_age"], SCHEME, make_cases(0, 3000, leak=0.5))[0] < 0.05


def test_the_positive_class_is_the_declared_one() -> None:
    cases = make_cases(3)
    turned = Scheme(SCHEME.classes, positive="no pneumothorax", confounders=SCHEME.confounders)
    one, other = (
        evaluate_once(["conflict_auc_drain", "partial_r_drain"], scheme, cases) for scheme in (SCHEME, turned)
    )
    assert one[1] == pytest.approx(other[1])  # the sign alone turns
    assert one[0] != pytest.approx(other[0], abs=1e-3)


def test_what_does_not_vary_has_no_correlation_and_an_empty_cell_no_auc() -> None:
    cases = make_cases(0)
    for constant in (0.0, 1.0, np.nan):
        same = Cases(
            truth=cases.truth,
            probabilities=cases.probabilities,
            groups=cases.groups,
            n_groups=cases.n_groups,
            thresholds=np.array([np.nan, 2.0]),
            confounders=np.full_like(cases.confounders, constant),
        )
        assert np.isnan(evaluate_once(NAMES, SCHEME, same)).all()
    assert np.isnan(evaluate(NAMES, SCHEME, cases, np.zeros((cases.n_groups, 2)))).all()


def test_names_need_two_classes_and_a_declared_confounder() -> None:
    assert resolve("partial_r_age", SCHEME).place == 1
    assert title("partial_r_drain", SCHEME).startswith("drain: ")
    with pytest.raises(BadInput, match="<confounder> one of drain, age"):
        resolve("partial_r_sex", SCHEME)
    with pytest.raises(BadInput) as caught:
        resolve("partial_r_drain", Scheme(("a", "b", "c"), confounders=("drain",)))
    assert "confounder" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("", None), (" ", None), ("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("Yes", 1.0), ("absent", 0.0), ("FALSE", 0.0)],
)
def test_attributes_are_read_as_how_much_of_the_confounder_there_is(text: str, value: float | None) -> None:
    assert confounder_value("drain", text) == value


@pytest.mark.parametrize("text", ["male", "2", "-1", "nan", "inf", "45", "1e999"])
def test_an_attribute_that_is_no_share_is_refused_without_its_value(text: str) -> None:
    with pytest.raises(BadInput, match="'drain' cannot be scored as a confounder") as caught:
        confounder_value("drain", text)
    assert f"'{text}'" not in str(caught.value)
