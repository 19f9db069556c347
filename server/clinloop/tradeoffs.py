"""The trade-offs of a task: which runs are sensible answers, what each gives and takes in plain words, and whether a choice has settled it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from clinloop.report.choices import Measure, Point, Role, Scale, TradeoffPicture, course_of
from clinloop.scoring.acceptance import Reason
from clinloop.scoring.metrics import Scheme, is_higher_better, scheme_of
from clinloop.scoring.results import Estimate, as_sent
from clinloop.scoring.tradeoff_words import About, loss_words, named, rates, words
from clinloop.scoring.tradeoffs import Axis, Candidate, Loss, Verdict, judge, losses
from clinloop.services import Services
from clinloop.spec import TaskSpec
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.store import Store

_GAINED = (Reason.BETTER, Reason.GUARD_WORSE, Reason.NEEDS_CONFIRMATION)
"""Reasons of runs whose gain was beyond noise when the rule looked."""


class Option(NamedTuple):
    """A run, as somebody who may choose it should see it; all numbers as they were sent to the agent."""

    run: str
    hypothesis: str
    decision: str
    """accepted or rejected, by the rule."""
    reason: str
    """The rule's reason code, e.g. "guard_worse:auc_MEL"."""
    is_incumbent: bool
    is_baseline: bool
    is_in_front: bool
    """In the Pareto set: no established run is as good on every axis and better on one."""
    is_rival: bool
    """As sensible an answer as the incumbent."""
    is_new: bool
    """The clinician has made no choice since it ended."""
    values: dict[str, Estimate]
    """By metric of the axes, with 95 % interval."""
    rates: tuple[float, float] | None
    """Sensitivity and specificity of `Tradeoffs.about_class` at the operating point."""
    broken: tuple[Loss, ...]
    """Guards that are worse than those of `against` by more than their margins."""
    against: str
    """The run that words and broken guards compare it with: the incumbent; the incumbent itself is compared with the reference or the baseline."""
    words: str
    """What it gives and takes, in plain words."""


class Tradeoffs(NamedTuple):
    """What a task can choose among."""

    task_id: str
    axes: tuple[Axis, ...]
    """The primary metric, then the guards."""
    names: dict[str, str]
    """Short name for people by metric."""
    about_class: str
    """The class whose sensitivity and specificity are told; empty: none matters more than the others."""
    options: tuple[Option, ...]
    """The incumbent, its rivals, the rest of the Pareto set, then what is dominated; each part in order of the runs."""
    incumbent: str | None
    reference: str | None
    """What guards are held against: the run that the clinician chose last, else the baseline."""
    chosen: str | None
    """The run that the clinician chose last."""
    exists: bool
    """The incumbent is not the only sensible answer."""
    is_settled: bool
    """A choice of the clinician covers it."""
    waits_for: str
    """Who settles it: "clinician" or "rule"."""

    @property
    def is_open(self) -> bool:
        """Whether finalize has to wait for the clinician."""
        return self.exists and not self.is_settled and self.waits_for == "clinician"

    @property
    def rivals(self) -> list[Option]:
        """The answers that are as sensible as the incumbent."""
        return [option for option in self.options if option.is_rival]

    @property
    def answers(self) -> list[Option]:
        """The incumbent and the Pareto set: what is worth showing first."""
        return [option for option in self.options if option.is_in_front or option.is_incumbent]

    def asked(self) -> dict[str, Any]:
        """Return what the clinician is asked: the runs to choose among, each in plain words."""
        among = [option for option in self.answers if option.is_incumbent or option.is_rival]
        return {"incumbent": self.incumbent, "among": {option.run: option.words for option in among}}

    def option(self, run: str) -> Option | None:
        """Return the option of a run; None when it has no scores."""
        return next((option for option in self.options if option.run == run), None)


def tradeoffs_of(services: Services, task_id: str) -> Tradeoffs:
    """Return the trade-offs of a task that the principal sees.

    Raises:
        Unknown: no such task, or the principal does not see it.
    """
    return find_tradeoffs(services.store, services.task(task_id))


def find_tradeoffs(store: Store, task: TaskRow) -> Tradeoffs:
    """Return the trade-offs of a task."""
    return _find(store, task.id, store.head(f"task:{task.id}"))


@lru_cache(maxsize=512)
def _find(store: Store, task_id: str, _head: str) -> Tradeoffs:
    """Look for trade-offs; whatever changes them is an entry of the task's ledger, so they are kept as long as its head stays."""
    task = store.task(task_id)
    spec, scheme = task.spec, scheme_of(task.spec)
    axes = axes_of(spec)
    scored = [
        run
        for run in store.runs(task.id)
        if run.mode == "full"
        and run.status == "succeeded"
        and spec.primary_metric in (run.scores or {}).get("metrics", {})
    ]
    sent = {run.name: as_sent(run.scores or {}) for run in scored}
    best, first = store.incumbent(task.id), store.baseline(task.id)
    incumbent, baseline = best.name if best else None, first.name if first else None
    chosen = task.chosen_run if task.chosen_run in sent else None
    reference = chosen or baseline
    candidates = [_candidate(run, sent[run.name], axes, task, is_incumbent=run.name == incumbent) for run in scored]
    verdict = judge(candidates, axes, incumbent=incumbent, reference=reference)
    about = _about(spec, scheme)
    compared, tests_gains = course_of(store.ledger(f"task:{task.id}")).before, spec.acceptance != "paper"
    seen = _Seen(axes, about, sent, verdict, incumbent, baseline, reference, compared, tests_gains)
    options = [_option(run, candidate, seen) for run, candidate in zip(scored, candidates, strict=True)]
    return Tradeoffs(
        task_id=task.id,
        axes=axes,
        names={axis.metric: named(axis.metric, scheme) for axis in axes},
        about_class=_class_of(about),
        options=tuple(sorted(options, key=_place)),
        incumbent=incumbent,
        reference=reference,
        chosen=chosen,
        exists=verdict.exists,
        is_settled=verdict.is_settled,
        waits_for=spec.tradeoffs,
    )


def picture_of(found: Tradeoffs) -> TradeoffPicture | None:
    """Return what `report.tradeoff_figure.tradeoff_svg` draws: the primary metric over the guard that the rivals break by most of its margin.

    None: there is no guard, or fewer than two runs have both values.
    """
    if (guard := _guard_of(found)) is None:
        return None
    primary = found.axes[0]
    points = tuple(
        Point(run=option.run, x=x, y=y, role=_role(option), is_baseline=option.is_baseline, words=option.words)
        for option in found.options
        if (x := _measure(option, guard)) and (y := _measure(option, primary))
    )
    if len(points) < 2:
        return None
    best, margin = points[0] if points[0].role == "incumbent" else None, guard.margin or 0.0
    limit = None if best is None else round(best.x.value + (-margin if guard.direction == "higher" else margin), 4)
    return TradeoffPicture(
        x=Scale(label=f"Guard: {found.names[guard.metric]}", is_higher_better=guard.direction == "higher", limit=limit),
        y=Scale(label=found.names[primary.metric], is_higher_better=primary.direction == "higher"),
        points=points,
    )


def axes_of(spec: TaskSpec) -> tuple[Axis, ...]:
    """Return what the runs of a spec are compared on: the primary metric, then each guard that is another metric."""
    primary = Axis(spec.primary_metric, _direction(spec.primary_metric))
    guards = [
        Axis(guard.metric, _direction(guard.metric), guard.margin)
        for guard in spec.guards
        if guard.metric != spec.primary_metric
    ]
    return (primary, *guards)


class _Seen(NamedTuple):
    axes: tuple[Axis, ...]
    about: About
    sent: Mapping[str, Mapping[str, Any]]
    verdict: Verdict
    incumbent: str | None
    baseline: str | None
    reference: str | None
    compared: Mapping[str, str | None]
    tests_gains: bool
    """Whether the rule looks at noise: not so in acceptance "paper"."""


def _direction(metric: str) -> Any:
    return "higher" if is_higher_better(metric) else "lower"


def _candidate(
    run: RunRow, sent: Mapping[str, Any], axes: Sequence[Axis], task: TaskRow, *, is_incumbent: bool
) -> Candidate:
    return Candidate(
        run=run.name,
        code=f"{run.tree_sha256} {' '.join(run.inputs)}",
        reason=run.reason,
        is_accepted=run.decision == "accepted" or is_incumbent,
        is_new=task.chosen_at is None or (run.ended_at or "") > task.chosen_at,
        values={axis.metric: _estimate(sent, axis.metric).value for axis in axes},
    )


def _estimate(sent: Mapping[str, Any], metric: str) -> Estimate:
    found = sent["metrics"].get(metric)
    return Estimate(None) if found is None else Estimate(found["value"], found["low"], found["high"])


def _about(spec: TaskSpec, scheme: Scheme) -> About:
    emphasised = tuple(item.class_name for item in spec.emphasised_classes)
    return About(scheme, spec.primary_metric, emphasised, spec.risk_preference)


def _class_of(about: About) -> str:
    if about.scheme.task_type != "classification":
        return ""
    return about.scheme.positive or next(iter(about.classes), "")


def _option(run: RunRow, candidate: Candidate, seen: _Seen) -> Option:
    against = _against(run.name, seen)
    broken = _broken(candidate, against, seen)
    return Option(
        run=run.name,
        hypothesis=run.hypothesis,
        decision=run.decision,
        reason=run.reason,
        is_incumbent=run.name == seen.incumbent,
        is_baseline=run.name == seen.baseline,
        is_in_front=run.name in seen.verdict.pareto,
        is_rival=run.name in seen.verdict.rivals,
        is_new=candidate.is_new,
        values={axis.metric: _estimate(seen.sent[run.name], axis.metric) for axis in seen.axes},
        rates=rates(seen.sent[run.name], _class_of(seen.about)) if _class_of(seen.about) else None,
        broken=tuple(broken),
        against=against,
        words=_words(run, against, broken, seen),
    )


def _against(run: str, seen: _Seen) -> str:
    """Return the run to compare one with: the incumbent; of the incumbent itself the reference, and of a chosen one the baseline."""
    others = (seen.reference, seen.baseline) if run == seen.incumbent else (seen.incumbent,)
    return next((other for other in others if other and other != run and other in seen.sent), run)


def _broken(candidate: Candidate, against: str, seen: _Seen) -> list[Loss]:
    scores = seen.sent[against]
    other = Candidate(
        run=against,
        code="",
        reason="",
        is_accepted=True,
        values={axis.metric: _estimate(scores, axis.metric).value for axis in seen.axes},
    )
    return losses(candidate, other, seen.axes)


def _words(run: RunRow, against: str, broken: Sequence[Loss], seen: _Seen) -> str:
    if against == run.name:
        return "The first run with a score; there is nothing to compare it with."
    new, old, scheme = seen.sent[run.name], seen.sent[against], seen.about.scheme
    is_known = seen.tests_gains and seen.compared.get(run.name) == against and run.reason.partition(":")[0] in _GAINED
    said = [words(new, old, seen.about, is_gain_known=is_known)]
    said += [loss_words(loss, new, old, scheme, against) for loss in broken]
    if run.reason == "needs_confirmation":
        said.append("It waits for its confirmation by a second run.")
    return f"Against {against}: {' '.join(said)}"


def _place(option: Option) -> tuple[int, int]:
    standing = 0 if option.is_incumbent else 1 if option.is_rival else 2 if option.is_in_front else 3
    return standing, int(option.run.removeprefix("run"))


def given_up(found: Tradeoffs, run: str) -> dict[str, Any]:
    """Return what the choice of a run means, for the ledger: the incumbent that it replaces or confirms, and plain words."""
    option = found.option(run)
    if option is None or found.incumbent is None:
        return {"instead_of": found.incumbent, "words": ""}
    if option.is_incumbent:
        others = ", ".join(other.run for other in found.rivals)
        return {"instead_of": run, "words": f"{run} stays the incumbent{f', not {others}' if others else ''}."}
    return {"instead_of": found.incumbent, "words": option.words}


def _guard_of(found: Tradeoffs) -> Axis | None:
    """Return the guard that the rivals, or the incumbent, break by most of its margin; else the first."""
    guards = {axis.metric: axis for axis in found.axes[1:]}
    shares = dict.fromkeys(guards, 0.0)
    for option in found.options:
        for loss in option.broken if option.is_rival or option.is_incumbent else ():
            share = float("inf") if loss.by is None or not loss.margin else loss.by / loss.margin
            shares[loss.metric] = max(shares[loss.metric], share)
    return guards[max(shares, key=lambda name: shares[name])] if guards else None


def _role(option: Option) -> Role:
    if option.is_incumbent:
        return "incumbent"
    return "rival" if option.is_rival else "front" if option.is_in_front else "other"


def _measure(option: Option, axis: Axis) -> Measure | None:
    found = option.values[axis.metric]
    return None if found.value is None else Measure(value=found.value, low=found.low, high=found.high)
