"""What may be a shortcut of a model, as plain values: facts that its answers follow given the class, and slices in which it fails; no numpy here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clinloop.scoring.metrics import DEFAULT_RULES, Scheme
from clinloop.scoring.process import CHILD_LIMITS, ChildLimits, Source, Truth, new_job, run

Column = Sequence[float | None] | Sequence[str]
"""One fact of every case: all numbers (None = missing), or all texts ("" = missing)."""


@dataclass(frozen=True, kw_only=True)
class Followed:
    """How far the answers for a class go with a fact among cases of the same class."""

    name: str
    level: str
    """Of a text the value in question; "" of a number."""
    class_name: str
    """Class whose probability it is; of boxes and masks "" (highest score, area)."""
    partial_r: float
    """Rank correlation given the class: ranks minus their mean in the class (Spearman's partial correlation for a nominal covariate)."""
    p: float | None
    """Two-sided, by signs of groups, corrected for every fact, level and class that was tried."""
    n: int
    """Cases whose value is known."""
    alike: tuple[str, ...] = ()
    """Other facts that say nearly the same of these cases."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Images that look alike to the model; rates are of the half of the groups that did not choose it."""

    number: int
    n: int
    groups: int
    error: float
    """Share of wrong cases in the slice."""
    error_elsewhere: float
    p: float | None
    """One-sided and corrected for all slices: more errors than other cases of the same class have."""
    described: tuple[str, ...] = ()
    """What is more frequent or larger in it than elsewhere, strongest first."""
    examples: tuple[str, ...] = ()
    """Ids of wrong cases in it."""


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """What was found on validation."""

    followed: list[Followed] = field(default_factory=list[Followed])
    """One for each fact that varies: its strongest level and class."""
    slices: list[Slice] = field(default_factory=list[Slice])
    n_tried: int = 0
    """Questions that the p-values of `followed` are corrected for."""
    slices_note: str = ""
    """Why no slices were sought; "" = they were."""


NO_EMBEDDINGS = "the model exported no embeddings"


def find_shortcuts(
    predictions: Source,
    truth: Truth,
    *,
    scheme: Scheme,
    columns: Mapping[str, Column],
    embeddings: tuple[Path, Path] | None = None,
    operating_rule: str = "",
    seed: int = 0,
    limits: ChildLimits = CHILD_LIMITS,
) -> Shortcuts:
    """Look on validation for facts that a model follows and for slices in which it fails; columns hold a value for each case of the truth.

    embeddings: the array and its list of case ids, as untrusted code wrote them.

    Raises:
        BadPredictions: a file breaks its contract.
        BadInput, Refusal: as `service.score_predictions`.
    """
    job = new_job(
        "shortcuts", truth=truth, scheme=scheme, rule=operating_rule or DEFAULT_RULES[scheme.task_type], seed=seed
    )
    job["columns"] = {name: list(values) for name, values in columns.items()}
    return run(job, [predictions, *(embeddings or ())], limits, Shortcuts)
