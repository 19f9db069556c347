"""TaskSpec: filled in, checked against the data with all problems at once, and hashed in one canonical form."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from clinloop.errors import BadInput
from clinloop.scoring.metrics import parse_rule, resolve, scheme_of
from clinloop.spec import PRESETS, Confounder, Emphasis, Guard, SpecFacts, TaskSpec, canonical, freeze

OBJECTIVE = "Tell melanoma from nevus."
FACTS = SpecFacts(
    classes=["MEL", "NV", "BCC", "UNK"],
    attributes=["age", "sex"],
    val_counts={"MEL": 9, "NV": 30, "BCC": 6, "UNK": 0},
    resolve_metric=lambda name, spec: resolve(name, scheme_of(spec)),
)
WRISTS = FACTS._replace(
    classes=["no fracture", "fracture"],
    attributes=["cast"],
    val_counts={"no fracture": 9, "fracture": 30},
    task_types=["classification", "detection"],
    targets=["fracture"],
)


def spec(**fields: Any) -> TaskSpec:
    return TaskSpec.model_validate({"objective": OBJECTIVE, "target_classes": ["MEL", "NV", "BCC"]} | fields)


def problems(**fields: Any) -> str:
    with pytest.raises(BadInput) as refusal:
        freeze(spec(**fields), FACTS)
    return str(refusal.value)


def test_what_a_spec_leaves_open_is_filled_in() -> None:
    facts = FACTS._replace(classes=["MEL", "NV"], val_counts={"MEL": 9, "NV": 30})

    frozen = freeze(TaskSpec(objective=OBJECTIVE), facts)

    assert frozen == TaskSpec(
        objective=OBJECTIVE,
        target_classes=("MEL", "NV"),
        reported_metrics=("macro_auc", "f1", "balanced_accuracy"),
        guards=(),
        task_type="classification",
        risk_preference="balanced",
        primary_metric="macro_auc",
        operating_point="youden",
        acceptance="guarded",
        budget="quick",
    )


def test_an_emphasised_class_is_reported_and_guarded() -> None:
    frozen = freeze(spec(emphasised_classes=[{"class_name": "MEL", "why": "a missed one can kill"}]), FACTS)

    assert frozen.guards == (Guard(metric="auc_MEL", margin=0.02),)
    assert frozen.reported_metrics == (
        "macro_auc",
        "f1",
        "balanced_accuracy",
        "auc_MEL",
        "sensitivity_MEL",
        "specificity_MEL",
        "sens_at_spec80_MEL",
    )


def test_what_a_spec_says_is_kept_and_the_primary_metric_is_reported_first() -> None:
    given = spec(
        primary_metric="auc_MEL",
        reported_metrics=["brier", "auc_MEL", "brier"],
        guards=[{"metric": "f1", "margin": 0.1}],
        emphasised_classes=[{"class_name": "MEL", "why": "a missed one can kill"}],
        confounders=[{"attribute": "sex", "why": "men are referred later"}],
        operating_point="sensitivity>=0.9",
        acceptance="paper",
    )

    frozen = freeze(given, FACTS)

    assert frozen == given.model_copy(update={"reported_metrics": ("auc_MEL", "brier")})


def test_every_problem_is_reported_at_once_with_what_is_valid() -> None:
    text = problems(
        target_classes=["MEL", "NV", "UNK", "SCC"],
        emphasised_classes=[Emphasis(class_name="BCC", why="it is common")],
        confounders=[Confounder(attribute="ruler", why="rulers lie beside melanomas")],
        primary_metric="auc_SCCC",
        reported_metrics=["kappa"],
        guards=[Guard(metric="auc_BCC")],
        operating_point="sensitivity>0.9",
    )

    assert text.startswith("The spec has 8 problem(s): ")
    for part in (
        "target_classes: ['SCC'] do not exist; the dataset's classes are MEL, NV, BCC, UNK",
        "target_classes: UNK has no validation case",
        "emphasised_classes: 'BCC' is not among the target classes ['MEL', 'NV', 'UNK', 'SCC']",
        "confounders: 'ruler' is no attribute of the dataset; it has: age, sex",
        "primary_metric: Unknown metric 'auc_SCCC'; valid are macro_auc, ",
        "reported_metrics: Unknown metric 'kappa'; valid are macro_auc, ",
        "guards: Unknown metric 'auc_BCC'; valid are macro_auc, ",
        'operating_point: \'sensitivity>0.9\' is no rule; valid are "youden", "sensitivity>=0.9", "specificity>=0.8"',
    ):
        assert part in text
    assert text.endswith("call init_task again.")


def test_one_mistake_is_one_problem_although_defaults_depend_on_it() -> None:
    text = problems(emphasised_classes=[{"class_name": "MELANOMA", "why": "a missed one can kill"}])
    assert text.startswith("The spec has 1 problem(s): emphasised_classes: 'MELANOMA'")


@pytest.mark.parametrize("classes", [["MEL"], ["MEL", "MEL"], ["MEL", "NV", "MEL"]])
def test_fewer_than_two_different_classes_are_refused(classes: list[str]) -> None:
    assert "target_classes: give at least two different classes" in problems(target_classes=classes)


def test_a_dataset_without_attributes_says_so() -> None:
    with pytest.raises(BadInput, match="it has: none, so leave confounders empty"):
        freeze(spec(confounders=[{"attribute": "age", "why": "x"}]), FACTS._replace(attributes=[]))


def test_a_thousand_problems_still_fit_into_one_reply() -> None:
    assert len(problems(reported_metrics=[f"metric_{n}" for n in range(1000)])) < 10_000


@pytest.mark.parametrize(
    "rule",
    ["youden", "sensitivity>=0.9", "specificity>=0.80", "specificity>=.5", "sensitivity>=1e-3", "cost=20", "cost=0.5"],
)
def test_a_valid_rule_is_accepted_and_understood_by_the_scorer(rule: str) -> None:
    frozen = freeze(spec(operating_point=rule), FACTS)
    assert frozen.operating_point == rule
    parse_rule(rule)


@pytest.mark.parametrize(
    "rule",
    [
        "Youden",
        "youden>=0.5",
        "sensitivity",
        "sensitivity>=",
        "sensitivity>=0",
        "sensitivity>=1",
        "sensitivity>=1.5",
        "sensitivity>=-0.5",
        "sensitivity>=nan",
        "sensitivity>=inf",
        "sensitivity>=0,9",
        "f1>=0.9",
        "sensitivity==0.9",
        "cost",
        "cost=0",
        "cost=-1",
        "cost=inf",
        "cost=nan",
        "cost>=20",
        "costly=20",
    ],
)
def test_an_invalid_rule_is_refused_with_the_valid_ones(rule: str) -> None:
    assert f"operating_point: {rule!r} is no rule; valid are" in problems(operating_point=rule)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("objectiv", "Tell melanoma from nevus."),
        ("task_type", "regression"),
        ("risk_preference", "none"),
        ("acceptance", "always"),
        ("budget", "unlimited"),
        ("objective", "short"),
        ("objective", "x" * 2001),
        ("objective", "a lone surrogate \ud800 here"),
        ("guards", [{"metric": "f1", "margin": -0.1}]),
        ("guards", [{"metric": "f1", "margin": 1.1}]),
        ("guards", [{"metric": "f1", "margin": float("nan")}]),
        ("guards", [{"metric": "f1", "margn": 0.1}]),
        ("emphasised_classes", [{"class_name": "MEL"}]),
        ("emphasised_classes", ["MEL"]),
        ("target_classes", "MEL"),
    ],
)
def test_an_unknown_field_or_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        spec(**{field: value})
    assert [error["loc"][0] for error in refusal.value.errors()] == [field]


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        spec().budget = "paper"  # pyright: ignore[reportAttributeAccessIssue]


def test_the_hash_is_that_of_json_with_sorted_keys_and_no_spaces() -> None:
    given = spec(assumptions=["é \U0001f600"])
    plain = json.loads(given.model_dump_json())
    expected = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    assert given.sha256() == hashlib.sha256(expected).hexdigest()


def test_the_hash_does_not_depend_on_how_the_spec_was_written() -> None:
    one = TaskSpec.model_validate_json(
        '{"budget": "demo", "objective": "Tell melanoma from nevus.", "guards": [{"metric": "f1"}]}'
    )
    two = TaskSpec(objective=OBJECTIVE, guards=(Guard(metric="f1", margin=0.02),), budget="demo", acceptance="guarded")
    assert one.sha256() == two.sha256()


@pytest.mark.parametrize(
    "change",
    [
        {"objective": OBJECTIVE + "!"},
        {"target_classes": ["NV", "MEL", "BCC"]},
        {"budget": "demo"},
        {"open_questions": ["?"]},
    ],
)
def test_the_hash_depends_on_every_part(change: dict[str, object]) -> None:
    assert spec(**change).sha256() != spec().sha256()


def test_a_frozen_spec_survives_the_store_and_freezing_again() -> None:
    frozen = freeze(spec(emphasised_classes=[{"class_name": "MEL", "why": "a missed one can kill"}]), FACTS)
    assert TaskSpec.model_validate_json(canonical(frozen.model_dump(mode="json"))) == frozen
    assert freeze(frozen, FACTS) == frozen


def test_canonical_json_has_one_form_and_no_numbers_that_json_lacks() -> None:
    assert canonical({"b": [1, 2.5, None, True], "a": {"é": ""}}) == '{"a":{"é":""},"b":[1,2.5,null,true]}'
    for number in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ValueError, match="JSON"):
            canonical([number])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_chosen_and_grants_something_of_each(name: str) -> None:
    assert freeze(spec(budget=name), FACTS).budget == name
    assert all(amount > 0 for amount in PRESETS[name])


def test_the_paper_preset_is_the_papers_budget() -> None:
    assert (PRESETS["paper"].runs, PRESETS["paper"].train_seconds) == (1 + 30, 40 * 60)


def test_the_budget_field_describes_the_presets_as_they_are() -> None:
    described = TaskSpec.model_fields["budget"].description or ""
    assert set(PRESETS) == {"paper", "quick", "demo"}
    quick, demo = PRESETS["quick"], PRESETS["demo"]
    assert (
        f"paper (baseline + {PRESETS['paper'].runs - 1} runs of {PRESETS['paper'].train_seconds // 60} min)"
        in described
    )
    assert f"quick (baseline + {quick.runs - 1} of {quick.train_seconds // 60} min)" in described
    assert f"demo (baseline + {demo.runs - 1} of {demo.train_seconds} s)" in described


@pytest.mark.parametrize("model", [TaskSpec, Emphasis, Guard, Confounder])
def test_every_field_is_documented(model: type[TaskSpec]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_a_detection_gets_the_metrics_and_the_threshold_rule_of_detections() -> None:
    frozen = freeze(TaskSpec(objective="Mark suspicious fractures.", task_type="detection"), WRISTS)

    assert (frozen.primary_metric, frozen.operating_point, frozen.targets) == ("ap50", "max_f1", ("fracture",))
    assert frozen.reported_metrics == ("ap50", "ap50_95", "precision", "recall", "f1", "image_auc")
    assert freeze(frozen, WRISTS) == frozen


def test_a_detection_may_be_made_of_positive_images_alone() -> None:
    only = WRISTS._replace(classes=["fracture"], val_counts={"fracture": 30})
    assert freeze(TaskSpec(objective="Mark suspicious fractures.", task_type="detection"), only).target_classes == (
        "fracture",
    )


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"task_type": "segmentation"},
            "task_type: the dataset has no truth for a segmentation; it allows classification, detection",
        ),
        (
            {"task_type": "detection", "targets": ["metal"]},
            "targets: ['metal'] do not exist; the dataset's targets are fracture",
        ),
        (
            {"task_type": "detection", "primary_metric": "macro_auc"},
            "primary_metric: Unknown metric 'macro_auc'; valid are ap50",
        ),
        (
            {"task_type": "detection", "operating_point": "youden"},
            "'youden' is no rule of a detection; it has 'max_f1'",
        ),
        ({"targets": ["fracture"]}, "targets: a classification has none"),
        ({"positive_class": "cast"}, "positive_class: 'cast' must be one of two target classes"),
    ],
)
def test_what_does_not_fit_the_kind_of_task_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInput) as refusal:
        freeze(TaskSpec.model_validate({"objective": "Mark suspicious fractures."} | fields), WRISTS)
    assert problem in str(refusal.value)


def test_a_task_with_a_confounder_always_has_a_guard_on_it() -> None:
    def guards(**fields: Any) -> list[str]:
        given = {"objective": "Find fractures.", "confounders": [{"attribute": "cast", "why": "treated already"}]}
        frozen = freeze(TaskSpec.model_validate(given | fields), WRISTS)
        assert frozen.positive_class == "fracture"
        assert "fp_share_cast" in frozen.reported_metrics
        return [guard.metric for guard in frozen.guards]

    assert guards() == ["partial_r_cast"]
    assert guards(guards=[{"metric": "auc_fracture"}]) == ["auc_fracture", "partial_r_cast"]
    assert guards(guards=[{"metric": "fp_share_cast"}]) == ["fp_share_cast"]
    assert guards(primary_metric="conflict_auc_cast", guards=[{"metric": "auc_fracture"}]) == ["auc_fracture"]
