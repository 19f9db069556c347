"""What scoring returns: plain values that cross the border between the scoring process and the server as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
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


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Round a score for an agent: more digits would tell single validation labels apart."""
    return None if value is None else round(value, digits)
