"""What an agent reads about trade-offs: the runs that are sensible answers, and what follows from there being more than one."""

from __future__ import annotations

from pydantic import Field

from clinloop.scoring.results import Estimate
from clinloop.tradeoffs import Option, Tradeoffs
from clinloop_tools.replies import Value, shortened

SHOWN = 6
"""Runs in one reply; the incumbent and its rivals come first."""


class Measured(Value):
    """A value with its 95 % interval, as view "scores" shows it."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class BrokenGuard(Value):
    """A guard that is worse than that of `against` by more than its margin."""

    metric: str
    by: float | None = None
    """None: it became undefined."""
    margin: float


class OptionView(Value):
    """A run that could be the answer."""

    run: str
    is_incumbent: bool
    is_rival: bool
    """As sensible an answer as the incumbent."""
    reason: str
    """Code of the decision's reason."""
    metrics: dict[str, Measured]
    """The primary metric, then the guards."""
    against: str
    """The run that it is compared with."""
    broken: list[BrokenGuard] = Field(default_factory=list[BrokenGuard])
    words: str
    """What it gives and takes."""


class TradeoffsView(Value):
    """The runs that no other beats on the primary metric and every guard."""

    exists: bool
    """The incumbent is not the only sensible answer."""
    is_settled: bool
    """The clinician's choice covers it."""
    chosen: str | None = None
    """The run that the clinician chose last."""
    options: list[OptionView]
    """The incumbent first, then its rivals, then other runs that none beats."""


def tradeoffs_view(found: Tradeoffs) -> TradeoffsView:
    """Return the trade-offs of a task as an agent sees them."""
    return TradeoffsView(
        exists=found.exists,
        is_settled=found.is_settled,
        chosen=found.chosen,
        options=[_option(option) for option in found.answers[:SHOWN]],
    )


def left_out(found: Tradeoffs) -> list[str]:
    """Say how many runs did not fit into the view."""
    rest = len(found.answers) - SHOWN
    return [f"tradeoffs: {rest} more runs that none beats; view 'runs' has all"] if rest > 0 else []


def hint(found: Tradeoffs) -> str:
    """Say in a sentence that there is a trade-off, and who settles it; empty where there is none that is open."""
    if not found.exists or found.is_settled:
        return ""
    rivals = ", ".join(option.run for option in found.rivals)
    seen = f"Trade-off: {rivals} and the incumbent {found.incumbent} are both sensible answers; see view 'tradeoffs'."
    if found.waits_for == "clinician":
        return f"{seen} finalize waits for the clinician's choice."
    return f"{seen} The acceptance rule settles it for {found.incumbent}, unless the clinician chooses."


def next_step(found: Tradeoffs) -> str:
    """Say what follows from the trade-offs of a task."""
    if found.incumbent is None:
        return f"There is no accepted run yet; start the baseline: run_training(task_id='{found.task_id}')."
    final = f"finalize(task_id='{found.task_id}', run='{found.incumbent}')"
    if not found.exists:
        return f"There is no trade-off: {found.incumbent} is the only sensible answer so far. Go on, or call {final}."
    if found.is_settled:
        return f"The clinician has settled it and {found.incumbent} is the incumbent. Go on from it, or call {final}."
    rivals = ", ".join(option.run for option in found.rivals)
    if found.waits_for == "clinician":
        return (
            f"Look for a run that gains and breaks no guard. If there is none, call {final}: the task then waits until the clinician has "
            f"chosen among {found.incumbent} and {rivals}. Tell them the plain words and how to choose: {how_to_choose(found.task_id)}"
        )
    return (
        f"The acceptance rule settles it: {found.incumbent} stays the incumbent and {final} scores it. Look for a run that gains and breaks no "
        f"guard, and tell the clinician about {rivals} in the plain words: they may choose another with {how_to_choose(found.task_id)}"
    )


def how_to_choose(task_id: str) -> str:
    """Return how a clinician chooses."""
    return f"`clinloop task choose {task_id} RUN`, or the task's page."


def waiting(usual: str, found: Tradeoffs) -> str:
    """Add to what is said of a task that waits for a choice which runs it is between."""
    among = [option.run for option in found.answers if option.is_incumbent or option.is_rival]
    return f"{usual} It is between {' and '.join(among)}; tell them what read_validation(task_id='{found.task_id}', view='tradeoffs') says of each."


def _option(option: Option) -> OptionView:
    return OptionView(
        run=option.run,
        is_incumbent=option.is_incumbent,
        is_rival=option.is_rival,
        reason=option.reason,
        metrics={name: _measured(estimate) for name, estimate in option.values.items()},
        against=option.against,
        broken=[BrokenGuard(metric=loss.metric, by=loss.by, margin=loss.margin) for loss in option.broken],
        words=shortened(option.words, 500),
    )


def _measured(estimate: Estimate) -> Measured:
    return Measured(value=estimate.value, low=estimate.low, high=estimate.high)
