"""Whether a run replaces the incumbent, from paired comparisons on validation; every decision has a reason code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from clinloop.errors import BadInput
from clinloop.scoring.results import PairedMetric

Mode = Literal["guarded", "paper"]
ALPHA = 0.10
"""One-sided level of the guarded mode. It is per look: 30 looks at one validation set are not corrected for, so compare with the test."""


class Reason(StrEnum):
    """Why a run was kept or not; `guard_worse` is followed by a colon and the metric."""

    BASELINE = "baseline"
    BETTER = "better"
    NOT_BETTER = "not_better"
    WITHIN_NOISE = "within_noise"
    GUARD_WORSE = "guard_worse"
    UNDEFINED = "undefined"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The server's decision on a run."""

    accepted: bool
    reason: str
    """A Reason; guard_worse with its metric: "guard_worse:auc_MEL"."""
    text: str
    """The decision in a sentence, values rounded to 4 decimals."""
    gain: float | None = None
    """Improvement of the primary metric over the incumbent; positive is better, whatever the direction."""
    low: float | None = None
    """Lower limit of the 95 % interval of the gain."""
    high: float | None = None
    p: float | None = None
    """One-sided p-value of the gain."""


def decide(
    mode: Mode,
    primary: PairedMetric | None,
    *,
    guards: Sequence[PairedMetric] = (),
    margins: Mapping[str, float] | None = None,
    alpha: float = ALPHA,
) -> Decision:
    """Decide whether a run (`refined`) replaces the incumbent (`initial`); primary is None for the first scored run, which is kept.

    "paper": strictly better on the primary metric. "guarded": better beyond noise (one-sided paired p <= alpha) and no guard worse
    than its margin, by point estimates.

    Raises:
        BadInput: no such mode.
    """
    if mode not in ("guarded", "paper"):
        raise BadInput(f"Unknown acceptance mode {str(mode)[:40]!r}; valid are 'guarded' and 'paper'.")
    if primary is None:
        return Decision(accepted=True, reason=Reason.BASELINE.value, text="Kept: the first scored run is the baseline.")
    name, old, new = primary.name, primary.initial.value, primary.refined.value
    if new is None:
        return Decision(
            accepted=False, reason=Reason.UNDEFINED.value, text=f"Rejected: {name} is undefined on these predictions."
        )
    if old is None or primary.gain is None:
        text = f"Kept: {name} is {new:.4f}, and it is undefined for the incumbent."
        return Decision(accepted=True, reason=Reason.BETTER.value, text=text)
    change = f"{name} {old:.4f} → {new:.4f}"

    def decision(accepted: bool, reason: str, why: str) -> Decision:
        low, high = primary.gain_limits
        text = f"{'Kept' if accepted else 'Rejected'}: {change}{why}"
        return Decision(
            accepted=accepted, reason=reason, text=text, gain=primary.gain, low=low, high=high, p=primary.p_gain
        )

    if primary.gain <= 0:
        return decision(False, Reason.NOT_BETTER.value, ", which is no gain.")
    if mode == "paper":
        return decision(True, Reason.BETTER.value, ", strictly better.")
    if primary.p_gain is None:
        return decision(
            False, Reason.WITHIN_NOISE.value, "; there are too few cases or groups to tell this gain from noise."
        )
    seen = f" (gain {primary.gain:+.4f}, one-sided p = {primary.p_gain:.4f}, needed at most {alpha:g})"
    if primary.p_gain > alpha:
        return decision(False, Reason.WITHIN_NOISE.value, f" is within noise{seen}.")
    for guard in guards:
        if loss := _loss_beyond(guard, (margins or {}).get(guard.name, 0.0)):
            return decision(
                False, f"{Reason.GUARD_WORSE.value}:{guard.name}", f" is a gain{seen}, but the guard {loss}."
            )
    kept = f"; no guard is worse than its margin ({', '.join(guard.name for guard in guards)})" if guards else ""
    return decision(True, Reason.BETTER.value, f", better beyond noise{seen}{kept}.")


def _loss_beyond(guard: PairedMetric, margin: float) -> str | None:
    """Say how a guard got worse by more than its margin, or None."""
    if guard.initial.value is None:
        return None
    if guard.refined.value is None or guard.gain is None:
        return f"{guard.name} became undefined"
    if -guard.gain > margin + 1e-12:
        return f"{guard.name} got worse, {guard.initial.value:.4f} → {guard.refined.value:.4f} (margin {margin:g})"
    return None
