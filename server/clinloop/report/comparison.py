"""Our numbers beside the paper's: tables.json and figures 3, 4 and 5, with every difference of protocol named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clinloop.files import write_atomic
from clinloop.paper import NUMBERS, PAPER, PROTOCOL, TASK_PROTOCOL, PaperMetric, Quoted
from clinloop.report.data import Estimate, FinalMetric, ReportData
from clinloop.report.text import interval, minutes, number, p_text, percent, short, signed
from clinloop.targets import TARGETS, TaskName

Table = dict[str, Any]


class Setup(NamedTuple):
    """What a report does not say of how a task was played."""

    data: str
    """What the dataset is: "a drawn stand-in of …" or where the real one came from."""
    gpus: int
    """Most GPUs of a run."""
    has_weights: bool
    """Whether runs could start from pretrained weights."""
    seconds: float
    """Wall-clock time of everything."""


def read_report(folder: Path) -> ReportData:
    """Return what the report in a folder says."""
    return ReportData.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))


def compare(name: TaskName, data: ReportData, setup: Setup) -> Table:
    """Return the table of one task: its metrics, the paper's first, what was found, and what differs."""
    quoted = NUMBERS[name]
    ours = {metric.name: metric for metric in data.final}
    names = [*(metric for metric in quoted if metric in ours), *(metric for metric in ours if metric not in quoted)]
    return {
        "title": TARGETS[name].title,
        "data": setup.data,
        "preset": data.budget.preset,
        "seconds": setup.seconds,
        "task_id": data.task_id,
        "guarantee": f"{data.guarantee.level} {data.guarantee.name}",
        "primary_metric": data.primary_metric,
        "n_test": data.final[0].n,
        "metrics": [_row(ours[metric], quoted.get(metric)) for metric in names],
        "runs": [
            {"run": run.number, "score": run.primary, "decision": run.decision, "hypothesis": run.hypothesis}
            for run in data.runs
        ],
        "findings": findings(data),
        "differences": differences(name, data, setup),
    }


def _row(metric: FinalMetric, paper: PaperMetric | None) -> Table:
    return {
        "name": metric.name,
        "title": metric.title,
        "direction": metric.direction,
        "paper": None
        if paper is None
        else {
            "called": paper.called,
            "initial": _quoted(paper.initial),
            "refined": _quoted(paper.refined),
            "p": paper.p or None,
            "note": paper.note,
        },
        "ours": {
            "initial": metric.initial.model_dump(),
            "refined": metric.refined.model_dump(),
            "difference": metric.difference.model_dump(),
            "p": metric.p,
            "n": metric.n,
            "unit": metric.unit,
            "resamples": metric.resamples,
        },
    }


def _quoted(value: Quoted | None) -> dict[str, float | None] | None:
    return None if value is None else value._asdict()


def findings(data: ReportData) -> list[str]:
    """Return what the numbers say: the primary metric, and of a confounder how much less it decides and what that costs in AUC."""
    ours = {metric.name: metric for metric in data.final}
    primary = ours[data.primary_metric]
    lines = [
        f"{short(primary.title)}: {number(primary.initial.value)} → {number(primary.refined.value)} (change {_change(primary)}, "
        f"{p_text(primary.p)}, {primary.n} test cases)."
    ]
    for metric in data.final:
        family, _, confounder = metric.name.partition("_r_")
        if family == "partial" and metric.initial.value and metric.refined.value is not None:
            fall = 1 - metric.refined.value / metric.initial.value
            lines.append(
                f"Partial correlation with {confounder}: {number(metric.initial.value)} → {number(metric.refined.value)}, {percent(fall)} less "
                f"(change {_change(metric)})."
            )
        if metric.name.startswith("fp_share_"):
            lines.append(
                f"Share of false positives with {metric.name.removeprefix('fp_share_')}: {percent(metric.initial.value)} → "
                f"{percent(metric.refined.value)} (change {_change(metric)})."
            )
    if price := _price(data, ours):
        lines.append(price)
    return lines


def _price(data: ReportData, ours: Mapping[str, FinalMetric]) -> str:
    """Return what the AUC over all cases cost where another metric decided."""
    positive = data.spec.get("positive_class") or ""
    auc = ours.get(f"auc_{positive}")
    if auc is None or auc.difference.value is None or not data.spec.get("confounders"):
        return ""
    verb = "cost" if auc.difference.value < 0 else "gained"
    return (
        f"The price in AUC over all test cases: {number(auc.initial.value)} → {number(auc.refined.value)}, so it {verb} "
        f"{number(abs(auc.difference.value))} (change {_change(auc)}); the paper does not report it."
    )


def _change(metric: FinalMetric) -> str:
    return f"{signed(metric.difference.value)}, 95 % interval {interval(metric.difference, show_sign=True)}"


def differences(name: TaskName, data: ReportData, setup: Setup) -> list[str]:
    """Return in what the paper's protocol and ours differ, one sentence each; a point that cannot be compared is said to be one."""
    theirs = {**PROTOCOL, **TASK_PROTOCOL[name]}
    primary, spec, groups = data.final[0], data.spec, data.dataset.groups
    counts = {split: sum(own.values()) for split, own in data.dataset.counts.items()}
    minutes_each = minutes(data.budget.seconds_per_run)
    ours = {
        "data": f"{setup.data}; {counts.get('train', 0)} training, {counts.get('val', 0)} validation and {counts.get('test', 0)} test images",
        "split": f"{data.dataset.split_rule} Groups ({data.dataset.group_kind}): {groups.get('train', 0)}, {groups.get('val', 0)} and {groups.get('test', 0)}",
        "budget": f"baseline and {data.budget.runs_used - 1} of at most {data.budget.runs_granted - 1} runs of {minutes_each}, a scripted agent, "
        + (f"{setup.gpus} GPU(s) a run" if setup.gpus else "no GPU"),
        "seed network": _network(setup),
        "acceptance": _acceptance(data),
        "resample unit": f"{primary.unit}, {primary.resamples} paired resamples of the test set",
        "threshold": f"{spec.get('operating_point')}, fixed on validation for each model and used unchanged on test"
        if data.task_type == "classification"
        else "the largest F1 on validation, fixed for each model and used unchanged on test",
        "primary metric": f"{data.primary_metric}, computed by the server from predictions; what a run claims does not count",
    }
    return [f"{point}: paper: {theirs.get(point, 'not stated')}; here: {ours[point]}." for point in ours]


def _network(setup: Setup) -> str:
    size = "the template's network for GPUs" if setup.gpus else "the template's small network for CPUs"
    return f"{size}, from {'the weights that the custodian gave' if setup.has_weights else 'a random start'}"


def _acceptance(data: ReportData) -> str:
    if data.spec.get("acceptance") == "paper":
        return "strictly better on validation, as the paper"
    guards: Any = data.spec.get("guards") or []
    named = ", ".join(f"{guard['metric']} (margin {guard['margin']:g})" for guard in guards)
    again = ", twice with two seeds" if data.spec.get("acceptance") == "confirmed" else ""
    return f"a paired gain beyond noise on validation{again}" + (f", and no guard worse: {named}" if named else "")


def write_comparison(folder: Path, tables: Mapping[TaskName, Table]) -> None:
    """Write tables.json of some tasks into a folder."""
    content = {"paper": PAPER, "tasks": dict(tables)}
    write_atomic(folder / "tables.json", json.dumps(content, indent=1))


def estimate(value: Mapping[str, float | None]) -> Estimate:
    """Return an estimate that a table holds."""
    return Estimate(value=value["value"], low=value["low"], high=value["high"])
