"""Each metric against scikit-learn, on the data as they are, weighted, tied, one-sided and empty."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as oracle

from clinloop.errors import BadInput
from clinloop.scoring.evaluate import evaluate, evaluate_once
from clinloop.scoring.metrics import METRICS, Scheme, is_higher_better, metrics_of, parse_rule, resolve, title
from clinloop.scoring.operating import fix_operating_point, fix_operating_points
from clinloop.scoring.weighted import Cases, confusion, thresholds_of

CLASSES = ["A", "B", "C_x"]
SCHEME = Scheme(tuple(CLASSES))
NAMES = [metric.of("B") if metric.per_class else metric.name for metric in metrics_of(SCHEME)]


def make_cases(
    seed: int = 0, n: int = 200, *, ties: bool = False, thresholds: tuple[float, ...] = (0.3, 0.4, 0.5)
) -> Cases:
    random = np.random.default_rng(seed)
    truth = random.choice(3, n, p=[0.5, 0.3, 0.2])
    scores = random.random((n, 3))
    scores[np.arange(n), truth] += 0.5
    if ties:
        scores = np.round(scores * 4) + 1
    return Cases(
        truth=truth,
        probabilities=scores / scores.sum(axis=1, keepdims=True),
        groups=random.integers(0, n // 2, n),
        n_groups=n // 2,
        thresholds=np.array(thresholds),
    )


def repeated(cases: Cases, times: np.ndarray) -> Cases:
    """Physically repeat each case as often as its group was drawn."""
    rows = np.repeat(np.arange(len(cases.truth)), times[cases.groups])
    return Cases(
        truth=cases.truth[rows],
        probabilities=cases.probabilities[rows],
        groups=np.arange(len(rows)),
        n_groups=len(rows),
        thresholds=cases.thresholds,
        positive=cases.positive,
    )


def _sens_at(specificity: float, is_class: np.ndarray, scores: np.ndarray) -> float:
    fpr, tpr, _ = oracle.roc_curve(is_class, scores, drop_intermediate=False)
    return float(tpr[1 - fpr >= specificity - 1e-12].max())


def _spec_at(sensitivity: float, is_class: np.ndarray, scores: np.ndarray) -> float:
    fpr, tpr, _ = oracle.roc_curve(is_class, scores, drop_intermediate=False)
    return float((1 - fpr)[tpr >= sensitivity - 1e-12].max())


def _ece(happened: np.ndarray, probability: np.ndarray) -> float:
    """The definition, bin by bin; a probability on an edge counts to the upper bin."""
    edges, error = np.linspace(0, 1, 16), 0.0
    for low, high in zip(edges[:-1], np.append(edges[1:-1], 2.0), strict=True):
        inside = (probability >= low) & (probability < high)
        if inside.any():
            error += inside.mean() * abs(probability[inside].mean() - happened[inside].mean())
    return error


def _net_benefit(is_class: np.ndarray, probability: np.ndarray) -> float:
    (_, false_alarms), (_, hits) = oracle.confusion_matrix(is_class, probability >= 0.1)
    return (hits - false_alarms / 9) / len(is_class)


# For class B (index 1) or all classes: truth (N,), probabilities (N, 3).
ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "macro_auc": lambda y, p: oracle.roc_auc_score(y, p, multi_class="ovr", average="macro"),
    "auc_<class>": lambda y, p: oracle.roc_auc_score(y == 1, p[:, 1]),
    "macro_auprc": lambda y, p: oracle.average_precision_score(np.eye(3)[y], p, average="macro"),
    "auprc_<class>": lambda y, p: oracle.average_precision_score(y == 1, p[:, 1]),
    "f1": lambda y, p: oracle.f1_score(y, p.argmax(1), average="macro"),
    "f1_<class>": lambda y, p: oracle.f1_score(y == 1, p.argmax(1) == 1),
    "mcc": lambda y, p: oracle.matthews_corrcoef(y, p.argmax(1)),
    "sensitivity_<class>": lambda y, p: oracle.recall_score(y == 1, p[:, 1] >= 0.4),
    "specificity_<class>": lambda y, p: oracle.recall_score(y != 1, p[:, 1] < 0.4),
    "ppv_<class>": lambda y, p: oracle.precision_score(y == 1, p[:, 1] >= 0.4),
    "npv_<class>": lambda y, p: oracle.precision_score(y != 1, p[:, 1] < 0.4),
    "mcc_<class>": lambda y, p: oracle.matthews_corrcoef(y == 1, p[:, 1] >= 0.4),
    "sens_at_spec80_<class>": lambda y, p: _sens_at(0.8, y == 1, p[:, 1]),
    "sens_at_spec90_<class>": lambda y, p: _sens_at(0.9, y == 1, p[:, 1]),
    "spec_at_sens95_<class>": lambda y, p: _spec_at(0.95, y == 1, p[:, 1]),
    "balanced_accuracy": lambda y, p: oracle.balanced_accuracy_score(y, p.argmax(1)),
    "accuracy": lambda y, p: oracle.accuracy_score(y, p.argmax(1)),
    "brier": lambda y, p: oracle.brier_score_loss(y, p, labels=[0, 1, 2], scale_by_half=True),
    "brier_<class>": lambda y, p: oracle.brier_score_loss(y == 1, p[:, 1]),
    "ece": lambda y, p: _ece(y == p.argmax(1), p.max(1)),
    "ece_<class>": lambda y, p: _ece(y == 1, p[:, 1]),
    "net_benefit_<class>": lambda y, p: _net_benefit(y == 1, p[:, 1]),
}


def test_every_metric_has_an_oracle_a_title_and_a_stated_undefined_case() -> None:
    assert set(ORACLES) == {metric.name for metric in metrics_of(SCHEME)}
    for metric in METRICS:
        assert metric.title
        assert metric.undefined
        assert metric.low < metric.high


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ties", [False, True])
def test_a_metric_equals_scikit_learn(name: str, ties: bool) -> None:
    for seed in range(10):
        cases = make_cases(seed, ties=ties)
        expected = ORACLES[resolve(name, SCHEME).metric.name](cases.truth, cases.probabilities)
        assert evaluate_once([name], SCHEME, cases)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ties", [False, True])
def test_a_weighting_equals_physically_repeated_cases(name: str, ties: bool) -> None:
    cases = make_cases(1, ties=ties)
    counts = np.random.default_rng(2).integers(0, 4, (cases.n_groups, 20))
    weighted = evaluate([name], SCHEME, cases, counts.astype(np.float64))[0]
    physical = [evaluate_once([name], SCHEME, repeated(cases, column))[0] for column in counts.T]
    np.testing.assert_allclose(weighted, physical, rtol=0, atol=1e-12)
    assert len(set(physical)) > 1


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_is_undefined_without_cases_and_never_zero(name: str) -> None:
    cases = make_cases(0)
    assert np.isnan(evaluate([name], SCHEME, cases, np.zeros((cases.n_groups, 3)))).all()
    empty = repeated(cases, np.zeros(cases.n_groups, dtype=int))
    assert np.isnan(evaluate([name], SCHEME, empty, np.zeros((0, 2)))).all()


def test_with_one_class_only_curves_are_undefined_and_the_rest_is_defined() -> None:
    cases = make_cases(0)
    single = Cases(
        truth=np.ones_like(cases.truth),
        probabilities=cases.probabilities,
        groups=cases.groups,
        n_groups=cases.n_groups,
        thresholds=cases.thresholds,
    )
    values = dict(zip(NAMES, evaluate_once(NAMES, SCHEME, single), strict=True))
    undefined = {name for name, value in values.items() if np.isnan(value)}
    assert undefined == {
        "macro_auc",
        "auc_B",
        "mcc",
        "specificity_B",
        "mcc_B",
        "sens_at_spec80_B",
        "sens_at_spec90_B",
        "spec_at_sens95_B",
    }
    assert values["balanced_accuracy"] == values["accuracy"]
    assert values["auprc_B"] == values["macro_auprc"] == values["ppv_B"] == 1.0
    assert np.isnan(evaluate_once(["auprc_A"], SCHEME, single)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of what these cases lack
        for name in set(NAMES) - undefined - {"macro_auprc"}:  # which counts a class without a case as 0 there
            expected = ORACLES[resolve(name, SCHEME).metric.name](single.truth, single.probabilities)
            assert values[name] == pytest.approx(expected, abs=1e-12), name


def test_macro_metrics_leave_out_a_class_without_cases() -> None:
    cases = make_cases(3)
    keep = cases.truth != 2
    without = Cases(
        truth=cases.truth[keep],
        probabilities=cases.probabilities[keep],
        groups=cases.groups[keep],
        n_groups=cases.n_groups,
        thresholds=cases.thresholds,
    )
    macro, first, second, third = evaluate_once(["macro_auc", "auc_A", "auc_B", "auc_C_x"], SCHEME, without)
    assert np.isnan(third)
    assert macro == pytest.approx((first + second) / 2)


def test_a_class_without_an_operating_point_has_no_sensitivity() -> None:
    cases = make_cases(0, thresholds=(0.3, np.nan, 0.5))
    names = [metric.of("B") for metric in metrics_of(SCHEME) if metric.needs_operating_point]
    assert len(names) == 5
    assert np.isnan(evaluate_once(names, SCHEME, cases)).all()
    assert (evaluate_once([name.replace("_B", "_A") for name in names], SCHEME, cases) > 0).all()


def test_two_classes_are_decided_by_the_operating_point_of_the_positive_one() -> None:
    truth, positive = np.array([0, 0, 1, 1]), np.array([0.1, 0.35, 0.4, 0.9])
    probabilities = np.stack([1 - positive, positive], axis=1)

    def accuracy(positive_class: int | None) -> float:
        cases = Cases(
            truth=truth,
            probabilities=probabilities,
            groups=np.arange(4),
            n_groups=4,
            thresholds=np.array([np.nan, 0.4]),
            positive=positive_class,
        )
        return float(evaluate_once(["accuracy"], Scheme(("no", "yes")), cases)[0])

    assert accuracy(None) == 0.75
    assert accuracy(1) == 1.0


def test_the_confusion_matrix_equals_scikit_learn() -> None:
    cases = make_cases(5)
    expected = oracle.confusion_matrix(cases.truth, cases.probabilities.argmax(1))
    assert confusion(cases) == expected.tolist()


def test_an_unknown_metric_lists_what_is_valid() -> None:
    for name in ("auroc", "auc_MEL", "auc", "f1_", "AUC_A", "macro_auc_A"):
        with pytest.raises(BadInput, match=r"macro_auc, auc_<class>, macro_auprc, .*one of A, B, C_x"):
            resolve(name, SCHEME)


def test_names_resolve_to_metric_and_class() -> None:
    assert resolve("sens_at_spec80_C_x", SCHEME).place == 2
    assert resolve("f1", SCHEME).place is None
    assert title("auc_B", SCHEME).startswith("B: AUC")
    assert not is_higher_better("brier")
    assert is_higher_better("auc_anything")
    with pytest.raises(BadInput):
        is_higher_better("loss")


def test_youden_takes_the_threshold_of_the_largest_sum() -> None:
    for seed in range(10):
        cases = make_cases(seed, ties=seed % 2 == 0)
        is_class, scores = cases.truth == 1, cases.probabilities[:, 1]
        point = fix_operating_point("youden", "B", is_class, scores)
        fpr, tpr, thresholds = oracle.roc_curve(is_class, scores, drop_intermediate=False)
        best = int(np.argmax(np.round(tpr - fpr, 12)))
        assert point is not None
        assert point.threshold == pytest.approx(thresholds[best])
        assert (point.sensitivity, point.specificity) == (pytest.approx(tpr[best]), pytest.approx(1 - fpr[best]))


@pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 1.0])
def test_a_target_is_reached_at_the_smallest_cost(target: float) -> None:
    cases = make_cases(4)
    is_class, scores = cases.truth == 1, cases.probabilities[:, 1]
    fpr, tpr, _ = oracle.roc_curve(is_class, scores, drop_intermediate=False)
    sensitive = fix_operating_point(f"sensitivity>={target}", "B", is_class, scores)
    specific = fix_operating_point(f"specificity>={target}", "B", is_class, scores)
    assert sensitive is not None
    assert specific is not None
    assert sensitive.sensitivity >= target
    assert sensitive.specificity == pytest.approx((1 - fpr)[tpr >= target].max())
    assert specific.specificity >= target
    assert specific.sensitivity == pytest.approx(tpr[1 - fpr >= target].max())
    assert np.mean(scores[is_class] >= sensitive.threshold) == pytest.approx(sensitive.sensitivity)
    assert np.mean(scores[~is_class] < specific.threshold) == pytest.approx(specific.specificity)


@pytest.mark.parametrize("ratio", [0.05, 1.0, 3.0, 20.0, 1e6])
def test_a_cost_rule_takes_the_cheapest_threshold(ratio: float) -> None:
    for seed in range(5):
        cases = make_cases(seed, ties=seed % 2 == 0)
        is_class, scores = cases.truth == 1, cases.probabilities[:, 1]
        point = fix_operating_point(f"cost={ratio:g}", "B", is_class, scores)

        def cost(threshold: float, is_class: np.ndarray = is_class, scores: np.ndarray = scores) -> float:
            (_, false_alarms), (misses, _) = oracle.confusion_matrix(
                is_class, scores >= threshold, labels=[False, True]
            )
            return misses * ratio + false_alarms

        assert point is not None
        assert cost(point.threshold) == pytest.approx(min(cost(t) for t in [*scores, 1.1]))
        assert point.sensitivity == pytest.approx(np.mean(scores[is_class] >= point.threshold))


def test_the_more_a_miss_costs_the_more_sensitive_is_the_operating_point() -> None:
    cases = make_cases(2)
    points = [
        fix_operating_point(f"cost={ratio}", "B", cases.truth == 1, cases.probabilities[:, 1])
        for ratio in (0.01, 1, 5, 1000)
    ]
    found = [point.sensitivity for point in points if point and point.sensitivity is not None]
    assert found == sorted(found)
    assert found[0] < found[-1] == 1.0


def test_full_specificity_is_reached_even_when_another_class_has_the_top_score() -> None:
    point = fix_operating_point("specificity>=1", "B", np.array([True, False]), np.array([0.2, 0.9]))
    assert point is not None
    assert (point.sensitivity, point.specificity) == (0.0, 1.0)
    assert 0.9 < point.threshold < 0.91


def test_a_class_without_cases_on_both_sides_gets_no_operating_point() -> None:
    truth = np.array([0, 0, 1])
    points = fix_operating_points("youden", CLASSES, truth, np.full((3, 3), 1 / 3))
    assert set(points) == {"A", "B"}
    assert np.isnan(thresholds_of(points, CLASSES)[2])


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "best",
        "sensitivity>=",
        "sensitivity>=nan",
        "sensitivity>=1.1",
        "auc>=0.5",
        "specificity>=0",
        "cost",
        "cost=",
        "cost=0",
        "cost=inf",
        "cost=nan",
        "cost>=2",
        "costs=2",
    ],
)
def test_an_unknown_rule_lists_what_is_valid(rule: str) -> None:
    with pytest.raises(BadInput, match=r"youden.*sensitivity>=X.*specificity>=X.*cost=R"):
        parse_rule(rule)
