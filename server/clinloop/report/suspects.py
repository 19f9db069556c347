"""A suspected shortcut as the report says it: what a model may have learned instead of the disease, and what that does not establish."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

MAX_SUSPECTS = 5


class Suspect(BaseModel):
    """One suspected shortcut; the strongest comes first in a report."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: str
    """What is suspected, in a few words: `border brightness`, `attribute drain`, `slice 3`."""
    kind: Literal["metadata", "size", "probe", "attribute", "slice"]
    """Where it lies: metadata of the file, its size, a measurement of the picture, an attribute, or a group of images that fail together."""
    strength: float
    """0 to 1. Of a slice: its error rate minus that of the rest, on cases that did not choose it. Of anything else: how well it alone tells the
    classes apart (2·AUC - 1) times how closely the model follows it given the class (partial correlation)."""
    is_followed: bool
    """Whether the model was seen to follow it, corrected for everything that was tried; else it was there to be learned, no more."""
    sentence: str
    """The finding in clinical words, with its numbers."""
    caveat: str
    """What this does not establish."""
    auc_alone: float | None = None
    """AUC of this alone for the class, on train and validation, cross-validated by group; None for a slice."""
    partial_r: float | None = None
    """Correlation of the refined model's answer with it, given the class, on validation; None for a slice or where it could not be computed."""
    p: float | None = None
    """p-value, corrected for everything that was tried."""
    n: int = 0
    """Validation cases behind the finding."""
    examples: tuple[str, ...] = ()
    """Ids of validation cases that show it; of a slice those that the model got wrong, the surest first."""
