"""The confound audit against naive computations on physically resampled cases, and what it says when there is little to say."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy.stats import binom, pearsonr, rankdata
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from clinloop.scoring.analysis import MIN_CELL, ConfounderAudit
from clinloop.scoring.bootstrap import draw_counts
from clinloop.scoring.confound_audit import MAX_FOUND, audit, notes
from clinloop.scoring.confound_joint import JointNumbers
from clinloop.scoring.confound_numbers import NAMES, Numbers
from clinloop.scoring.crosschecks import holm
from clinloop.scoring.detection import match
from clinloop.scoring.exposures import exposures
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.predictions import Detected, Mask
from clinloop.scoring.segmentation import measure
from clinloop.scoring.truth import TruthBox, TruthCase
from clinloop.scoring.weighted import Cases, Floats, Ints, Weighting

SCHEME = Scheme(("no ptx", "ptx"), positive="ptx", confounders=("drain",))
RESAMPLES = 60
THRESHOLD = 0.4


class Data:
    """Cases of which some have a drain, and two models: one that leans on it, one that does less."""

    def __init__(
        self, seed: int = 0, n: int = 360, *, leans: tuple[float, float] = (0.35, 0.05), predicted: bool = False
    ) -> None:
        random = np.random.default_rng(seed)
        self.y = random.integers(0, 2, n)
        has = random.random(n) < np.where(self.y == 1, 0.65, 0.3)
        share = np.clip(np.where(has, 0.8, 0.2) + random.normal(0, 0.12, n), 0, 1).round(2)
        self.drain = np.where(random.random(n) < 0.05, np.nan, share if predicted else has)
        self.age = random.integers(20, 90, n) + 5 * self.y
        self.site = random.choice(["north", "south", "east"], n)
        self.groups = np.concatenate([np.arange(n // 2), random.integers(0, n // 2, n - n // 2)])  # no group is empty
        noise = random.normal(0, 0.2, n)
        # Two digits: many ties.
        self.p = [np.clip(0.2 + 0.25 * self.y + lean * has + noise, 0, 1).round(2) for lean in leans]

    def truth(self) -> list[TruthCase]:
        return [
            TruthCase(
                f"c{place:04}",
                f"g{group}",
                SCHEME.classes[self.y[place]],
                attributes={
                    "age": f"{self.age[place]}",
                    "drain": "" if np.isnan(self.drain[place]) else f"{self.drain[place]:g}",
                    "site": self.site[place],
                },
            )
            for place, group in enumerate(self.groups)
        ]

    def cases(self, model: int) -> Cases:
        return two_classes(self.y, self.p[model], self.groups)

    def audited(self, scheme: Scheme = SCHEME, *, seed: int = 3) -> list[ConfounderAudit]:
        return audit(self.truth(), scheme, self.cases(0), self.cases(1), resamples=RESAMPLES, seed=seed)[0]


def two_classes(y: Ints, p: Floats, groups: Ints, *, threshold: float = THRESHOLD) -> Cases:
    return Cases(
        truth=y.astype(np.intp),
        probabilities=np.stack([1 - p, p], axis=1),
        groups=groups.astype(np.intp),
        n_groups=int(groups.max()) + 1,
        thresholds=np.array([np.nan, threshold]),
        positive=1,
    )


def residual(values: Floats, *given: Floats) -> Floats:
    table = np.stack(given, axis=1)
    return values - LinearRegression().fit(table, values).predict(table)


def auc(p: Floats, above: Floats, below: Floats) -> float:
    return float(roc_auc_score(np.repeat([1, 0], [above.sum(), below.sum()]), np.concatenate([p[above], p[below]])))


def by_definition(y: Ints, p: Floats, value: Floats, present: Floats, ranks: tuple[Floats, Floats]) -> list[float]:
    """Return the numbers of NAMES, one after the other, of repeated cases; ranks were given before they were repeated."""
    known = ~np.isnan(value)
    cells = [(y == side) & known & (present == has) for side in (1, 0) for has in (True, False)]
    with_positive, without_positive, with_negative, without_negative = cells
    false_positive, false_negative = (y == 0) & (p >= THRESHOLD) & known, (y == 1) & (p < THRESHOLD) & known
    label = y[known].astype(float)
    p_rank, value_rank = (one[known] for one in ranks)
    return [
        float(roc_auc_score(y, p)),
        auc(p, with_positive, with_negative),
        auc(p, without_positive, without_negative),
        auc(p, without_positive, with_negative),
        auc(p, with_positive, without_negative),
        float(present[false_positive].mean()),
        float(present[false_negative].mean()),
        pearsonr(p[known], value[known])[0],
        pearsonr(residual(p[known], label), residual(value[known], label))[0],
        pearsonr(residual(p_rank, label), residual(value_rank, label))[0],
        *(float(np.median(p[is_in])) for is_in in cells),
    ]


def ranked(p: Floats, value: Floats) -> tuple[Floats, Floats]:
    known = ~np.isnan(value)
    found = []
    for values in (p, value):
        ranks = np.full(len(values), np.nan)
        ranks[known] = rankdata(values[known])
        found.append(ranks)
    return found[0], found[1]


@pytest.mark.parametrize("attribute", ["drain", "age", "site"])
@pytest.mark.parametrize("predicted", [False, True])
def test_every_number_of_a_weighting_equals_its_definition_on_physically_repeated_cases(
    attribute: str, predicted: bool
) -> None:
    data = Data(1, n=600, predicted=predicted)
    item = next(one for one in exposures(data.truth(), ("drain",)).found if one.attribute == attribute)
    cases = data.cases(0)
    numbers = Numbers(cases, item)
    assert not numbers.notes
    counts = np.concatenate([np.ones((cases.n_groups, 1)), *draw_counts(cases.n_groups, 6, seed=5)], axis=1)
    found = numbers.under(Weighting(cases, counts))
    ranks = ranked(data.p[0], item.value)
    for column, times in enumerate(counts.T):
        rows = np.repeat(np.arange(len(data.y)), times[data.groups].astype(int))
        expected = by_definition(
            data.y[rows],
            data.p[0][rows],
            item.value[rows],
            item.present[rows],
            (ranks[0][rows], ranks[1][rows]),
        )
        assert found[:, column] == pytest.approx(expected, abs=1e-9), NAMES


def test_intervals_differences_and_p_values_are_those_of_the_same_resamples_of_both_models() -> None:
    data = Data(2, n=480)
    found = next(one for one in data.audited() if one.attribute == "drain")
    item = exposures(data.truth(), ("drain",)).found[0]
    ranks = [ranked(p, item.value) for p in data.p]
    drawn = np.empty((2, len(NAMES), RESAMPLES))
    for column, times in enumerate(next(draw_counts(int(data.groups.max()) + 1, RESAMPLES, seed=3)).T):
        rows = np.repeat(np.arange(len(data.y)), times[data.groups].astype(int))
        for model, p in enumerate(data.p):
            drawn[model, :, column] = by_definition(
                data.y[rows],
                p[rows],
                item.value[rows],
                item.present[rows],
                (ranks[model][0][rows], ranks[model][1][rows]),
            )
    change = drawn[1] - drawn[0]
    for place, metric in enumerate(found.metrics):
        assert metric.name == NAMES[place]
        for estimate, resampled in (
            (metric.initial, drawn[0]),
            (metric.refined, drawn[1]),
            (metric.difference, change),
        ):
            expected = np.quantile(resampled[place], [0.025, 0.975])
            assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), abs=1e-9), metric.name
        beyond = min((change[place] <= 1e-12).sum(), (change[place] >= -1e-12).sum())
        if metric.p is not None:
            assert metric.p == pytest.approx(min(1.0, 2 * (beyond + 1) / (RESAMPLES + 1))), metric.name
        assert (metric.p is None) == metric.name.startswith("median")


def test_cells_hold_the_cross_table_its_quartiles_and_its_distributions() -> None:
    data = Data(4)
    found = next(one for one in data.audited() if one.attribute == "drain")
    known = ~np.isnan(data.drain)
    assert sum(cell.n for cell in found.cells) == known.sum() == found.n
    for cell in found.cells:
        is_in = known & (data.y == cell.positive) & ((data.drain == 1) == cell.present)
        assert (cell.n, cell.groups) == (is_in.sum(), len(np.unique(data.groups[is_in])))
        assert cell.initial == pytest.approx(tuple(np.percentile(data.p[0][is_in], (25, 50, 75))))
        assert cell.refined == pytest.approx(tuple(np.percentile(data.p[1][is_in], (25, 50, 75))))
        assert sum(cell.initial_histogram) == sum(cell.refined_histogram) == cell.n
        assert len(cell.initial_histogram) == 20
    has, lacks = data.drain[known & (data.y == 0)], data.drain[known & (data.y == 1)]
    references = {metric.name: metric.reference for metric in found.metrics}
    assert references["fp_share"] == pytest.approx(has.mean())
    assert references["fn_share"] == pytest.approx(lacks.mean())
    assert found.auc_alone == pytest.approx(roc_auc_score(data.y[known], data.drain[known]))


def test_every_attribute_is_audited_words_by_level_and_numbers_by_their_median() -> None:
    data = Data(5)
    found = data.audited()
    assert {(one.attribute, one.level) for one in found} == {
        ("drain", ""),
        ("age", f"above {np.median(data.age):g}"),
        ("site", "north"),
        ("site", "south"),
        ("site", "east"),
    }
    assert [one.is_declared for one in found] == [True, False, False, False, False]
    assert found[0].attribute == "drain"
    strengths = [abs((one.auc_alone or 0.5) - 0.5) for one in found[1:]]
    assert strengths == sorted(strengths, reverse=True)


def test_of_two_words_one_is_audited_and_what_says_nothing_is_noted() -> None:
    truth = [
        TruthCase(
            f"c{place}",
            "",
            "ptx",
            attributes={
                "sex": "F" if place % 3 else "M",
                "room": f"room {place % 30}",
                "maker": "one",
                "remark": ("lies" if place % 2 else "stands")
                + " at a window of the ward, as far as one can tell from here",
                "rare": "yes" if place < 5 else "no",
                "grade": "9" if place % 4 else "3",
            },
        )
        for place in range(90)
    ]
    found = exposures(truth, ())
    assert [(one.attribute, one.level) for one in found.found] == [("sex", "M"), ("grade", "at least 9")]
    assert int(found.found[0].present.sum()) == 30
    assert int(found.found[1].present.sum()) == 67
    text = " ".join(notes(truth, Scheme(("no ptx", "ptx"))))
    assert "room is not audited: it has 30 different words" in text
    assert "remark is not audited: it is free text" in text
    assert "maker is not audited: all cases say the same" in text
    assert f"rare is not audited: fewer than {MIN_CELL} cases" in text


def test_a_cell_that_is_too_small_gets_no_number_no_p_and_no_claim() -> None:
    data = Data(6)
    conflict = np.flatnonzero((data.y == 0) & (data.drain == 1))
    data.drain[conflict[MIN_CELL - 1 :]] = 0  # one too few are left
    found = next(one for one in data.audited() if one.attribute == "drain")
    metrics = {metric.name: metric for metric in found.metrics}
    for name in ("auc_with", "conflict_auc", "median_negative_with"):
        assert metrics[name].note == "too few"
        assert metrics[name].initial.value is metrics[name].difference.value is metrics[name].p is None
        assert metrics[name].p_holm is None
    assert metrics["auc_without"].initial.value is not None
    assert metrics["partial_r"].initial.value is not None
    cell = next(cell for cell in found.cells if not cell.positive and cell.present)
    assert (cell.n, cell.initial, cell.refined) == (MIN_CELL - 1, None, None)
    assert cell.initial_histogram == cell.refined_histogram == []
    assert f"there are {MIN_CELL - 1} cases with drain but not ptx, too few" in found.sentence
    data.drain[conflict] = 0
    data.drain[np.flatnonzero(data.drain == 1)[5:]] = 0
    found = next(one for one in data.audited() if one.attribute == "drain")
    assert found.sentence.startswith("Nothing can be said about drain: there are 0 cases")
    assert all(metric.note == "too few" for metric in found.metrics if metric.name.endswith("_r"))


def test_many_cases_of_few_groups_are_too_few() -> None:
    data = Data(6)
    data.groups = np.where((data.y == 0) & (data.drain == 1), data.groups % 4, data.groups)
    found = next(one for one in data.audited() if one.attribute == "drain")
    metrics = {metric.name: metric for metric in found.metrics}
    assert metrics["conflict_auc"].note == "too few"
    assert metrics["conflict_auc"].initial.value is None


def test_a_model_without_an_operating_point_has_no_errors_to_compose() -> None:
    data = Data(7)
    before, after = (replace(data.cases(model), thresholds=np.full(2, np.nan)) for model in (0, 1))
    found = audit(data.truth(), SCHEME, before, after, resamples=20, seed=0)[0][0]
    assert [metric.note for metric in found.metrics if metric.name in {"fp_share", "fn_share"}] == [
        "no operating point",
        "no operating point",
    ]
    assert "false alarms" not in found.sentence


def test_a_model_that_answers_all_cases_alike_does_not_vary() -> None:
    data = Data(8)
    data.p[1] = np.full(len(data.y), 0.3)
    found = data.audited()[0]
    notes_of = {metric.name: (metric.note, metric.refined.value, metric.p) for metric in found.metrics}
    assert notes_of["partial_r"] == ("does not vary", None, None)
    assert notes_of["conflict_auc"][:2] == ("", 0.5)


def test_an_audit_crosses_the_border_of_the_scoring_process_as_json() -> None:
    data = Data(7)
    data.p[1] = np.full(len(data.y), 0.3)
    scheme = replace(SCHEME, confounders=("drain", "site"))
    for found in (data.audited(), data.audited(scheme)):
        text = json.dumps([asdict(one) for one in found], allow_nan=False)
        assert TypeAdapter(list[ConfounderAudit]).validate_json(text) == found


def test_holm_gives_the_adjusted_values_of_the_textbook() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7, None]) == pytest.approx([1.0, 1.0, None])
    assert holm([]) == []


def test_attributes_that_nobody_declared_do_not_dilute_the_test_of_a_declared_one() -> None:
    data = Data(9)
    alone = Data(9)
    for case in (truth := alone.truth()):
        case.attributes.pop("age"), case.attributes.pop("site")  # type: ignore[attr-defined]
    one = audit(truth, SCHEME, alone.cases(0), alone.cases(1), resamples=RESAMPLES, seed=3)[0][0]
    many = data.audited()
    assert many[0] == one
    tested = [metric.p for metric in one.metrics if metric.p is not None]
    assert [metric.p_holm for metric in one.metrics if metric.p is not None] == holm(tested)
    # The AUC over all cases is one test however often it is told.
    others = [[metric.p for metric in other.metrics if metric.p is not None] for other in many[1:]]
    family = [others[0][0], *(p for tests in others for p in tests[1:])]
    assert many[-1].metrics[1].p_holm == holm(family)[1 + 9 * 3]


def test_the_same_model_twice_changes_nothing_and_a_model_that_leans_less_is_told_so() -> None:
    same = Data(10, leans=(0.3, 0.3)).audited()[0]
    assert all(metric.difference.value == 0 and metric.p in {1.0, None} for metric in same.metrics)
    assert "weaker" not in same.sentence and "better" not in same.sentence and "lower" not in same.sentence
    assert same.sentence.count("no clear change") == 5
    data = Data(10, n=900)
    truth = [case._replace(attributes={"drain": case.attributes["drain"]}) for case in data.truth()]
    found = audit(truth, SCHEME, data.cases(0), data.cases(1), resamples=1200, seed=1)[0][0]
    values = {metric.name: metric for metric in found.metrics}
    assert (values["partial_r"].p_holm or 1) < 0.05
    before, after = values["median_negative_with"].initial.value, values["median_negative_with"].refined.value
    assert f"Among cases without ptx, those with drain got a median probability of {before:.2f} before and {after:.2f} after," in found.sentence  # fmt: skip
    assert f"AUC of {values['conflict_auc'].initial.value:.2f} before and {values['conflict_auc'].refined.value:.2f} after (better)" in found.sentence  # fmt: skip
    assert "(weaker)" in found.sentence


def test_wrong_values_of_a_predicted_confounder_make_its_effect_look_smaller() -> None:
    found = Data(11, n=900, predicted=True).audited()[0]
    assert found.is_predicted
    rows, metrics = found.label_noise, {metric.name: metric for metric in found.metrics}
    assert [row.share for row in rows] == [0, 0.05, 0.1, 0.2]
    assert rows[0].partial_r_initial == pytest.approx(metrics["partial_r"].initial.value)
    assert rows[0].conflict_auc_refined == pytest.approx(metrics["conflict_auc"].refined.value)
    partial = [row.partial_r_initial or 0 for row in rows]
    assert partial == sorted(partial, reverse=True)
    # Flipping a share at random multiplies the covariance by 1 - 2 share, and the spread hardly changes.
    assert partial[3] == pytest.approx(0.6 * partial[0], rel=0.15)
    conflict = [row.conflict_auc_initial or 0 for row in rows]
    assert conflict == sorted(conflict)
    assert "The values of drain are predictions" in found.sentence
    assert not Data(11).audited()[0].label_noise


def test_joint_correlations_equal_those_of_the_residuals_of_two_regressions() -> None:
    data = Data(12)
    data.drain = np.where(np.isnan(data.drain), np.nan, data.drain)
    tube = ((data.drain == 1) ^ (np.random.default_rng(1).random(len(data.y)) < 0.2)).astype(float)
    truth = [
        case._replace(attributes={"drain": case.attributes["drain"], "tube": f"{tube[place]:g}"})
        for place, case in enumerate(data.truth())
    ]
    scheme = replace(SCHEME, confounders=("drain", "tube"))
    joint = audit(truth, scheme, data.cases(0), data.cases(1), resamples=RESAMPLES, seed=4)[1]
    assert [row.attribute for row in joint] == ["drain", "tube"]
    known, columns = ~np.isnan(data.drain), (data.drain, tube)

    def naive(p: Floats, rows: Ints, place: int) -> float:
        rows = rows[known[rows]]
        given = (data.y[rows].astype(float), columns[1 - place][rows])
        return float(pearsonr(residual(p[rows], *given), residual(columns[place][rows], *given))[0])

    everything = np.arange(len(data.y))
    for place, row in enumerate(joint):
        assert row.initial.value == pytest.approx(naive(data.p[0], everything, place), abs=1e-9)
        assert row.refined.value == pytest.approx(naive(data.p[1], everything, place), abs=1e-9)
        assert row.difference.low is not None and row.p is not None and row.p_holm is not None
    items = exposures(truth, scheme.confounders).found
    counts = next(draw_counts(int(data.groups.max()) + 1, 5, seed=9))
    found = JointNumbers(data.cases(0), items, known).under(counts)
    for column, times in enumerate(counts.T):
        rows = np.repeat(everything, times[data.groups].astype(int))
        assert found[:, column] == pytest.approx([naive(data.p[0], rows, place) for place in (0, 1)], abs=1e-9)
    twin = [items[0], items[0]]
    assert np.isnan(JointNumbers(data.cases(0), twin, known).under(counts)).all()
    assert data.audited()[0].attribute == "drain"


def test_of_many_classes_and_attributes_the_strongest_pairs_are_audited_and_declared_ones_always() -> None:
    random, n = np.random.default_rng(13), 600
    y = random.integers(0, 4, n)
    marker = (random.random(n) < np.where(y == 2, 0.8, 0.2)).astype(int)
    attributes = {f"other{place}": random.integers(0, 2, n) for place in range(20)} | {
        "plain": random.integers(0, 2, n)
    }
    scheme = Scheme(("a", "b", "c", "d"), confounders=("plain",))
    truth = [
        TruthCase(
            f"c{place}",
            "",
            scheme.classes[y[place]],
            attributes={"marker": f"{marker[place]}"}
            | {name: f"{values[place]}" for name, values in attributes.items()},
        )
        for place in range(n)
    ]
    p = random.dirichlet(np.ones(4), n)
    cases = Cases(truth=y, probabilities=p, groups=np.arange(n), n_groups=n, thresholds=np.full(4, 0.3))
    found, joint = audit(truth, scheme, cases, cases, resamples=0, seed=0)
    assert len(found) == 1 + MAX_FOUND
    assert (found[0].attribute, found[0].is_declared) == ("plain", True)
    assert (found[1].attribute, found[1].class_name) == ("marker", "c")
    assert joint == []
    first = found[1].metrics[0]
    assert first.initial.value == pytest.approx(roc_auc_score(y == 2, p[:, 2]))
    assert first.initial.low is None and first.p is None  # no resamples
    assert "clear change" not in found[1].sentence and "(change not tested)" in found[1].sentence


def test_boxes_are_audited_by_their_best_score_and_masks_by_what_was_found() -> None:
    data = Data(14, n=240)
    truth = data.truth()
    boxes = [[TruthBox(0, 1, 1, 8, 8)] if y else [] for y in data.y]
    both = [
        replace(
            match(
                boxes,
                [(Detected(0, 1, 1, 8, 8, float(score)), Detected(0, 30, 30, 5, 5, float(score) / 2)) for score in p],
                case_ids=[case.case_id for case in truth],
                n_targets=1,
                groups=data.groups.astype(np.intp),
                n_groups=int(data.groups.max()) + 1,
                threshold=THRESHOLD,
            )
        )
        for p in data.p
    ]
    scheme = Scheme(("no ptx", "ptx"), "detection", targets=("ptx",), confounders=("drain",))
    found = audit(truth, scheme, *both, resamples=20, seed=3)[0]
    as_classes = audit(truth, SCHEME, data.cases(0), data.cases(1), resamples=20, seed=3)[0]
    assert [one.metrics[3].initial for one in found] == [one.metrics[3].initial for one in as_classes]
    assert "median best score" in found[0].sentence
    size = (4, 4)
    masks = [
        measure(
            [(0, 8, 8) if y else (16,) for y in data.y],
            [Mask(*size, (0, 16) if score >= THRESHOLD else (16,)) for score in p],
            data.groups.astype(np.intp),
            int(data.groups.max()) + 1,
        )
        for p in data.p
    ]
    scheme = Scheme(("no ptx", "ptx"), "segmentation", targets=("ptx",), confounders=("drain",))
    found = audit(truth, scheme, *masks, resamples=20, seed=3)[0]
    values = {metric.name: metric.initial.value for metric in found[0].metrics}
    assert not any(name.startswith("median") for name in values)
    expected = {metric.name: metric.initial.value for metric in as_classes[0].metrics}
    assert values["fp_share"] == expected["fp_share"]
    known = ~np.isnan(data.drain)
    conflict = known & (data.y != (data.drain == 1))
    assert values["conflict_auc"] == pytest.approx(roc_auc_score(data.y[conflict], data.p[0][conflict] >= THRESHOLD))


@pytest.mark.slow
def test_two_models_that_lean_alike_are_rarely_told_apart_even_by_ten_numbers_at_once() -> None:
    told, trials = 0, 120
    for seed in range(trials):
        data = Data(seed, n=300)
        random = np.random.default_rng(1000 + seed)
        has = np.nan_to_num(data.drain)
        data.p = [
            np.clip(0.3 + 0.2 * data.y + 0.15 * has + random.normal(0, 0.2, len(has)), 0, 1).round(2) for _ in range(2)
        ]
        truth = [case._replace(attributes={"drain": case.attributes["drain"]}) for case in data.truth()]
        found = audit(truth, SCHEME, data.cases(0), data.cases(1), resamples=400, seed=seed)[0][0]
        told += any(metric.p_holm is not None and metric.p_holm < 0.05 for metric in found.metrics)
    assert told <= binom.ppf(0.999, trials, 0.05)
