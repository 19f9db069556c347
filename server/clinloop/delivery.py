"""Delivery: what an evaluation found becomes the model folder, the report and the result that the agent gets."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clinloop import __version__, context
from clinloop.context import TaskContext
from clinloop.datasets import vault
from clinloop.datasets.dataset import Annotation, Dataset
from clinloop.failpoints import reach
from clinloop.files import remove_tree, sha256_file, write_atomic
from clinloop.gallery import gained_and_lost
from clinloop.paths import TaskFolder
from clinloop.report import data as report
from clinloop.report.choices import course_of
from clinloop.report.conduct import facts_of
from clinloop.report.evidence import Evidence, truth_csv
from clinloop.report.people import people
from clinloop.report.stages import score
from clinloop.report.suspecting import look_for_suspects
from clinloop.report.write import write_report
from clinloop.resources import resource
from clinloop.sandbox.recipes import find_recipe, folders
from clinloop.scoring import metrics as scored
from clinloop.scoring import service
from clinloop.scoring.analysis import Undeclared
from clinloop.spec import PRESETS, TaskSpec
from clinloop.store.database import utc_now
from clinloop.store.rows import TaskRow
from clinloop.store.store import Store
from clinloop.tradeoffs import find_tradeoffs, picture_of
from clinloop.workspace import Workspace

Model = Literal["initial", "refined"]


class Frozen(NamedTuple):
    """A model as it was frozen for the evaluation."""

    model: Model
    run: str
    folder: Path
    tree_sha256: str
    checkpoint_sha256: str


class Outcome(NamedTuple):
    """What the evaluation found."""

    final: list[service.FinalMetric]
    truth: list[service.TruthCase]
    """As evidence shows it: names of the test view, and of the attributes declared confounders alone."""
    predictions: dict[Model, bytes]
    canaries: dict[Model, report.CanaryCheck]
    order: dict[Model, report.OrderAudit]
    test_counts: dict[str, int]
    analysis: service.Analysis
    undeclared: Undeclared | None


class Delivered(NamedTuple):
    """What was delivered."""

    result: dict[str, Any]
    report_sha256: str


def deliver(here: TaskContext, store: Store, frozen: Sequence[Frozen], outcome: Outcome) -> Delivered:
    """Write model/ and report/, record the scores in the ledger, and return the result; repeatable after an interruption."""
    scope = f"task:{here.task.id}"
    refined = next(model for model in frozen if model.model == "refined")
    manifest = _write_model(here, store, refined)
    evidence = Evidence(
        truth_csv(outcome.truth),
        outcome.predictions["initial"],
        outcome.predictions["refined"],
        here.scheme.task_type,
    )
    metrics = [_final_metric(metric, here) for metric in outcome.final]
    values = {metric.name: [metric.initial.value, metric.refined.value] for metric in metrics}
    scored = {"evidence": evidence.digests(), "values": values, "model": manifest}
    if [row.detail for row in store.ledger(scope) if row.event == "scored"][-1:] != [scored]:
        store.record(scope, "scored", scored)  # again after an interruption, when a sealed test set got new names
        reach("finalize:recorded")
    data = _report_data(here, store, frozen, outcome, metrics)
    data = data.model_copy(update={"scorecard": score(facts_of(data))})
    paths = write_report(data, here.folder.report, evidence)
    rounded = [
        {
            "name": metric.name,
            "initial": _rounded(metric.initial),
            "refined": _rounded(metric.refined),
            "p": None if metric.p is None else float(f"{metric.p:.2g}"),
        }
        for metric in metrics
    ]
    level = store.recorded_level(here.task.id)
    result = {
        "metrics": rounded,
        "n_test": len(outcome.truth),
        "earlier_openings": _earlier_openings(store, here.task),
        "run": refined.run,
        "guarantee": f"{level.code} {level.name}: {level.meaning}",
        "report": str(paths.html),
        "model": str(here.folder.model),
        "verify": f"clinloop verify {here.folder.report}",
    }
    return Delivered(result, sha256_file(paths.json))


def run_summaries(store: Store, folder: TaskFolder, task: TaskRow) -> list[report.RunSummary]:
    """Return the full runs of a task as the report and the figures show them."""
    workspace = Workspace(folder.workspace, folder.revisions)
    summaries: list[report.RunSummary] = []
    course = course_of(store.ledger(f"task:{task.id}"))
    revisions = {run.name: run.revision for run in store.runs(task.id)}
    for run in (run for run in store.runs(task.id) if run.mode == "full" and not run.is_active):
        before = revisions.get(course.before.get(run.name) or "", "r1")
        after = course.after.get(run.name)
        points = folder.run(run.name).read_validations()
        validations = [(point["seconds"], point["score"]) for point in points if "score" in point]
        best = [score for _, score in validations]
        metrics = (run.scores or {}).get("metrics", {})
        summaries.append(
            report.RunSummary(
                number=run.number,
                status=run.status,
                end_reason=run.end_reason,
                revision=run.revision,
                hypothesis=run.hypothesis,
                primary=run.score,
                scores={
                    name: (value["value"] if isinstance(value, dict) else value) for name, value in metrics.items()
                },
                decision=run.decision,  # pyright: ignore[reportArgumentType]  # the schema allows no other
                reason_code=run.reason,
                reason=run.reason_text or run.message,
                started=run.started_at,
                ended=run.ended_at,
                train_seconds=run.facts.get("train_seconds"),
                diff_summary=workspace.diff_summary(before, run.revision),
                validations=tuple(validations),
                incumbent_after=int(after.removeprefix("run")) if after else None,
                inputs=tuple(int(name.removeprefix("run")) for name in run.inputs),
                ran_in=run.ran_in,
                chosen=run.name in course.chosen,
                claimed=(max if service.is_higher_better(task.spec.primary_metric) else min)(best) if best else None,
            )
        )
    return summaries


def _report_data(
    here: TaskContext, store: Store, frozen: Sequence[Frozen], outcome: Outcome, metrics: list[report.FinalMetric]
) -> report.ReportData:
    task, spec, scope = here.task, here.task.spec, f"task:{here.task.id}"
    seal = vault.seal_state(here.dataset.folder)
    preset, granted = PRESETS[spec.budget], store.granted_runs(task.id)
    rows = [*store.ledger(f"dataset:{task.dataset}"), *store.ledger(scope)]
    balance = store.balance(task.id)
    level = store.recorded_level(task.id)
    accepted = store.run(task.id, next(model.run for model in frozen if model.model == "refined"))
    initial = next(model for model in frozen if model.model == "initial")
    primary = next(metric for metric in metrics if metric.name == spec.primary_metric)
    validation, test = accepted.score or 0.0, primary.refined.value
    run = here.folder.run(accepted.name)
    suspects, suspects_note = look_for_suspects(
        here.dataset,
        service.read_truth(context.Cases(here.folder.data).truth),
        run.predictions,
        run.embeddings,
        scheme=here.scheme,
        operating_rule=spec.operating_point,
        seed=task.seed,
    )
    choices, found = course_of(store.ledger(scope)).choices, find_tradeoffs(store, task)
    resumed = [row.at for row in rows if row.event == "evaluation_resumed"]
    return report.ReportData(
        created_at=utc_now(),
        clinloop_version=__version__,
        task_id=task.id,
        task_type=spec.task_type,
        request=task.request,
        spec=spec.model_dump(mode="json"),
        spec_sha256=spec.sha256(),
        primary_metric=spec.primary_metric,
        primary_title=scored.title(spec.primary_metric, here.scheme),
        assumptions=spec.assumptions,
        open_questions=spec.open_questions,
        people=people([report.LedgerRow(**row._asdict()) for row in store.ledger(scope)]),
        dataset=_dataset_facts(here.dataset, spec, outcome),
        guarantee=report.Guarantee(level=level.code, name=level.name, meaning=level.meaning),
        budget=report.BudgetFacts(
            preset=spec.budget,
            runs_granted=granted,
            runs_used=granted - balance["run"],
            smoke_used=preset.smokes - balance["smoke"],
            seconds_per_run=preset.train_seconds,
        ),
        runs=tuple(run_summaries(store, here.folder, task)),
        incumbent=accepted.number,
        choices=choices,
        tradeoff=picture_of(found) if found.exists or choices else None,
        operating_points=tuple(_operating_points(store, task, frozen)),
        final=tuple(metrics),
        validation_to_test=report.ValidationToTest(
            metric=spec.primary_metric,
            validation=validation,
            test=test,
            drop=None if test is None else validation - test,
        ),
        analysis=outcome.analysis,
        undeclared=outcome.undeclared,
        integrity=report.Integrity(
            earlier_openings=_earlier_openings(store, task),
            sealed_to=seal.recipients,
            originals_readable=seal.is_sealed and any(row.detail.get("originals_readable") for row in rows),
            touched="once, interrupted and resumed with the same frozen models" if resumed else "once",
            canaries=tuple(outcome.canaries.values()),
            order=tuple(outcome.order.values()),
            trees={model.model: model.tree_sha256 for model in frozen},
            checkpoints={model.model: model.checkpoint_sha256 for model in frozen},
            crash_notes=tuple(
                f"The evaluation was interrupted after the unsealing and resumed at {at}." for at in resumed
            ),
        ),
        environment=report.EnvironmentFacts(
            image=here.environment.name,
            image_digest=here.environment.digest,
            licence=find_recipe(here.environment.name, folders(here.settings)).notice,
            packages=dict(here.environment.packages),
            backend=here.sandbox.name,
            tiers=dict(here.sandbox.probe().tiers),
            hardware={"cores": str(os.cpu_count()), "machine": platform.machine()},
        ),
        ledger=tuple(report.LedgerRow(**row._asdict()) for row in rows),
        ledger_key=store.public_key,
        ledger_head=store.head(scope),
        suspects=suspects,
        suspects_note=suspects_note,
        gallery=gained_and_lost(here, store, initial.run, accepted.name),
    )


def _earlier_openings(store: Store, task: TaskRow) -> int:
    """Count the other tasks on the same dataset whose evaluation had opened the test set before this one's did."""
    opened = {
        other.id: next((row.at for row in store.ledger(f"task:{other.id}") if row.event == "unsealing"), None)
        for other in store.tasks()
        if other.dataset == task.dataset
    }
    own = opened.pop(task.id)
    return sum(at is not None and own is not None and at < own for at in opened.values())


def _dataset_facts(dataset: Dataset, spec: TaskSpec, outcome: Outcome) -> report.DatasetFacts:
    cases = [case for case in dataset.cases() if context.is_of_task(case, spec)]
    classes = spec.target_classes
    counts = {
        split: {name: sum(case.split == split and case.label == name for case in cases) for name in classes}
        for split in ("train", "val")
    }
    groups = {split: len({case.group for case in cases if case.split == split}) for split in ("train", "val")}
    rule = dataset.record.split
    test_rule = "the publisher's test set" if rule.test == "official" else f"{rule.test:.0%} of the cases, by group"
    return report.DatasetFacts(
        name=dataset.name,
        layout=dataset.record.layout,
        classes=classes,
        counts={**counts, "test": outcome.test_counts},
        group_kind=dataset.group_kind,
        groups={**groups, "test": len({case.group for case in outcome.truth})},
        split_rule=f"Test: {test_rule}. Validation: {rule.val:.0%} of the rest, by group, stratified by class.",
        image_rules=tuple(f"{name}: {text}" for name, text in dataset.record.image_rules.items()),
        commitment=dataset.commitment,
        audit=(
            *(report.AuditItem(level="warning", text=text) for text in dataset.audit.warnings),
            *(report.AuditItem(level="note", text=_origin(made)) for made in dataset.record.annotations),
        ),
    )


def _origin(made: Annotation) -> str:
    """Say where an attribute comes from that a model predicted."""
    return (
        f"Attribute {made.column} is the probability of {made.class_name!r} by {made.run} of task {made.task} (checkpoint "
        f"{made.checkpoint_sha256[:12]}), not what a person saw. Overlap with what that model was made with: {made.overlap}."
    )


def _operating_points(store: Store, task: TaskRow, frozen: Sequence[Frozen]) -> list[report.OperatingPoint]:
    points: list[report.OperatingPoint] = []
    for model in frozen:
        found = (store.run(task.id, model.run).scores or {}).get("operating_points", {})
        for name, point in found.items():
            points.append(
                report.OperatingPoint(
                    model=model.model,
                    class_name=name,
                    rule=point["rule"],
                    threshold=point["threshold"],
                    validation_sensitivity=point["sensitivity"],
                    validation_specificity=point["specificity"],
                )
            )
    return points


_OUTPUT = {
    "classification": "probabilities per class, thresholds fixed on validation",
    "detection": "scored boxes as COCO results, the score threshold fixed on validation",
    "segmentation": "one mask per image as run lengths down the columns",
}


def _write_model(here: TaskContext, store: Store, model: Frozen) -> dict[str, str]:
    """Write model/: code, checkpoint, operating points, environment lock, and the SHA-256 of each; return the hashes."""
    target = here.folder.model
    building = target.with_name(".model-building")
    remove_tree(building)
    shutil.copytree(model.folder / "code", building)
    shutil.copyfile(model.folder / "checkpoint", building / "checkpoint")
    run = store.run(here.task.id, model.run)
    facts = {
        "task": here.task.id,
        "run": run.name,
        "revision": run.revision,
        "classes": here.classes,
        "targets": list(here.scheme.targets),
        "operating_points": (run.scores or {}).get("operating_points", {}),
        "note": f"Research use only. predict.py --images DIR --checkpoint checkpoint --out FILE; {_OUTPUT[here.scheme.task_type]}.",
    }
    (building / "operating_points.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    recipe = find_recipe(here.environment.name, folders(here.settings))
    shutil.copyfile(recipe.lock, building / "requirements.lock")
    shutil.copytree(
        resource("sandbox_images") / "runtime" / "clinloop_runtime",
        building / "clinloop_runtime",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    manifest = {
        str(path.relative_to(building)): sha256_file(path) for path in sorted(building.rglob("*")) if path.is_file()
    }
    write_atomic(building / "MANIFEST.json", json.dumps(manifest, indent=1))
    remove_tree(target)
    building.rename(target)
    return manifest


def _final_metric(metric: service.FinalMetric, here: TaskContext) -> report.FinalMetric:
    return report.FinalMetric(
        name=metric.name,
        title=scored.title(metric.name, here.scheme),
        direction=metric.direction,
        initial=_estimate(metric.initial),
        refined=_estimate(metric.refined),
        difference=_estimate(metric.difference),
        p=metric.p,
        n=metric.n,
        unit=metric.unit,
        resamples=metric.resamples,
        seed=metric.seed,
    )


def _estimate(estimate: service.Estimate) -> report.Estimate:
    return report.Estimate(value=estimate.value, low=estimate.low, high=estimate.high)


def _rounded(estimate: report.Estimate) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in estimate.model_dump().items()}
