"""The model that a report calls refined, and the clinician's choices, checked against the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clinloop.report.chain import Check, outcome
from clinloop.report.choices import course_of
from clinloop.report.data import LedgerRow, ReportData, RunSummary
from clinloop.report.rescore import same


def check_choice(data: ReportData, task: Sequence[LedgerRow]) -> Check:
    """Check that the refined model is the one that counted at the end: accepted by the rule, or chosen in a row of the ledger."""
    problems: list[str] = []
    course = course_of(task)
    kept = [
        run for run in data.runs if run.mode == "full" and (run.decision == "accepted" or _name(run) in course.chosen)
    ]
    incumbent = next((run for run in kept if run.number == data.incumbent), None)
    primary = next((metric for metric in data.final if metric.name == data.primary_metric), None)
    drop = data.validation_to_test
    if incumbent is None:
        problems.append(
            f"run {data.incumbent} is called refined, but was not accepted, and no choice in the ledger names it"
        )
    elif course.last is not None and _name(incumbent) != course.last:
        problems.append(f"run {data.incumbent} is called refined, but by the ledger it is {course.last} that counted")
    elif not same(incumbent.primary, drop.validation):
        problems.append(
            f"run {data.incumbent} has {incumbent.primary} on validation, the report states {drop.validation}"
        )
    if primary is None:
        problems.append(f"the primary metric {data.primary_metric} has no test value")
    elif not same(primary.refined.value, drop.test):
        problems.append(f"the test value is {primary.refined.value}, the drop is computed from {drop.test}")
    if drop.test is not None and not same(drop.validation - drop.test, drop.drop):
        problems.append(f"the drop is {drop.validation - drop.test}, the report states {drop.drop}")
    how = "accepted on validation" if incumbent and incumbent.decision == "accepted" else "chosen by the clinician"
    return outcome("choice of the model", problems, f"run {data.incumbent}, {how}")


def check_choices(data: ReportData, task: Sequence[LedgerRow]) -> Iterator[Check]:
    """Check who chose what and why against the ledger; nothing where nobody chose and the report says so."""
    course = course_of(task)
    if not course.choices and not data.choices and not any(run.chosen for run in data.runs):
        return
    problems = [] if course.choices == data.choices else ["the choices are not those in the ledger"]
    for run in data.runs:
        if run.mode == "full" and run.chosen != (_name(run) in course.chosen):
            problems.append(
                f"{_name(run)} is said to be {'' if run.chosen else 'not '}chosen, the ledger says otherwise"
            )
    by = ", ".join(f"{choice.run} by {choice.by}" for choice in course.choices)
    yield outcome("choices of the clinician", problems, by)


def _name(run: RunSummary) -> str:
    return f"run{run.number}"
