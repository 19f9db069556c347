"""The workflow scorecard: how a task was worked on, in five stages; `stages` holds the rule that decides each item.

No language model judges anything. Stages and their weights are those of AutoMedBench (arXiv 2606.01961): S1 Plan 25, S2 Setup 15,
S3 Validate 35, S4 Inference 15, S5 Submit 10. The items are ours: each can be computed again from the report alone.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

Stage = Literal["S1", "S2", "S3", "S4", "S5"]
Tier = Literal["lite", "standard", ""]
STAGES: Final[dict[Stage, tuple[str, int]]] = {
    "S1": ("Plan", 25),
    "S2": ("Setup", 15),
    "S3": ("Validate", 35),
    "S4": ("Inference", 15),
    "S5": ("Submit", 10),
}
"""Title and weight by stage."""
NOT_REACHED: Final = "E-NOT-REACHED"
"""Error code of an item that the task never got to: it gives no points."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Item(_Value):
    """One thing that was judged."""

    stage: Stage
    """Stage that it belongs to."""
    code: str
    """Its number, for example S1.2."""
    title: str
    """What should be so."""
    weight: int
    """Most points."""
    points: float
    """Points: the weight times the share that the rule found, rounded to 2 digits."""
    passed: bool
    """Whether it got all of its points."""
    evidence: str
    """What the rule found, in a sentence."""
    error: str = ""
    """Error code when it was missed, for example E-NO-SMOKE."""


class Scorecard(_Value):
    """How a task was worked on; says nothing about how good the model is."""

    items: tuple[Item, ...]
    """All items in order of their codes."""
    total: float
    """Sum of the points."""
    of: Literal[100] = 100
    """Most points."""
    tier: Tier = ""
    """What the workspace started with; compare within a tier. Empty = a ledger that does not say it."""

    def stage_points(self) -> dict[Stage, float]:
        """Return the points by stage."""
        return {stage: round(sum(i.points for i in self.items if i.stage == stage), 2) for stage in STAGES}
