"""What the names of metrics, the predictions and the operating rules of a task refer to. The numbers are computed elsewhere.

This module is free of numpy, so that a server can check a spec without loading it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from clinloop.errors import BadInput
from clinloop.scoring.registry import METRICS, Direction, Metric, TaskType

if TYPE_CHECKING:
    from clinloop.spec import TaskSpec  # its models would cost each scoring process 0.2 s

__all__ = [
    "DEFAULT_RULES",
    "METRICS",
    "Direction",
    "Metric",
    "OperatingPoint",
    "Resolved",
    "Rule",
    "Scheme",
    "TaskType",
    "is_higher_better",
    "metrics_of",
    "parse_rule",
    "resolve",
    "scheme_of",
    "title",
]

DEFAULT_RULES: Mapping[TaskType, str] = MappingProxyType(
    {"classification": "youden", "detection": "max_f1", "segmentation": "none"}
)
"""The operating rule of a task that names none; masks have no threshold."""


@dataclass(frozen=True)
class Scheme:
    """What the predictions of a task and the names of its metrics mean."""

    classes: tuple[str, ...]
    """Image-level classes; the columns of classification predictions, in this order."""
    task_type: TaskType = "classification"
    targets: tuple[str, ...] = ()
    """What boxes or masks show; boxes refer to it by position. Masks have one target."""
    positive: str = ""
    """Class whose operating point decides between two classes; "" = the most probable class is decided."""
    confounders: tuple[str, ...] = ()
    """Attributes of the truth that a confounder metric may name."""

    @property
    def positive_index(self) -> int | None:
        """Position of the class that confounder metrics take as positive: the declared one, else the second of two; None otherwise."""
        if self.positive in self.classes:
            return self.classes.index(self.positive)
        return 1 if len(self.classes) == 2 else None

    @property
    def detected(self) -> str:
        """What the operating point of a detection task is called after: its one target, or "any target"."""
        return self.targets[0] if len(self.targets) == 1 else "any target"


class Resolved(NamedTuple):
    """A metric name of a spec, understood."""

    metric: Metric
    place: int | None
    """Position of the class, the confounder or the target in the scheme; None for a metric that stands alone."""


def metrics_of(scheme: Scheme) -> list[Metric]:
    """Return the metrics that a task can name."""
    return [
        metric
        for metric in METRICS
        if metric.task_type == scheme.task_type
        and (not (metric.per_confounder or metric.per_target) or metric.members(scheme))
    ]


def resolve(name: str, scheme: Scheme) -> Resolved:
    """Find the metric that a name means in a scheme.

    Raises:
        BadInput: no such metric; lists the valid names.
    """
    valid = metrics_of(scheme)
    for metric in valid:
        if name == metric.name == metric.family:
            return Resolved(metric, None)
        for index, member in enumerate(metric.members(scheme)):
            if name == metric.of(member):
                return Resolved(metric, index)
    listed = f"Unknown metric {name[:80]!r}; valid are {', '.join(metric.name for metric in valid)}"
    if any(metric.per_class for metric in valid):
        listed += f", with <class> one of {_shown(scheme.classes)}"
    if any(metric.per_confounder for metric in valid):
        listed += f", with <confounder> one of {_shown(scheme.confounders)}"
    if any(metric.per_target for metric in valid):
        listed += f", with <target> one of {_shown(scheme.targets)}"
    raise BadInput(f"{listed}.")


def title(name: str, scheme: Scheme) -> str:
    """Return the title of a metric name for people, with its class, confounder or target in front."""
    metric, index = resolve(name, scheme)
    return metric.title if index is None else f"{metric.members(scheme)[index]}: {metric.title}"


def is_higher_better(name: str) -> bool:
    """Return the direction of a metric name, whatever completes it.

    Raises:
        BadInput: no metric has such a name.
    """
    for metric in METRICS:
        if name == metric.name or (metric.family != metric.name and name.startswith(metric.family)):
            return metric.direction == "higher"
    raise BadInput(
        f"Unknown metric {name[:80]!r}; valid are {', '.join(dict.fromkeys(metric.name for metric in METRICS))}."
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")


class Rule(NamedTuple):
    """A rule that turns a ROC curve into one threshold."""

    kind: Literal["youden", "max_f1", "sensitivity", "specificity", "cost"]
    target: float
    """At least this sensitivity or specificity; of cost how many false alarms a miss costs; 0 for youden and max_f1."""


def parse_rule(text: str) -> Rule:
    """Read "youden", "max_f1", "sensitivity>=X" or "specificity>=X" with 0 < X <= 1, or "cost=R" with R > 0.

    Raises:
        BadInput: no such rule.
    """
    if text in ("youden", "max_f1"):
        return Rule(text, 0.0)
    kind, _, number = text.partition("=" if text.startswith("cost") else ">=")
    try:
        target = float(number)
    except ValueError:
        target = 0.0
    if 0 < target <= 1 and kind in ("sensitivity", "specificity"):
        return Rule(kind, target)
    if 0 < target < math.inf and kind == "cost":
        return Rule(kind, target)
    raise BadInput(
        f"Unknown operating-point rule {text[:80]!r}; valid are 'youden', 'max_f1', 'sensitivity>=X' and 'specificity>=X' with X above 0 and at most 1, and 'cost=R' with R above 0 (a miss costs as much as R false alarms)."
    )


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold fixed on validation: a case with p >= threshold counts as the class, on test too."""

    rule: str
    class_name: str
    threshold: float
    sensitivity: float | None
    """On validation; None where no case is of the class."""
    specificity: float | None
    """On validation; None where every case is of the class."""


def scheme_of(spec: TaskSpec) -> Scheme:
    """Return what predictions and metric names of a spec mean."""
    return Scheme(
        classes=spec.target_classes,
        task_type=spec.task_type,
        targets=spec.targets,
        positive=spec.positive_class,
        confounders=tuple(item.attribute for item in spec.confounders),
    )
