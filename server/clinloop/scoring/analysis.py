"""What an analysis of two models on one set of cases says: plain values that cross the border of the scoring process as JSON.

The numbers are computed in `curves`, `calibration`, `subgroups`, `crosschecks` and `confound_audit`; `analyse` puts them together. Every value
comes from truth and predictions alone, so a verifier computes the same from the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from clinloop.scoring.results import Estimate

Model = Literal["initial", "refined"]
MIN_CELL = 20
"""Cases below which a cell says "too few" instead of a number."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve of one model, thinned to at most 200 points."""

    model: Model
    name: str
    """Class; of boxes the target."""
    kind: Literal["roc", "precision_recall", "froc"]
    """roc: x = 1 - specificity, y = sensitivity; precision_recall: x = recall, y = precision; froc: x = false marks per image, y = recall of boxes."""
    x: list[float]
    y: list[float]
    at: tuple[float, float] | None = None
    """Where the operating point lies on the curve; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Cases whose probability lies in [low, high)."""

    low: float
    high: float
    n: int
    mean_probability: float | None
    share: float | None
    """Observed share of the class; None in an empty bin."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far probabilities of a class are from what happens."""

    model: Model
    name: str
    """Class."""
    bins: list[CalibrationBin]
    ece: Estimate
    """Expected calibration error over these bins."""
    brier: Estimate
    """Mean squared error of the probability of this class."""


@dataclass(frozen=True, kw_only=True)
class DecisionCurve:
    """Net benefit of acting on a model by threshold probability; not acting at all is 0."""

    name: str
    """Class."""
    thresholds: list[float]
    initial: list[float]
    refined: list[float]
    all: list[float]
    """Acting on everybody."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Cases by what is true (rows) and what was decided (columns)."""

    model: Model
    matrix: list[list[int]]
    names: list[str]
    """Of rows and columns alike."""


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """A metric in the cases that share a value of an attribute."""

    attribute: str
    value: str
    """The value, or a range of numbers: "40 to 60"."""
    n: int
    groups: int
    metric: str
    initial: Estimate
    refined: Estimate
    difference: Estimate
    note: str = ""
    """"too few" where there is no number."""


@dataclass(frozen=True, kw_only=True)
class CrossCheck:
    """A test of another kind beside the bootstrap, where it is valid."""

    test: Literal["DeLong", "McNemar"]
    metric: str
    statistic: float | None
    p: float | None
    note: str = ""
    """Why it is not valid here, for example that groups have several cases; then statistic and p are None."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Cases with or without the class, with or without the confounder."""

    positive: bool
    present: bool
    n: int
    groups: int
    initial: tuple[float, float, float] | None
    """Quartiles (25, 50, 75 %) of the probability of the class; None where there are too few."""
    refined: tuple[float, float, float] | None
    initial_histogram: list[int]
    """Cases by probability in 20 bins of equal width from 0 to 1; empty where there are too few, which would show single cases."""
    refined_histogram: list[int]


@dataclass(frozen=True, kw_only=True)
class ConfoundMetric:
    """One number about a confounder, before and after."""

    name: str
    """auc (over all cases: the price), auc_with, auc_without, conflict_auc, aligned_auc, fp_share, fn_share, raw_r, partial_r, rank_partial_r (correlations with their sign), median_positive_with, median_positive_without, median_negative_with, median_negative_without (of masks no medians)."""
    title: str
    initial: Estimate
    refined: Estimate
    difference: Estimate
    p: float | None
    """Two-sided, paired; None of medians, which only describe."""
    p_holm: float | None = None
    """The same, corrected (Holm) for all confound metrics of declared confounders, or for all of attributes that nobody declared."""
    reference: float | None = None
    """What chance would give, for example the prevalence of the confounder among the negatives beside fp_share."""
    note: str = ""
    """Where there is no number: "too few", "no operating point" or "does not vary"."""


@dataclass(frozen=True, kw_only=True)
class LabelNoise:
    """What a metric would be if a share of the values of a predicted confounder were wrong."""

    share: float
    """Share of the values that were flipped at random, 0 to 0.2; the numbers are means over such draws."""
    partial_r_initial: float | None
    partial_r_refined: float | None
    conflict_auc_initial: float | None
    conflict_auc_refined: float | None


@dataclass(frozen=True, kw_only=True)
class ConfounderAudit:
    """What a model's answer for one class owes to one attribute."""

    attribute: str
    level: str = ""
    """For an attribute of several words the one that counts as present; for a number "above MEDIAN" or "at least MEDIAN"; "" for yes/no and probabilities."""
    class_name: str
    """Class that counts as positive."""
    is_declared: bool
    """Whether the spec names it as a confounder."""
    is_predicted: bool = False
    """Whether its values are probabilities (not all 0 or 1), so that they may be wrong."""
    n: int
    """Cases whose value is known."""
    auc_alone: float | None
    """AUC of the attribute alone for the class, before any picture is seen; below 0.5 it speaks against the class."""
    cells: list[Cell]
    """Four: positive with, positive without, negative with, negative without."""
    metrics: list[ConfoundMetric]
    label_noise: list[LabelNoise] = field(default_factory=list[LabelNoise])
    sentence: str = ""
    """What this audit found, computed, for a clinician; it claims no change where the interval includes none."""


@dataclass(frozen=True, kw_only=True)
class JointConfounding:
    """Partial correlation (with its sign) of a probability with one confounder given the class and all other declared confounders."""

    attribute: str
    class_name: str
    initial: Estimate
    refined: Estimate
    difference: Estimate
    p: float | None = None
    """Two-sided, paired."""
    p_holm: float | None = None
    """The same, corrected for the confounders that are told together."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything that is computed of two models besides the reported metrics."""

    curves: list[Curve] = field(default_factory=list[Curve])
    calibration: list[Calibration] = field(default_factory=list[Calibration])
    decision_curves: list[DecisionCurve] = field(default_factory=list[DecisionCurve])
    confusion: list[Confusion] = field(default_factory=list[Confusion])
    subgroups: list[Subgroup] = field(default_factory=list[Subgroup])
    checks: list[CrossCheck] = field(default_factory=list[CrossCheck])
    adjusted_p: dict[str, float | None] = field(default_factory=dict[str, float | None])
    """Holm-adjusted p-value by reported metric."""
    confounders: list[ConfounderAudit] = field(default_factory=list[ConfounderAudit])
    joint: list[JointConfounding] = field(default_factory=list[JointConfounding])
    resamples: int = 0
    seed: int = 0
    notes: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, kw_only=True)
class Undeclared:
    """What attributes say that the spec does not declare; they are not in the evidence, so nobody can compute this again from it."""

    confounders: list[ConfounderAudit] = field(default_factory=list[ConfounderAudit])
    subgroups: list[Subgroup] = field(default_factory=list[Subgroup])


def whole(analysis: Analysis | None, undeclared: Undeclared | None) -> Analysis:
    """Return an analysis with what undeclared attributes add to it; an empty one where there is none."""
    known, more = analysis or Analysis(), undeclared or Undeclared()
    return replace(
        known, confounders=[*known.confounders, *more.confounders], subgroups=[*known.subgroups, *more.subgroups]
    )
