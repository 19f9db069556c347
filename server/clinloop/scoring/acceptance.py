"""Whether a run replaces the incumbent, from paired comparisons on validation; every decision has a reason code.

Each run that is compared is a look at the same validation cases. All looks of a task share FAMILY_LEVEL, the chance that any of them takes
noise for a gain: a look gets an equal share of what is left of it, and an accepted run gives its share back (docs/acceptance.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Literal, NamedTuple

from clinloop.errors import BadInput
from clinloop.scoring.results import Estimate, PairedMetric, shown, step_for

Mode = Literal["guarded", "confirmed", "paper"]
MODES: tuple[Mode, ...] = ("guarded", "confirmed", "paper")
FAMILY_LEVEL = 0.05
"""One-sided; the chance that any run of a task is accepted when none is better than the incumbent that it was compared with."""

_NORMAL = NormalDist()


class Reason(StrEnum):
    """Why a run was kept or not; `guard_worse` is followed by a colon and the metric."""

    BASELINE = "baseline"
    BETTER = "better"
    NOT_BETTER = "not_better"
    WITHIN_NOISE = "within_noise"
    GUARD_WORSE = "guard_worse"
    NEEDS_CONFIRMATION = "needs_confirmation"
    UNDEFINED = "undefined"


class Taken(NamedTuple):
    """A look that was taken: a run that was compared with an incumbent."""

    tree_sha256: str
    """Its code."""
    reason: str
    accepted: bool
    level: float
    """What it spent unless it was accepted; 0 for a confirming run."""


class Look(NamedTuple):
    """The look that a run is about to be."""

    number: int = 1
    """From 1."""
    at_most: int = 1
    """Looks that the budget of the task allows at most, with those that were taken."""
    level: float = FAMILY_LEVEL
    """Chance that noise passes it."""
    confirms: bool = False
    """Whether it repeats a run that passed and waits for this one; then it spends nothing."""

    @property
    def spends(self) -> float:
        """What it takes from FAMILY_LEVEL unless it is accepted."""
        return 0.0 if self.confirms else self.level


def next_look(mode: Mode, taken: Sequence[Taken], tree_sha256: str, *, left: int) -> Look:
    """Return the look of a run of this code; `left` counts it and every run that the budget allows after it.

    With p-values that are valid each for itself, the levels keep the chance of any false acceptance at FAMILY_LEVEL whatever the
    dependence between looks. Source: Bonferroni shares that accepted hypotheses pass on, Bretz et al. 2009; online, Tian & Ramdas 2021.
    """
    left = max(1, left)
    number, at_most = len(taken) + 1, len(taken) + left
    if mode == "confirmed" and _waits(taken, tree_sha256):
        # A false acceptance needs a false first pass, which the shares already count, so this test costs nothing.
        return Look(number, at_most, FAMILY_LEVEL, confirms=True)
    spent = sum(look.level for look in taken if not look.accepted)
    return Look(number, at_most, max(0.0, FAMILY_LEVEL - spent) / left)


def needed_p(level: float, groups: int) -> float:
    """Return the largest one-sided bootstrap p-value that counts as `level` on this many groups.

    The percentile bootstrap is too narrow by sqrt(n / (n - 1)) and knows nothing of Student's t; far out in the tail that matters. n is half
    of the groups, because an AUC compares two sides. Source: expanded percentile intervals, Hesterberg 2015, with the expansion of
    Student's quantile of Abramowitz & Stegun 26.7.5.
    """
    if level <= 0:
        return 0.0
    n = max(3, groups // 2)
    df, z = n - 1, -_NORMAL.inv_cdf(min(level, 0.5))
    t = (
        z
        + (z**3 + z) / (4 * df)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3)
    )
    return _NORMAL.cdf(-t * (n / df) ** 0.5)


def _waits(taken: Sequence[Taken], tree_sha256: str) -> bool:
    """Tell whether the last run of this code passed and waits for its confirmation, against the incumbent of today."""
    for look in reversed(taken):
        if look.accepted:
            return False
        if look.tree_sha256 == tree_sha256:
            return look.reason == Reason.NEEDS_CONFIRMATION.value
    return False


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The server's decision on a run."""

    accepted: bool
    reason: str
    """A Reason; guard_worse with its metric: "guard_worse:auc_MEL"."""
    text: str
    """The decision in a sentence, each value rounded to what its interval supports."""
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
    look: Look | None = None,
) -> Decision:
    """Decide whether a run (`refined`) replaces the incumbent (`initial`); primary is None for the first scored run, which is kept.

    "paper": strictly better on the primary metric. "guarded": better beyond noise (one-sided paired p at the level of the look) and no
    guard worse than its margin, by point estimates. "confirmed": guarded, and once more by another run of the same code.
    look: None is the only look that there will be.

    Raises:
        BadInput: no such mode.
    """
    if mode not in MODES:
        raise BadInput(f"Unknown acceptance mode {str(mode)[:40]!r}; valid are {', '.join(map(repr, MODES))}.")
    look = look or Look()
    if primary is None:
        return Decision(accepted=True, reason=Reason.BASELINE.value, text="Kept: the first scored run is the baseline.")
    name, old, new = primary.name, primary.initial.value, primary.refined.value
    if new is None:
        return Decision(
            accepted=False, reason=Reason.UNDEFINED.value, text=f"Rejected: {name} is undefined on these predictions."
        )
    if old is None or primary.gain is None:
        text = f"Kept: {name} is {shown(new, _step(primary.refined, primary))}, and it is undefined for the incumbent."
        return Decision(accepted=True, reason=Reason.BETTER.value, text=text)
    change = f"{name} is {_change(primary)}"

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
    counted = "a run that confirms" if look.confirms else f"look {look.number} of at most {look.at_most}"
    needed = needed_p(look.level, primary.groups)
    seen = f" (one-sided p = {primary.p_gain:.4f}; {counted} needs at most {needed:.4f})"
    if primary.p_gain > needed:
        return decision(False, Reason.WITHIN_NOISE.value, f", which is within noise{seen}.")
    for guard in guards:
        if loss := _loss_beyond(guard, (margins or {}).get(guard.name, 0.0)):
            return decision(
                False, f"{Reason.GUARD_WORSE.value}:{guard.name}", f", which is a gain{seen}, but the guard {loss}."
            )
    if mode == "confirmed" and not look.confirms:
        return decision(
            False,
            Reason.NEEDS_CONFIRMATION.value,
            f", better beyond noise{seen}, and waits for its confirmation: run the same revision again. It trains with another seed, and "
            f"is accepted if it beats the same incumbent at {FAMILY_LEVEL:g}.",
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
        return f"{guard.name} got worse, {_change(guard)}, margin {margin:g}"
    return None


def _change(pair: PairedMetric) -> str:
    """Say the new value and the difference, each to its own step: a difference of two rounded values would be another one."""
    new, difference = pair.refined.value or 0.0, pair.difference.value or 0.0
    step = _step(pair.difference, pair)
    sign = "+" if difference >= 0 else "-"
    return f"{shown(new, _step(pair.refined, pair))} ({sign}{shown(abs(difference), step)} on the incumbent)"


def _step(estimate: Estimate, pair: PairedMetric) -> float:
    return step_for(estimate.low, estimate.high, pair.groups)
