"""TaskSpec, the structured contract of a task, and what it is checked against before it is frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from clinloop.errors import BadInput


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Emphasis(_Part):
    """A class that matters more than the others."""

    class_name: str
    """Name of the class, as in the dataset."""
    why: str
    """The clinician's reason, e.g. "a missed melanoma can kill"."""


class Guard(_Part):
    """A metric that must not get worse while the primary metric improves."""

    metric: str
    """Metric name, e.g. "auc_MEL"."""
    margin: float = Field(default=0.02, ge=0, le=1)
    """How much worse than the incumbent is tolerated, in units of the metric. Default 0.02."""


class Confounder(_Part):
    """An attribute of the data that could stand in for the disease."""

    attribute: str
    """Name of the attribute, as in the dataset."""
    why: str
    """Why it could mislead."""


class TaskSpec(_Part):
    """What the clinician's request means, in terms that a server can check and freeze."""

    task_type: Literal["classification"] = "classification"
    """Kind of output: one label per image. Default classification."""
    objective: str = Field(min_length=10, max_length=2000)
    """The clinical aim in one or two sentences."""
    target_classes: tuple[str, ...] = ()
    """Classes to tell apart; cases of other classes are left out. Default: all classes of the dataset."""
    emphasised_classes: tuple[Emphasis, ...] = ()
    """Classes that matter most to the clinician, each with the reason. Default: none."""
    risk_preference: Literal["sensitivity_first", "balanced", "specificity_first"] = "balanced"
    """Which error is worse: a miss (sensitivity_first), a false alarm (specificity_first), or neither. Default balanced."""
    primary_metric: str = "macro_auc"
    """The one metric that decides which run is kept. Default macro_auc."""
    reported_metrics: tuple[str, ...] = ()
    """Further metrics for the report. Default: AUC, F1 and balanced accuracy, and per emphasised class AUC, sensitivity and specificity."""
    operating_point: str = "youden"
    """Threshold rule, fixed on validation and applied unchanged on test: "youden", "sensitivity>=X" or "specificity>=X". Default youden."""
    guards: tuple[Guard, ...] = ()
    """Metrics that must not get worse; used by acceptance "guarded". Default: the AUC of each emphasised class, margin 0.02."""
    confounders: tuple[Confounder, ...] = ()
    """Attributes that could mislead the model, for the report and the clinician. Default: none."""
    acceptance: Literal["guarded", "paper"] = "guarded"
    """How a run replaces the incumbent: "guarded" = gain beyond noise and no guard worse; "paper" = strictly better. Default guarded."""
    budget: Literal["paper", "quick", "demo"] = "quick"
    """Budget preset: paper (baseline + 30 runs of 40 min), quick (baseline + 3 of 5 min), demo (baseline + 7 of 24 s). Default quick."""
    assumptions: tuple[str, ...] = ()
    """What was assumed because the request does not say it. Default: nothing."""
    open_questions: tuple[str, ...] = ()
    """What the clinician should still answer. Default: nothing."""

    def sha256(self) -> str:
        """Return the SHA-256 of the spec in canonical JSON."""
        return hashlib.sha256(canonical(self.model_dump(mode="json")).encode()).hexdigest()


class Preset(NamedTuple):
    """What one budget preset grants."""

    runs: int
    """Charged runs, the baseline included."""
    train_seconds: int
    """Wall-clock limit of one train.py."""
    smokes: int
    """Free smoke tests."""
    smoke_seconds: int
    """Wall-clock limit of train.py in a smoke test."""
    error_views: int
    """Views of validation errors with their true labels."""
    validations: int
    """Validation submissions inside one run."""


PRESETS: dict[str, Preset] = {
    # Source of "paper": arXiv 2604.17110, at most 30 rounds of 40 minutes after the initial model.
    "paper": Preset(runs=31, train_seconds=2400, smokes=60, smoke_seconds=120, error_views=20, validations=60),
    "quick": Preset(runs=4, train_seconds=300, smokes=12, smoke_seconds=120, error_views=6, validations=40),
    "demo": Preset(runs=8, train_seconds=24, smokes=12, smoke_seconds=60, error_views=4, validations=30),
}


class SpecFacts(NamedTuple):
    """What a spec is checked against: facts about train and validation only."""

    classes: Sequence[str]
    attributes: Sequence[str]
    val_counts: dict[str, int]
    """Validation cases per class."""
    resolve_metric: Callable[[str, Sequence[str]], object]
    """Raises BadInput for a metric that does not exist for these classes."""


def canonical(value: object) -> str:
    """Return JSON with sorted keys and no spaces: the form that is hashed everywhere."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def freeze(spec: TaskSpec, facts: SpecFacts) -> TaskSpec:
    """Check a spec against the data, fill in what it leaves open, and return the contract.

    Raises:
        BadInput: lists every problem at once, each with what is valid.
    """
    problems: list[str] = []
    classes = list(spec.target_classes or facts.classes)
    known = ", ".join(facts.classes)
    if wrong := [name for name in classes if name not in facts.classes]:
        problems.append(f"target_classes: {wrong} do not exist; the dataset's classes are {known}")
    if len(set(classes)) != len(classes) or len(classes) < 2:
        problems.append("target_classes: give at least two different classes")
    problems += [
        f"target_classes: {name} has no validation case, so nothing could be scored; leave it out"
        for name in classes
        if name in facts.classes and not facts.val_counts.get(name)
    ]
    for emphasis in spec.emphasised_classes:
        if emphasis.class_name not in classes:
            problems.append(f"emphasised_classes: {emphasis.class_name!r} is not among the target classes {classes}")
    for confounder in spec.confounders:
        if confounder.attribute not in facts.attributes:
            valid = ", ".join(facts.attributes) or "none, so leave confounders empty"
            problems.append(f"confounders: {confounder.attribute!r} is no attribute of the dataset; it has: {valid}")
    # Defaults and the lists of what is valid are made of valid names only: one mistake is one problem.
    existing = [name for name in dict.fromkeys(classes) if name in facts.classes] or list(facts.classes)
    emphasised = [item.class_name for item in spec.emphasised_classes if item.class_name in classes]
    reported = spec.reported_metrics or _default_metrics(emphasised)
    guards = spec.guards or tuple(Guard(metric=f"auc_{name}") for name in emphasised)
    for where, names in (
        ("primary_metric", [spec.primary_metric]),
        ("reported_metrics", reported),
        ("guards", [guard.metric for guard in guards]),
    ):
        for name in dict.fromkeys(names):
            try:
                facts.resolve_metric(name, existing)
            except BadInput as error:
                problems.append(f"{where}: {str(error).rstrip('.')}")
    if (problem := _rule_problem(spec.operating_point)) is not None:
        problems.append(problem)
    if problems:
        raise BadInput(
            f"The spec has {len(problems)} problem(s): "
            + "; ".join(problems)[:6000]
            + ". Correct them all and call init_task again."
        )
    metrics = tuple(dict.fromkeys((spec.primary_metric, *reported)))
    return spec.model_copy(update={"target_classes": tuple(classes), "reported_metrics": metrics, "guards": guards})


def _default_metrics(emphasised: Sequence[str]) -> tuple[str, ...]:
    per_class = [
        f"{family}_{name}" for name in emphasised for family in ("auc", "sensitivity", "specificity", "sens_at_spec80")
    ]
    return ("macro_auc", "f1", "balanced_accuracy", *per_class)


def _rule_problem(rule: str) -> str | None:
    valid = 'valid are "youden", "sensitivity>=0.9", "specificity>=0.8" (any number between 0 and 1)'
    if rule == "youden":
        return None
    name, _, number = rule.partition(">=")
    try:
        fits = name in ("sensitivity", "specificity") and 0 < float(number) < 1
    except ValueError:
        fits = False
    return None if fits else f"operating_point: {rule!r} is no rule; {valid}"
