"""What scoring returns: plain values that cross the border between the scoring process and the server as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from clinloop.scoring.metrics import Direction, OperatingPoint

CONFUSION_IS = "rows are true classes, columns decided classes, both in the order of per_class"


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; None where undefined or not asked for.

    The interval is that of the group bootstrap; a proportion of groups of one case each has Wilson's.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined: int = 0
    """Resamples that were left out because the metric is undefined in them."""


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class in the per-class table; of boxes and masks one target, told per image."""

    class_name: str
    n: int
    """Cases of the class."""
    groups: int
    """Groups with a case of the class."""
    auc: float | None
    sensitivity: float | None
    """At the operating point of the class."""
    specificity: float | None


@dataclass(frozen=True, kw_only=True)
class ScoreResult:
    """Scores of one set of predictions at full precision."""

    primary_metric: str
    metrics: dict[str, Estimate]
    operating_points: dict[str, OperatingPoint]
    """By class; a class without cases on both sides has none. A detection task has one, called after its target or "any target"."""
    per_class: list[ClassRow]
    confusion: list[list[int]]
    """Cases by what is true (rows) and what was decided (columns)."""
    n: int
    groups: int
    resamples: int
    """0: no intervals were asked for."""
    seed: int
    confusion_is: str = CONFUSION_IS
    """What the rows and columns of the confusion matrix are."""
    notes: list[str] = field(default_factory=list[str])
    """What a reader must know: classes left out of a mean, too few groups."""

    @property
    def primary(self) -> float | None:
        """Value of the primary metric."""
        return self.metrics[self.primary_metric].value

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self) | {"primary": self.primary}


@dataclass(frozen=True, kw_only=True)
class PairedMetric:
    """One metric of two models on the same cases, resampled together."""

    name: str
    direction: Direction
    initial: Estimate
    refined: Estimate
    difference: Estimate
    """refined - initial, in the metric's own direction."""
    p: float | None
    """Two-sided paired group-bootstrap p-value; None if undefined."""
    p_gain: float | None
    """One-sided p-value of "refined is not better"."""
    n: int
    groups: int
    unit: str
    """What a group is: patient, lesion, study or image."""
    resamples: int
    seed: int

    @property
    def gain(self) -> float | None:
        """The difference, positive when refined is better."""
        value = self.difference.value
        return value if self.direction == "higher" or value is None else -value

    @property
    def gain_limits(self) -> tuple[float | None, float | None]:
        """Limits of the interval of the gain."""
        low, high = self.difference.low, self.difference.high
        if self.direction == "higher" or low is None or high is None:
            return low, high
        return -high, -low


def step_of(standard_error: float) -> float:
    """Return the step to which a score that goes to an agent is rounded: the smallest of 1, 2, 5 x 10^-k, from 0.0001 to 0.5, that is at
    least half a standard error. Finer digits say nothing about the model, but tell single validation labels apart.
    """
    return next((step for step in _STEPS if step >= standard_error / 2 - 1e-12), _STEPS[-1])


def error_bound(groups: int) -> float:
    """Return what the standard error of a share of independent groups is at most, sqrt(1/4 / G): for where no interval is computed."""
    return 0.5 / max(1, groups) ** 0.5


def step_for(low: float | None, high: float | None, groups: int) -> float:
    """Return the step of a score with this 95 % interval (None: none was computed) over this many groups.

    Predictions can be made so that next to nothing varies but a few cases in question, so an interval counts as at least a quarter as
    wide as the bound.
    """
    bound = error_bound(groups)
    if low is None or high is None or not isfinite(high - low):
        return step_of(bound)
    return step_of(max((high - low) / (2 * _NORMAL_975), bound / 4))


def rounded(value: float | None, step: float) -> float | None:
    """Round a score to a multiple of a step; None where it is none."""
    return None if value is None or not isfinite(value) else round(round(value / step) * step, 4)


def shown(value: float, step: float) -> str:
    """Write a score with the decimals of its step."""
    decimals = next(count for count in range(1, 5) if abs(step * 10**count - round(step * 10**count)) < 1e-9)
    return f"{rounded(value, step):.{decimals}f}"


def as_sent(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON values of a ScoreResult as they go to an agent: scores rounded to their steps, the rest as it is."""
    groups: int = scores["groups"]
    step = step_of(error_bound(groups))
    return {
        **scores,
        "metrics": {name: _estimate_as_sent(estimate, groups) for name, estimate in scores["metrics"].items()},
        "operating_points": {
            name: {**_at(point, step, "sensitivity", "specificity"), "threshold": round(point["threshold"], 4)}
            for name, point in scores["operating_points"].items()
        },
        "per_class": [
            _at(row, step_of(error_bound(row["groups"])), "auc", "sensitivity", "specificity")
            for row in scores["per_class"]
        ],
        "primary": primary_as_sent(scores),
    }


def primary_as_sent(scores: Mapping[str, Any]) -> float | None:
    """Return the primary score of the JSON values of a ScoreResult as it goes to an agent."""
    return _estimate_as_sent(scores["metrics"][scores["primary_metric"]], scores["groups"])["value"]


_STEPS = tuple(round(digit * 10.0**power, 4) for power in (-4, -3, -2, -1) for digit in (1, 2, 5))
_NORMAL_975 = 1.959964


def _estimate_as_sent(estimate: Mapping[str, Any], groups: int) -> dict[str, Any]:
    return _at(estimate, step_for(estimate["low"], estimate["high"], groups), "value", "low", "high")


def _at(values: Mapping[str, Any], step: float, *names: str) -> dict[str, Any]:
    return {**values, **{name: rounded(values[name], step) for name in names if name in values}}
