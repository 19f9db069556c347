"""Subgroups: how values become rows, and that each row is the comparison of the cases in it alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clinloop.scoring import service
from clinloop.scoring.analysis import MIN_CELL, Subgroup
from clinloop.scoring.service import Estimate
from clinloop.scoring.subgroups import MOST_ROWS, levels

from .drawn import BOXES, CLASSES, MASKS, SCHEME, TruthRows, drawn_boxes, drawn_masks, predict

NOTHING = [Estimate(None)] * 3


def rows_of(truth: TruthRows, *, primary: str = "macro_auc", resamples: int = 60) -> list[Subgroup]:
    found = service.analyse(
        predict(truth, skill=0.2),
        predict(truth, skill=0.6, seed=2),
        truth,
        scheme=SCHEME,
        primary=primary,
        p_values={},
        operating_points=({}, {}),
        resamples=resamples,
        seed=3,
    )
    return found.subgroups


def with_attributes(truth: TruthRows, **values: list[str]) -> TruthRows:
    return [
        case._replace(attributes={name: texts[at] for name, texts in values.items()}) for at, case in enumerate(truth)
    ]


def test_a_row_is_the_comparison_of_its_cases_alone(truth: TruthRows) -> None:
    sides = [("left", "right", "")[at % 7 % 3] for at in range(len(truth))]
    rows = rows_of(with_attributes(truth, side=sides))
    assert [(row.attribute, row.value, row.metric) for row in rows] == [
        ("side", "left", "macro_auc"),
        ("side", "right", "macro_auc"),
    ]
    for row in rows:
        chosen = [case for case, side in zip(truth, sides, strict=True) if side == row.value]
        (expected,) = service.compare(
            _part(truth, chosen, skill=0.2, seed=1),
            _part(truth, chosen, skill=0.6, seed=2),
            chosen,
            scheme=SCHEME,
            metrics=["macro_auc"],
            operating_points=({}, {}),
            resamples=60,
            seed=3,
        )
        assert (row.n, row.groups) == (len(chosen), expected.groups)
        assert (row.initial, row.refined, row.difference) == (expected.initial, expected.refined, expected.difference)


def _part(truth: TruthRows, chosen: TruthRows, *, skill: float, seed: int) -> bytes:
    """Return the predictions of some cases, as they are in the file of all."""
    rows = service.read_predictions(predict(truth, skill=skill, seed=seed), scheme=SCHEME)
    return service.predictions_bytes({case.case_id: rows[case.case_id] for case in chosen}, SCHEME)


def test_few_cases_have_no_number_and_one_class_alone_has_its_accuracy(truth: TruthRows) -> None:
    few = ["rare" if at < MIN_CELL - 1 else "usual" for at in range(len(truth))]
    by_label = ["nevi" if case.label == "NV" else "others" for case in truth]
    rows = {(row.attribute, row.value): row for row in rows_of(with_attributes(truth, few=few, kind=by_label))}
    rare = rows["few", "rare"]
    assert (rare.n, rare.note, [rare.initial, rare.refined, rare.difference]) == (MIN_CELL - 1, "too few", NOTHING)
    nevi = rows["kind", "nevi"]
    assert (nevi.metric, nevi.note) == ("accuracy", "")
    assert nevi.difference.value == pytest.approx((nevi.refined.value or 0) - (nevi.initial.value or 0))
    assert nevi.difference.low is not None
    assert rows["kind", "others"].metric == "macro_auc"


def test_a_table_that_would_be_too_long_says_what_it_leaves_out(truth: TruthRows) -> None:
    many = {f"a{at:02d}": [str((n * (at + 2)) % 7) for n in range(len(truth))] for at in range(9)}
    one = {"same": ["x"] * len(truth), "free": [f"text {at}" for at in range(len(truth))]}
    found = service.analyse(
        predict(truth, skill=0.2),
        predict(truth, skill=0.6),
        with_attributes(truth, **many, **one),
        scheme=SCHEME,
        primary="f1",
        p_values={},
        operating_points=({}, {}),
        resamples=20,
    )
    assert 0 < len(found.subgroups) <= MOST_ROWS
    shown = {row.attribute for row in found.subgroups}
    assert {"same", "free"}.isdisjoint(shown)
    assert all((name in found.notes[0]) == (name not in shown) for name in [*many, *one])


def test_one_group_has_values_and_no_interval(truth: TruthRows) -> None:
    one = [case._replace(group="g") for case in truth]
    row = rows_of(with_attributes(one, side=["left", "right"] * 60))[0]
    assert (row.note, row.groups, row.initial.low) == ("one group", 1, None)
    assert row.initial.value is not None


def test_boxes_and_masks_have_subgroups_and_say_what_is_undefined() -> None:
    for scheme, (truth, weak), primary, other in (
        (BOXES, drawn_boxes(skill=0.4), "ap50", ("ap50", "ap50 is undefined here")),
        (MASKS, drawn_masks(skill=0.5), "dice", ("image_specificity", "")),
    ):
        times = 3 if scheme is MASKS else 1
        more = [
            case._replace(case_id=f"{case.case_id}x{n}", group=f"{case.group}x{n}")
            for n in range(times)
            for case in truth
        ]
        rows = service.read_predictions(weak, scheme=scheme, expected=[case.case_id for case in truth])
        data = service.predictions_bytes({case.case_id: rows[case.case_id.partition("x")[0]] for case in more}, scheme)
        found = service.analyse(
            data,
            data,
            with_attributes(more, kind=[case.label for case in more]),
            scheme=scheme,
            primary=primary,
            p_values={},
            operating_points=({}, {}),
            resamples=30,
        )
        by_value = {row.value: row for row in found.subgroups}
        assert (by_value["no fracture"].metric, by_value["no fracture"].note) == other
        assert by_value["fracture"].metric == primary
        assert by_value["fracture"].difference.value == 0


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["yes", "no", "", "yes"], {"no": 1, "yes": 2}),
        (["10", "9", "10", "2"], {"2": 1, "9": 1, "10": 2}),
        ([str(at) for at in range(30)], {"0 to 9": 10, "10 to 19": 10, "20 to 29": 10}),
        ([str(at) for at in range(400)], {"0 to 99": 100, "100 to 199": 100, "200 to 299": 100, "300 to 399": 100}),
        (["0"] * 90 + [str(at) for at in range(1, 11)], {"0": 90, "1 to 10": 10}),
        ([f"word {at}" for at in range(9)], {}),
        ([*map(str, range(9)), "nan"], {}),
        (["", ""], {}),
        (["x" * 61, "y"], {}),
    ],
)
def test_values_become_levels(texts: list[str], expected: dict[str, int]) -> None:
    assert {level.value: len(level.cases) for level in levels(texts)} == expected


def test_numbers_of_many_values_lie_in_exactly_one_level() -> None:
    random = np.random.default_rng(0)
    for n in (25, 500):
        texts = [f"{value:.1f}" for value in random.normal(60, 15, n)]
        found = levels(texts)
        assert sorted(at for level in found for at in level.cases) == list(range(n))
        for level in found:
            low, _, high = level.value.partition(" to ")
            assert all(float(low) <= float(texts[at]) <= float(high or low) for at in level.cases)


def test_probabilities_of_a_confounder_are_cut_at_one_half(truth: TruthRows) -> None:
    values = [f"{at / len(truth):.4f}" for at in range(len(truth))]
    scheme = replace(SCHEME, classes=tuple(CLASSES[:2]), positive="MEL", confounders=("drain",))
    two = [case for case in with_attributes(truth, drain=values) if case.label != "BCC"]
    data = service.probabilities_csv({case.case_id: (0.4, 0.6) for case in two}, scheme.classes)
    found = service.analyse(
        data, data, two, scheme=scheme, primary="auc_MEL", p_values={}, operating_points=({}, {}), resamples=20
    )
    assert [row.value for row in found.subgroups] == ["below 0.5", "0.5 or more"]
