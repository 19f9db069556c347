"""The analysis of two models as the supervisor asks for it: files in, plain values out, the same from the evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from clinloop.errors import BadInput
from clinloop.report.evidence import truth_csv
from clinloop.scoring import service
from clinloop.scoring.analysis import Analysis, Curve
from clinloop.scoring.checks import NO_CASE, NO_POINT, ONE_SIDED, SEVERAL
from clinloop.scoring.service import Scheme, TruthCase

from .drawn import BOXES, CLASSES, MASKS, SCHEME, TruthRows, drawn_boxes, drawn_masks, predict

POINTS = {name: {"threshold": 0.4} for name in CLASSES}
BINARY = Scheme(("clear", "ill"), positive="ill", confounders=("drain",))


def analysis_of(truth: Path | TruthRows, scheme: Scheme = SCHEME, **changes: object) -> Analysis:
    cases = service.read_truth(truth) if isinstance(truth, Path) else truth
    settings: dict[str, object] = {
        "scheme": scheme,
        "primary": "macro_auc",
        "p_values": {"macro_auc": 0.01, "f1": None, "brier": 0.04},
        "operating_points": (POINTS, POINTS),
        "resamples": 50,
        "seed": 4,
        "initial": predict(cases, skill=0.2) if scheme is SCHEME else b"",
        "refined": predict(cases, skill=0.7, seed=2) if scheme is SCHEME else b"",
        **changes,
    }
    initial, refined = settings.pop("initial"), settings.pop("refined")
    return service.analyse(initial, refined, truth, **settings)  # pyright: ignore[reportArgumentType]


def drawn_films(n: int = 160, *, cases_of_a_group: int = 1) -> tuple[TruthRows, bytes, bytes]:
    """Return cases of two classes, the ill ones often with a drain, and a model that looks at the drain and one that does less so."""
    random = np.random.default_rng(5)
    truth: TruthRows = []
    tables: list[dict[str, Sequence[float]]] = [{}, {}]
    for at in range(n):
        ill = at % 2
        drain = int(random.random() < (0.7 if ill else 0.3))
        attributes = {"drain": str(drain), "age": str(random.integers(20, 90)), "sex": "fm"[at % 3 == 0]}
        truth.append(
            TruthCase(f"p{at:04d}", f"g{at // cases_of_a_group:04d}", BINARY.classes[ill], attributes=attributes)
        )
        for table, weight in zip(tables, (1.5, 0.3), strict=True):
            p = 1 / (1 + math.exp(-(1.2 * (ill - 0.5) + weight * (drain - 0.5) + random.normal())))
            table[truth[-1].case_id] = (1 - p, p)
    initial, refined = (service.predictions_bytes(table, BINARY) for table in tables)
    return truth, initial, refined


def films(**changes: object) -> Analysis:
    truth, initial, refined = drawn_films()
    given = {"primary": "auc_ill", "operating_points": ({"ill": {"threshold": 0.5}}, {"ill": {"threshold": 0.4}})}
    return analysis_of(truth, BINARY, **{"initial": initial, "refined": refined, **given, **changes})


def curve_of(found: Analysis, kind: str, model: str, name: str) -> Curve:
    (curve,) = (one for one in found.curves if (one.kind, one.model, one.name) == (kind, model, name))
    return curve


def test_the_evidence_of_a_report_gives_the_same_analysis_whatever_the_order(tmp_path: Path) -> None:
    truth, initial, refined = drawn_films(cases_of_a_group=2)
    given: dict[str, object] = {"initial": initial, "refined": refined, "primary": "auc_ill"}
    given["operating_points"] = ({"ill": {"threshold": 0.5}}, {})
    # Not every case says everything, and the first ones say it in another order.
    truth = [
        case._replace(
            attributes=dict(reversed(case.attributes.items())) if at % 5 else {"drain": case.attributes["drain"]}
        )
        for at, case in enumerate(truth)
    ]
    first = analysis_of(truth, BINARY, **given)
    (tmp_path / "truth.csv").write_bytes(truth_csv(truth))
    again = analysis_of(tmp_path / "truth.csv", BINARY, **given)
    assert again == analysis_of(truth[::-1], BINARY, **given)
    one, other = (list(_numbers(asdict(found))) for found in (first, again))
    assert one == pytest.approx(other, rel=0, abs=1e-9)
    assert first.subgroups and first.curves and first.confounders
    assert analysis_of(truth, BINARY, **given, seed=5).calibration != first.calibration


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


def test_an_analysis_survives_json_and_says_everything_for_each_class(truth: TruthRows) -> None:
    found = analysis_of(truth)
    text = json.dumps(asdict(found), allow_nan=False)
    assert TypeAdapter(Analysis).validate_json(text) == found
    assert {(curve.kind, curve.model, curve.name) for curve in found.curves} == {
        (kind, model, name)
        for kind in ("roc", "precision_recall")
        for model in ("initial", "refined")
        for name in CLASSES
    }
    assert [(one.model, one.name) for one in found.calibration] == [
        (model, name) for model in ("initial", "refined") for name in CLASSES
    ]
    assert [one.name for one in found.decision_curves] == CLASSES
    assert (found.resamples, found.seed, found.confounders, found.subgroups) == (50, 4, [], [])
    assert found.adjusted_p == {"macro_auc": 0.02, "f1": None, "brier": 0.04}


def test_numbers_of_a_class_are_those_of_the_metrics(truth: TruthRows) -> None:
    found = analysis_of(truth)
    names = ["ece_NV", "brier_NV", "sensitivity_NV", "specificity_NV"]
    ece, brier, sensitivity, specificity = service.compare(
        predict(truth, skill=0.2),
        predict(truth, skill=0.7, seed=2),
        truth,
        scheme=SCHEME,
        metrics=names,
        operating_points=(POINTS, POINTS),
        resamples=50,
        seed=4,
    )
    refined = next(one for one in found.calibration if (one.model, one.name) == ("refined", "NV"))
    assert (refined.ece, refined.brier) == (ece.refined, brier.refined)
    filled = [one for one in refined.bins if one.n]
    away = sum(one.n * abs((one.mean_probability or 0) - (one.share or 0)) for one in filled) / len(truth)
    assert away == pytest.approx(ece.refined.value)
    assert curve_of(found, "roc", "initial", "NV").at == pytest.approx(
        (1 - (specificity.initial.value or 0), sensitivity.initial.value)
    )
    rows = service.read_predictions(predict(truth, skill=0.2), scheme=SCHEME)
    acted = [rows[case.case_id][1] >= 0.25 for case in truth]  # pyright: ignore[reportIndexIssue,reportOperatorIssue]
    right = sum(act and case.label == "NV" for act, case in zip(acted, truth, strict=True))
    worth = (right - (sum(acted) - right) / 3) / len(truth)
    curve = found.decision_curves[1]
    assert curve.initial[curve.thresholds.index(0.25)] == pytest.approx(worth)
    prevalence = sum(case.label == "NV" for case in truth) / len(truth)
    assert curve.all[curve.thresholds.index(0.25)] == pytest.approx(prevalence - (1 - prevalence) / 3)
    assert [sum(map(sum, one.matrix)) for one in found.confusion] == [len(truth)] * 2
    assert found.confusion[0].names == CLASSES


def test_two_classes_are_told_by_the_positive_one() -> None:
    found = films()
    assert {one.name for one in (*found.curves, *found.calibration, *found.decision_curves)} == {"ill"}
    assert {row.attribute for row in found.subgroups} == {"drain", "age", "sex"}
    assert found.subgroups[0].attribute == "drain", "what is declared comes first"
    assert {one.attribute for one in found.confounders} >= {"drain"}


def test_cross_checks_are_given_where_cases_are_independent_and_a_reason_where_not(truth: TruthRows) -> None:
    checks = {(check.test, check.metric): check for check in films().checks}
    assert set(checks) == {("DeLong", "auc_ill"), ("McNemar", "sensitivity_ill"), ("McNemar", "specificity_ill")}
    assert all(check.p is not None and 0 < check.p <= 1 and check.note == "" for check in checks.values())
    assert {check.note for check in analysis_of(truth).checks} == {SEVERAL}, "two cases share a group"
    without = films(operating_points=({}, {"ill": {"threshold": 0.4}}))
    assert [check.note for check in without.checks] == ["", NO_POINT, NO_POINT]


def test_cases_of_one_class_perfect_models_and_one_group_are_analysed_too(truth: TruthRows) -> None:
    nevi = [case._replace(label="NV", group="") for case in truth[:40]]
    found = analysis_of(nevi)
    assert [curve.name for curve in found.curves] == []
    assert {check.note for check in found.checks} == {ONE_SIDED, NO_CASE, ""}
    perfect = service.predictions_bytes(
        {case.case_id: [float(case.label == name) for name in CLASSES] for case in truth}, SCHEME
    )
    found = analysis_of([case._replace(group="") for case in truth], initial=perfect, refined=perfect)
    assert {check.p for check in found.checks} == {1.0}
    assert all(one.ece.value == 0 for one in found.calibration)
    one = analysis_of([case._replace(group="g") for case in truth])
    assert one.calibration[0].ece.value is not None
    assert one.calibration[0].ece.low is None
    assert "Only 1 groups" in one.notes[0]


def test_boxes_have_curves_of_marks_and_of_images() -> None:
    truth, weak = drawn_boxes(skill=0.4)
    strong = drawn_boxes(skill=0.9)[1]
    points = ({"fracture": {"threshold": 0.5}}, {"fracture": {"threshold": 0.45}})
    names = ["recall", "precision", "image_auc"]
    recall, precision, image_auc = service.compare(
        weak, strong, truth, scheme=BOXES, metrics=names, operating_points=points, resamples=20
    )
    given = {"initial": weak, "refined": strong, "primary": "ap50", "operating_points": points}
    found = analysis_of(truth, BOXES, **given)
    kinds = [(curve.kind, curve.model) for curve in found.curves]
    assert kinds == [(kind, model) for model in ("initial", "refined") for kind in ("froc", "precision_recall", "roc")]
    froc = curve_of(found, "froc", "refined", "fracture")
    assert (froc.x[0], froc.y[0]) == (0, 0)
    assert froc.at is not None
    assert froc.at[1] == recall.refined.value
    assert curve_of(found, "precision_recall", "initial", "fracture").at == pytest.approx(
        (recall.initial.value, precision.initial.value)
    )
    roc = curve_of(found, "roc", "refined", "fracture")
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(image_auc.refined.value)
    for curve in found.curves:
        assert curve.at is not None
    assert [one.names for one in found.confusion] == [["no fracture", "fracture"]] * 2
    assert [[sum(row) for row in one.matrix] for one in found.confusion] == [[20, 40]] * 2
    assert [check.metric for check in found.checks] == ["image_auc", "image_sensitivity", "image_specificity"]
    alone = [case._replace(group="") for case in truth]
    assert all(check.p is not None for check in analysis_of(alone, BOXES, **given).checks)
    nothing = analysis_of(truth, BOXES, **{**given, "refined": b"[]", "operating_points": ({}, {})})
    assert {(curve.kind, curve.model) for curve in nothing.curves} == {*kinds[:3], ("roc", "refined")}


def test_masks_have_a_table_of_images() -> None:
    truth, weak = drawn_masks(skill=0.5)
    found = analysis_of(
        truth,
        MASKS,
        initial=weak,
        refined=drawn_masks(skill=0.9)[1],
        primary="dice",
        operating_points=({}, {}),
    )
    assert [one.matrix for one in found.confusion] == [[[5, 5], [0, 30]]] * 2
    assert (found.curves, found.calibration, found.decision_curves, found.checks) == ([], [], [], [])


def test_an_unknown_primary_metric_or_confounder_is_refused() -> None:
    with pytest.raises(BadInput, match="Unknown metric"):
        films(primary="auroc")
    truth, initial, refined = drawn_films()
    with pytest.raises(BadInput, match="no attribute 'pacemaker'"):
        analysis_of(
            truth,
            replace(BINARY, confounders=("pacemaker",)),
            initial=initial,
            refined=refined,
            primary="auc_ill",
        )
