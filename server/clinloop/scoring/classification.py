"""The classification metrics: what each is called, means and needs. The numbers are computed by `weighted.py`.

This module is free of numpy, so that a server can check a spec without loading it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from clinloop.errors import BadInput

Direction = Literal["higher", "lower"]
_OF_CLASS = "_<class>"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, or one family of metrics that takes a class and is called `<family>_<class>`."""

    name: str
    """As an agent writes it; a family ends in `_<class>`."""
    title: str
    undefined: str
    """When there is no value: then it is None, never 0."""
    direction: Direction = "higher"
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    needs_operating_point: bool = False

    @property
    def per_class(self) -> bool:
        """Whether the name is completed by a class."""
        return self.name.endswith(_OF_CLASS)

    def of(self, class_name: str) -> str:
        """Return the full name of a family member."""
        return self.name.removesuffix(_OF_CLASS) + f"_{class_name}"


# "Decided class": the class with the largest probability (the first of equals). Two classes of which one is declared positive are decided
# by the operating point of the positive class instead.
METRICS: tuple[Metric, ...] = (
    Metric(
        name="macro_auc",
        title="Macro AUC (mean of the one-vs-rest ROC AUCs)",
        undefined="classes without a case, or without a case of another class, are left out; None if none remains",
    ),
    Metric(
        name="auc_<class>",
        title="AUC (one-vs-rest, ties by midranks)",
        undefined="no case of the class, or none of another class",
    ),
    Metric(
        name="f1",
        title="Macro F1 of the decided classes",
        undefined="classes with neither a case nor a decision are left out; None if none remains",
    ),
    Metric(
        name="f1_<class>",
        title="F1 of the decided class",
        undefined="neither a case of the class nor a decision for it",
    ),
    Metric(
        name="sensitivity_<class>",
        title="Sensitivity at the operating point fixed on validation",
        undefined="no case of the class, or no operating point could be fixed",
        needs_operating_point=True,
    ),
    Metric(
        name="specificity_<class>",
        title="Specificity at the operating point fixed on validation",
        undefined="no case of another class, or no operating point could be fixed",
        needs_operating_point=True,
    ),
    Metric(
        name="sens_at_spec80_<class>",
        title="Sensitivity at 80 % specificity (point of the ROC curve, not an operating point)",
        undefined="no case of the class, or none of another class",
    ),
    Metric(
        name="balanced_accuracy",
        title="Balanced accuracy (mean recall of the decided classes)",
        undefined="classes without a case are left out; None if none remains",
    ),
    Metric(name="accuracy", title="Accuracy of the decided classes", undefined="no case"),
    Metric(
        name="brier",
        title="Brier score (half the squared distance to the truth, mean over cases)",
        direction="lower",
        undefined="no case",
    ),
)


class Resolved(NamedTuple):
    """A metric name of a spec, understood."""

    metric: Metric
    class_index: int | None
    """Position of the class in the spec; None for a metric of all classes."""


def resolve(name: str, classes: Sequence[str]) -> Resolved:
    """Find the metric that a name means for these classes.

    Raises:
        BadInput: no such metric; lists the valid names.
    """
    for metric in METRICS:
        if metric.per_class:
            for index, class_name in enumerate(classes):
                if name == metric.of(class_name):
                    return Resolved(metric, index)
        elif name == metric.name:
            return Resolved(metric, None)
    shown = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
    raise BadInput(
        f"Unknown metric {name[:80]!r}; valid are {', '.join(metric.name for metric in METRICS)}, with <class> one of {shown}."
    )


def title(name: str, classes: Sequence[str]) -> str:
    """Return the title of a metric name for people, with its class in front."""
    metric, index = resolve(name, classes)
    return metric.title if index is None else f"{classes[index]}: {metric.title}"


def is_higher_better(name: str) -> bool:
    """Return the direction of a metric name, whatever its class.

    Raises:
        BadInput: no metric has such a name.
    """
    for metric in METRICS:
        if name == metric.name or (metric.per_class and name.startswith(metric.of(""))):
            return metric.direction == "higher"
    raise BadInput(f"Unknown metric {name[:80]!r}; valid are {', '.join(metric.name for metric in METRICS)}.")


class Rule(NamedTuple):
    """A rule that turns a ROC curve into one threshold."""

    kind: Literal["youden", "sensitivity", "specificity"]
    target: float
    """At least this sensitivity or specificity; 0 for youden."""


def parse_rule(text: str) -> Rule:
    """Read "youden", "sensitivity>=X" or "specificity>=X" with 0 < X <= 1.

    Raises:
        BadInput: no such rule.
    """
    if text == "youden":
        return Rule("youden", 0.0)
    kind, _, number = text.partition(">=")
    try:
        target = float(number)
    except ValueError:
        target = 0.0
    if 0 < target <= 1 and kind in ("sensitivity", "specificity"):
        return Rule(kind, target)
    raise BadInput(
        f"Unknown operating-point rule {text[:80]!r}; valid are 'youden', 'sensitivity>=X' and 'specificity>=X' with X above 0 and at most 1."
    )


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold fixed on validation: a case with p >= threshold counts as the class, on test too."""

    rule: str
    class_name: str
    threshold: float
    sensitivity: float
    """On validation."""
    specificity: float
    """On validation."""
