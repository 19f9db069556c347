"""Which runs of a task are sensible answers: those that no other run beats on the primary metric and on every guard at once.

All of it is computed from numbers as they were sent (`results.as_sent`, rounded to half a standard error). Exact values here, or a new
paired test of each pair of runs, would hand out finer digits and uncounted looks at the validation cases, from which their labels could
be read off; this way an agent could work everything out from the replies that it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

from clinloop.scoring.acceptance import Reason
from clinloop.scoring.metrics import Direction

EPSILON = 1e-9
"""Numbers as sent have at most four decimals; what is closer is equal."""


class Axis(NamedTuple):
    """The primary metric or a guard: what runs are compared on."""

    metric: str
    direction: Direction
    margin: float | None = None
    """How much worse a guard may get; None: it is the primary metric."""

    def gain(self, new: float, old: float) -> float:
        """Return how much better the new value is."""
        return new - old if self.direction == "higher" else old - new


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A full run that has scores."""

    run: str
    code: str
    """What it is made of; runs of the same code and inputs are one candidate."""
    reason: str
    """The rule's reason code."""
    is_accepted: bool
    """By the rule, or because the clinician chose it."""
    is_new: bool = True
    """It ended after the last choice of the clinician, who has not seen it; True where none was made."""
    values: Mapping[str, float | None]
    """By metric, as sent."""

    def value(self, axis: Axis) -> float | None:
        """Return the value on an axis; None where it is undefined."""
        value = self.values.get(axis.metric)
        return value if value is not None and isfinite(value) else None

    @property
    def broke_guard(self) -> str:
        """The guard for which the rule rejected it although its gain was beyond noise; else empty."""
        name, _, guard = self.reason.partition(":")
        return guard if name == Reason.GUARD_WORSE else ""

    @property
    def is_established(self) -> bool:
        """Whether its numbers stand for more than noise: it was accepted, or rejected for a guard alone."""
        return self.is_accepted or bool(self.broke_guard)


class Loss(NamedTuple):
    """A guard that got worse by more than its margin."""

    metric: str
    by: float | None
    """None: it became undefined."""
    margin: float


class Verdict(NamedTuple):
    """Whether there is a trade-off, and among which runs."""

    pareto: tuple[str, ...]
    """Runs that no established run beats, in order."""
    rivals: tuple[str, ...]
    """Of them the answers that are as sensible as the incumbent; none: no trade-off."""
    is_settled: bool
    """A choice of the clinician covers it: no rival, and no incumbent, that is newer."""

    @property
    def exists(self) -> bool:
        """Whether the incumbent is not the only sensible answer."""
        return bool(self.rivals)


def one_per_code(candidates: Sequence[Candidate], keep: Sequence[str] = ()) -> list[Candidate]:
    """Return one run of each code: one that must be kept (`keep`, first is strongest), else one that was accepted, else the newest.

    Runs of one code differ by their seeds alone; offering the best of them would offer noise. Order is kept.
    """
    rank = {name: len(keep) - at for at, name in enumerate(keep)}
    best: dict[str, tuple[int, bool, int]] = {}
    for at, candidate in enumerate(candidates):
        standing = (rank.get(candidate.run, 0), candidate.is_accepted, at)
        best[candidate.code] = max(best.get(candidate.code, standing), standing)
    return [
        candidate
        for at, candidate in enumerate(candidates)
        if best[candidate.code][2] == at or candidate.run in rank  # the baseline stays beside the same code run again
    ]


def dominates(first: Candidate, second: Candidate, axes: Sequence[Axis]) -> bool:
    """Tell whether the first is at least as good on every axis and better on one. Undefined is worse than any value, and equals undefined."""
    is_better = False
    for axis in axes:
        ours, theirs = first.value(axis), second.value(axis)
        if ours is None or theirs is None:
            gain = float(ours is not None) - float(theirs is not None)
        else:
            gain = axis.gain(ours, theirs)
        if gain < -EPSILON:
            return False
        is_better = is_better or gain > EPSILON
    return is_better


def pareto(candidates: Sequence[Candidate], axes: Sequence[Axis]) -> list[Candidate]:
    """Return the candidates that no established one dominates, in order; of equal ones all.

    A run that the rule could not tell from noise, or that waits for its confirmation, takes no other out of the set: its lead may be chance.
    """
    return [
        candidate
        for candidate in candidates
        if not any(other.is_established and dominates(other, candidate, axes) for other in candidates)
    ]


def losses(candidate: Candidate, reference: Candidate, axes: Sequence[Axis]) -> list[Loss]:
    """Return the guards on which a candidate is worse than the reference by more than their margins, by numbers as sent."""
    found: list[Loss] = []
    for axis in axes:
        new, old = candidate.value(axis), reference.value(axis)
        if axis.margin is None or old is None:
            continue
        if new is None:
            found.append(Loss(axis.metric, None, axis.margin))
        elif (by := -axis.gain(new, old)) > axis.margin + EPSILON:
            found.append(Loss(axis.metric, round(by, 4), axis.margin))
    return found


def judge(
    candidates: Sequence[Candidate], axes: Sequence[Axis], *, incumbent: str | None, reference: str | None
) -> Verdict:
    """Say whether the incumbent is the only sensible answer. `axes` begin with the primary metric.

    reference: the run that the clinician chose last, else the baseline.

    It is not in two cases, both among the runs of the Pareto set:
    (a) a run is better on the primary metric than the incumbent, beyond noise when the rule looked, and was rejected because a guard got
        worse; it is a rival.
    (b) the incumbent itself is worse than the reference on a guard by more than its margin, because the rule does not look at guards
        (acceptance "paper") or because small losses have added up; the runs that break no guard against the reference are rivals.
    A run without a value of the primary metric is no candidate. Within noise, no better, or waiting for its confirmation: no rival under (a).
    """
    scored = [candidate for candidate in candidates if candidate.value(axes[0]) is not None]
    kept = one_per_code(scored, [name for name in (incumbent, reference) if name])
    front = pareto(kept, axes)
    by_run = {candidate.run: candidate for candidate in kept}
    best, start = by_run.get(incumbent or ""), by_run.get(reference or "")
    names = tuple(candidate.run for candidate in front)
    if best is None:
        return Verdict(names, (), False)
    others = [candidate for candidate in front if candidate.run != incumbent]
    gaining = [other for other in others if other.broke_guard and _gain(axes[0], other, best) > EPSILON]
    keeping: list[Candidate] = []
    if start is not None and losses(best, start, axes):
        keeping = [other for other in others if not losses(other, start, axes)]
    rivals = tuple(other.run for other in others if other in gaining or other in keeping)
    is_settled = not any(other.is_new for other in gaining) and not (keeping and best.is_new)
    return Verdict(names, rivals, bool(rivals) and is_settled)


def _gain(axis: Axis, candidate: Candidate, other: Candidate) -> float:
    ours, theirs = candidate.value(axis), other.value(axis)
    return 0.0 if ours is None or theirs is None else axis.gain(ours, theirs)
