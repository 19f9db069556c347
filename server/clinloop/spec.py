"""TaskSpec, the structured contract of a task, and what it is checked against before it is frozen."""

from __future__ import annotations

import hashlib
import json
import math
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


class Answer(_Part):
    """What the clinician answered to an open question."""

    question: str
    """The question, as the agent wrote it."""
    answer: str
    """The clinician's words."""


class TaskSpec(_Part):
    """What the clinician's request means, in terms that a server can check and freeze."""

    task_type: Literal["classification", "detection", "segmentation"] = "classification"
    """Kind of output: one label per image (classification), scored boxes (detection), one mask per image (segmentation). Default classification."""
    objective: str = Field(min_length=10, max_length=2000)
    """The clinical aim in one or two sentences."""
    target_classes: tuple[str, ...] = ()
    """Image-level classes to tell apart; cases of other classes are left out. Default: all classes of the dataset."""
    targets: tuple[str, ...] = ()
    """What boxes or masks must show; detection and segmentation only. Default: all targets of the dataset."""
    positive_class: str = ""
    """Of two classes the one that is looked for; decisions and confounder metrics are about it. Default: with confounders the emphasised class, else the last; without, none."""
    emphasised_classes: tuple[Emphasis, ...] = ()
    """Classes that matter most to the clinician, each with the reason. Default: none."""
    risk_preference: Literal["sensitivity_first", "balanced", "specificity_first"] = "balanced"
    """Which error is worse: a miss (sensitivity_first), a false alarm (specificity_first), or neither. Default balanced."""
    primary_metric: str = ""
    """The one metric that decides which run is kept. Default macro_auc; in a detection ap50, in a segmentation dice."""
    reported_metrics: tuple[str, ...] = ()
    """Further metrics for the report. Default: AUC, F1 and balanced accuracy, per emphasised class AUC, sensitivity and specificity, per confounder all of its metrics."""
    operating_point: str = ""
    """Threshold rule, fixed on validation and applied unchanged on test: "youden", "sensitivity>=X", "specificity>=X" or "cost=R" (a miss costs as much as R false alarms; least cost at the prevalence of validation). Default youden; a detection has "max_f1", a segmentation "none"."""
    guards: tuple[Guard, ...] = ()
    """Metrics that must not get worse; used by acceptance "guarded" and "confirmed". Default: the AUC of each emphasised class, margin 0.02. A confounder of a task with two classes always has one; default partial_r_<confounder>, margin 0.02."""
    confounders: tuple[Confounder, ...] = ()
    """Attributes that could mislead the model; with two classes each has metrics of its own. Default: none."""
    acceptance: Literal["guarded", "confirmed", "paper"] = "guarded"
    """How a run replaces the incumbent: "guarded" = gain beyond noise and no guard worse; "confirmed" = guarded, and again by a second charged run of the same code with another seed; "paper" = strictly better. Default guarded."""
    budget: Literal["paper", "quick", "demo"] = "quick"
    """Budget preset: paper (baseline + 30 runs of 40 min), quick (baseline + 3 of 5 min), demo (baseline + 7 of 24 s). Default quick."""
    assumptions: tuple[str, ...] = ()
    """What was assumed because the request does not say it. Default: nothing."""
    open_questions: tuple[str, ...] = ()
    """What the clinician should still answer. Default: nothing."""
    confirm_spec: Literal["no", "required"] = "no"
    """Whether the clinician must read and confirm this contract before anything can run. Default: no, unless the custodian requires it."""
    confirm_finalize: Literal["no", "required"] = "no"
    """Whether the clinician must say yes before the test set is opened. Default: no, unless the custodian requires it."""
    tradeoffs: Literal["rule", "clinician"] = "rule"
    """Who settles a trade-off, where a run gains on the primary metric and breaks a guard: the acceptance rule, or the clinician, for whom finalize then waits. Default: rule, unless the custodian sets it."""
    answers: tuple[Answer, ...] = ()
    """The clinician's answers to open_questions; the server fills them in at the confirmation. Default: none; leave it so."""

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
    resolve_metric: Callable[[str, TaskSpec], object]
    """Raises BadInput for a metric that does not exist for a spec whose classes, targets and confounders are valid."""
    task_types: Sequence[str] = ("classification",)
    """Kinds of output for which the training cases have a truth."""
    targets: Sequence[str] = ()
    """What boxes or masks show."""
    is_confirmed: bool = False
    """The clinician is about to confirm the spec, and may have answered its questions."""


def canonical(value: object) -> str:
    """Return JSON with sorted keys and no spaces: the form that is hashed everywhere."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def freeze(spec: TaskSpec, facts: SpecFacts) -> TaskSpec:
    """Check a spec against the data, fill in what it leaves open, and return the contract.

    Raises:
        BadInput: lists every problem at once, each with what is valid.
    """
    kind = spec.task_type
    if kind not in facts.task_types:
        raise BadInput(
            f"task_type: the dataset has no truth for a {kind}; it allows {', '.join(facts.task_types)}. Correct it and call init_task again."
        )
    classes = list(spec.target_classes or facts.classes)
    problems = [*_class_problems(spec, facts, classes), *_target_problems(spec, facts)]
    if spec.answers and not facts.is_confirmed:
        problems.append("answers: only the clinician gives them, at the confirmation; leave it empty")
    for confounder in spec.confounders:
        if confounder.attribute not in facts.attributes:
            valid = ", ".join(facts.attributes) or "none, so leave confounders empty"
            problems.append(f"confounders: {confounder.attribute!r} is no attribute of the dataset; it has: {valid}")
    # Defaults and the lists of what is valid are made of valid names only: one mistake is one problem.
    draft = _draft(spec, facts, classes)
    emphasised = [item.class_name for item in draft.emphasised_classes]
    primary = spec.primary_metric or _PRIMARY[kind]
    reported = spec.reported_metrics or _default_metrics(draft, emphasised)
    guards = _guards(spec, draft, emphasised)
    for where, names in (
        ("primary_metric", [primary]),
        ("reported_metrics", reported),
        ("guards", [guard.metric for guard in guards]),
    ):
        for name in dict.fromkeys(names):
            try:
                facts.resolve_metric(name, draft)
            except BadInput as error:
                problems.append(f"{where}: {str(error).rstrip('.')}")
    rule = spec.operating_point or _RULES[kind]
    if (problem := _rule_problem(rule, kind)) is not None:
        problems.append(problem)
    if problems:
        raise BadInput(
            f"The spec has {len(problems)} problem(s): "
            + "; ".join(problems)[:6000]
            + (
                ". Correct them all and confirm again."
                if facts.is_confirmed
                else ". Correct them all and call init_task again."
            )
        )
    return spec.model_copy(
        update={
            "target_classes": tuple(classes),
            "targets": draft.targets,
            "positive_class": draft.positive_class,
            "primary_metric": primary,
            "reported_metrics": tuple(dict.fromkeys((primary, *reported))),
            "operating_point": rule,
            "guards": guards,
        }
    )


_PRIMARY = {"classification": "macro_auc", "detection": "ap50", "segmentation": "dice"}
_CONFOUNDER_FAMILIES = ("conflict_auc", "partial_r", "raw_r", "fp_share")
_RULES = {"classification": "youden", "detection": "max_f1", "segmentation": "none"}


def _class_problems(spec: TaskSpec, facts: SpecFacts, classes: Sequence[str]) -> list[str]:
    problems: list[str] = []
    known = ", ".join(facts.classes)
    if wrong := [name for name in classes if name not in facts.classes]:
        problems.append(f"target_classes: {wrong} do not exist; the dataset's classes are {known}")
    if len(set(classes)) != len(classes) or (len(classes) < 2 and spec.task_type == "classification"):
        problems.append("target_classes: give at least two different classes")
    problems += [
        f"target_classes: {name} has no validation case, so nothing could be scored; leave it out"
        for name in classes
        if name in facts.classes and not facts.val_counts.get(name)
    ]
    for emphasis in spec.emphasised_classes:
        if emphasis.class_name not in classes:
            problems.append(f"emphasised_classes: {emphasis.class_name!r} is not among the target classes {classes}")
    if spec.positive_class and (spec.positive_class not in classes or len(classes) != 2):
        problems.append(
            f"positive_class: {spec.positive_class!r} must be one of two target classes; these are {list(classes)}"
        )
    return problems


def _target_problems(spec: TaskSpec, facts: SpecFacts) -> list[str]:
    if spec.task_type == "classification":
        return ["targets: a classification has none; leave them empty"] if spec.targets else []
    if wrong := [name for name in spec.targets if name not in facts.targets]:
        return [f"targets: {wrong} do not exist; the dataset's targets are {', '.join(facts.targets)}"]
    return ["targets: name each once"] if len(set(spec.targets)) != len(spec.targets) else []


def _draft(spec: TaskSpec, facts: SpecFacts, classes: Sequence[str]) -> TaskSpec:
    """Return the spec with its names filled in and the wrong ones left out."""
    existing = tuple(name for name in dict.fromkeys(classes) if name in facts.classes) or tuple(facts.classes)
    emphasised = tuple(item for item in spec.emphasised_classes if item.class_name in existing)
    confounders = tuple(item for item in spec.confounders if item.attribute in facts.attributes)
    targets: tuple[str, ...] = ()
    if spec.task_type != "classification":
        targets = tuple(name for name in dict.fromkeys(spec.targets) if name in facts.targets) or tuple(facts.targets)
    positive = spec.positive_class if spec.positive_class in existing and len(existing) == 2 else ""
    if confounders and len(existing) == 2 and spec.task_type == "classification" and not positive:
        positive = emphasised[0].class_name if len(emphasised) == 1 else existing[-1]
    return spec.model_copy(
        update={
            "target_classes": existing,
            "targets": targets,
            "positive_class": positive,
            "emphasised_classes": emphasised,
            "confounders": confounders,
        }
    )


def _default_metrics(draft: TaskSpec, emphasised: Sequence[str]) -> tuple[str, ...]:
    if draft.task_type == "detection":
        return ("ap50", "ap50_95", "precision", "recall", "f1", "image_auc")
    if draft.task_type == "segmentation":
        return ("dice", "iou", "image_sensitivity", "image_specificity")
    per_class = [
        f"{family}_{name}" for name in emphasised for family in ("auc", "sensitivity", "specificity", "sens_at_spec80")
    ]
    per_confounder = [
        f"{family}_{item.attribute}"
        for item in (draft.confounders if draft.positive_class else ())
        for family in _CONFOUNDER_FAMILIES
    ]
    return ("macro_auc", "f1", "balanced_accuracy", *per_class, *per_confounder)


def _guards(spec: TaskSpec, draft: TaskSpec, emphasised: Sequence[str]) -> tuple[Guard, ...]:
    """Return the guards; a confounder that has metrics is never without one, because AUC alone rewards the shortcut."""
    given = spec.guards
    if not given and draft.task_type == "classification":
        given = tuple(Guard(metric=f"auc_{name}") for name in emphasised)
    watched = [*(guard.metric for guard in given), spec.primary_metric]
    missing = [
        Guard(metric=f"partial_r_{item.attribute}")
        for item in (draft.confounders if draft.positive_class else ())
        if not any(name == f"{family}_{item.attribute}" for name in watched for family in _CONFOUNDER_FAMILIES)
    ]
    return (*given, *missing)


def _rule_problem(rule: str, task_type: str) -> str | None:
    if task_type != "classification":
        only = _RULES[task_type]
        return None if rule == only else f"operating_point: {rule!r} is no rule of a {task_type}; it has {only!r}"
    valid = 'valid are "youden", "sensitivity>=0.9", "specificity>=0.8" (any number between 0 and 1), "cost=20" (a miss costs as much as 20 false alarms; any number above 0)'
    if rule == "youden":
        return None
    name, _, number = rule.partition("=" if rule.startswith("cost") else ">=")
    try:
        given = float(number)
    except ValueError:
        given = 0.0
    fits = 0 < given < 1 if name in ("sensitivity", "specificity") else name == "cost" and 0 < given < math.inf
    return None if fits else f"operating_point: {rule!r} is no rule; {valid}"
