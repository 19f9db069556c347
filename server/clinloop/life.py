"""The life of a run inside its supervisor: train -> predict -> score -> settle. The core, on one screen."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from clinloop import context, execution, leases
from clinloop.context import Cases, TaskContext
from clinloop.errors import BadPredictions, SandboxUnavailable
from clinloop.files import sha256_file
from clinloop.paths import RunFolder
from clinloop.scoring import service
from clinloop.store.database import utc_now
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.store import Store

_log = logging.getLogger(__name__)


def carry(*, state: Path, task_id: str, what: str, launch_settings: dict[str, Any]) -> None:
    """Carry one reserved run to its end and settle it exactly once; called again for a run whose supervisor died."""
    store = Store(state)
    run = store.run(task_id, what)
    if not run.is_active:
        return
    here: TaskContext | None = None
    try:
        here = context.assemble(store, task_id, launch_settings, backend=run.facts.get("backend", ""))
        folder = here.folder.run(run.name)
        here = leases.hold_for_run(store, here, run)
        if here is None:
            message = "The run was stopped before it started, so it is given back."
            store.settle_run(run.task_id, run.name, "stopped", end_reason="stopped_before_start", message=message)
            return
        cases = context.cases_of(here, run, folder)
        context.export_code(here, run, folder)
        facts: dict[str, Any] = dict(run.facts)
        if run.status in ("queued", "training") and not _train(store, here, run, folder, cases, facts):
            return
        if run.status == "scoring" or _predict(store, here, run, folder, cases, facts):
            _score(store, here, run, folder, cases, facts)
    except Exception as fault:
        _log.exception("fault while carrying %s of %s", what, task_id)
        _lose(store, here, run, f"The run was lost; it is refunded while refunds last. Cause: {context.explain(fault)}")
    if here is not None:
        leases.check_cleared(store, here)


def _lose(store: Store, here: TaskContext | None, run: RunRow, message: str) -> None:
    """Settle a run that a fault of the server ended, as soon as that can be written and its sandbox cleared: the fault may be a full disk."""
    for pause in (1, 2, 4, 8, 15):
        try:
            if here is not None:
                execution.end_jobs(here, run)
            store.settle_run(run.task_id, run.name, "lost", end_reason="server_fault", message=message)
            return
        except Exception:
            _log.exception("%s of %s cannot be settled yet", run.name, run.task_id)
            time.sleep(pause)
    store.settle_run(run.task_id, run.name, "lost", end_reason="server_fault", message=message)


def _train(
    store: Store, here: TaskContext, run: RunRow, folder: RunFolder, cases: Cases, facts: dict[str, Any]
) -> bool:
    facts |= {
        "backend": here.sandbox.name,
        "backend_reason": here.sandbox_reason,
        "image": here.environment.name,
        "environment": here.environment.digest,
        "gpus": list(here.gpus),
    }

    def started(ref: str, deadline_unix: float) -> None:
        facts["tiers"] = dict(here.sandbox.tiers(ref))
        store.advance_run(
            run.task_id,
            run.name,
            "training",
            sandbox_ref=ref,
            started_at=utc_now(),
            deadline_unix=deadline_unix,
            facts=json.dumps(facts),
        )

    def should_stop() -> bool:
        return store.run(run.task_id, run.name).stop_requested

    if run.status == "training":
        resumed = execution.resume_training(here, run, folder, cases, should_stop=should_stop)
        if resumed is None:
            _abandon(store, here, run)
            return False
        ending = resumed
        store.record(
            f"task:{run.task_id}", "resumed", {"note": "the supervisor died while the run trained"}, run=run.name
        )
    else:
        seed = here.task.seed + (run.number if look_of(store, here.task, run).confirms else 0)
        ending = execution.train(here, run, folder, cases, seed=seed, started=started, should_stop=should_stop)
    facts |= {"train_seconds": round(ending.seconds, 1), "train_end": ending.reason}
    if ending.reason == "stopped":
        store.settle_run(
            run.task_id,
            run.name,
            "stopped",
            end_reason="stopped",
            message=ending.message,
            detail={"seconds": facts["train_seconds"]},
        )
        return False
    if not folder.checkpoint.is_file() or ending.reason == "crash":
        store.settle_run(
            run.task_id,
            run.name,
            "failed",
            end_reason=ending.reason,
            message=ending.message,
            detail={"seconds": facts["train_seconds"]},
        )
        return False
    store.advance_run(run.task_id, run.name, "predicting", facts=json.dumps(facts))
    return True


def _predict(
    store: Store, here: TaskContext, run: RunRow, folder: RunFolder, cases: Cases, facts: dict[str, Any]
) -> bool:
    ending = execution.predict(
        here,
        name=execution.job_name(run, "predict"),
        code=folder.code,
        checkpoint=folder.checkpoint,
        view=cases.view,
        out=folder.predicted,
        session=folder.root / "session-predict",
        log=folder.log("predict"),
        smoke=run.mode == "smoke",
        should_stop=lambda: store.run(run.task_id, run.name).stop_requested,
    )
    facts |= {"predict_seconds": round(ending.seconds, 1)}
    if ending.reason == "completed":
        store.advance_run(run.task_id, run.name, "scoring", facts=json.dumps(facts))
        return True
    if ending.reason == "stopped":
        store.settle_run(run.task_id, run.name, "stopped", end_reason="stopped", message=ending.message)
    else:
        store.settle_run(run.task_id, run.name, "failed", end_reason=f"predict_{ending.reason}", message=ending.message)
    return False


def _score(
    store: Store, here: TaskContext, run: RunRow, folder: RunFolder, cases: Cases, facts: dict[str, Any]
) -> None:
    spec = here.task.spec
    try:
        result = service.score_predictions(
            folder.predictions,
            cases.truth,
            scheme=here.scheme,
            metrics=here.metrics,
            primary=spec.primary_metric,
            operating_rule=spec.operating_point,
            intervals=run.mode == "full",
        )
    except BadPredictions as refusal:
        message = f"The predictions of predict.py are invalid: {refusal}"
        store.settle_run(run.task_id, run.name, "failed", end_reason="invalid_predictions", message=message)
        return
    detail = {
        "predictions_sha256": sha256_file(folder.predictions),
        "checkpoint_sha256": sha256_file(folder.checkpoint),
        "seconds": facts.get("train_seconds"),
    }
    if run.mode == "smoke":
        message = "The smoke test passed: train.py, validation, predict.py and the predictions file all work."
        store.settle_run(run.task_id, run.name, "succeeded", end_reason="completed", message=message, detail=detail)
        return
    incumbent = store.incumbent(run.task_id)
    look = look_of(store, here.task, run)
    decision = service.decide(
        folder.predictions,
        here.folder.run(incumbent.name).predictions if incumbent else None,
        cases.truth,
        scheme=here.scheme,
        primary=spec.primary_metric,
        guards={guard.metric: guard.margin for guard in spec.guards},
        mode=spec.acceptance,
        look=look,
        operating_rule=spec.operating_point,
        seed=here.task.seed,
    )
    store.settle_run(
        run.task_id,
        run.name,
        "succeeded",
        end_reason=facts.get("train_end", "completed"),
        message=decision.text,
        score=result.primary,
        scores=result.as_json(),
        decision="accepted" if decision.accepted else "rejected",
        reason=decision.reason,
        reason_text=decision.text,
        detail=detail | {"look": look.number, "level": look.level, "spends": look.spends, "p": decision.p}
        if incumbent and spec.acceptance != "paper"
        else detail,
    )


def look_of(store: Store, task: TaskRow, run: RunRow) -> service.Look:
    """Return the look that a run is: how many there were, and what they left of the level of the task when it was reserved.

    A budget that is extended meanwhile counts from the next run on: else whoever watches the run could set its level by what it shows.
    """
    rows = store.ledger(f"task:{task.id}")
    spent = {row.run: float(row.detail.get("spends", 0.0)) for row in rows if row.event == "settled"}
    chosen_at = store.task(task.id).chosen_at or ""  # as it is now: `task` may be from the start of the run
    taken = [
        # A run that waited for its confirmation when the clinician chose had beaten another incumbent; its next look is not free.
        service.Taken(
            other.tree_sha256,
            other.reason if other.created_at > chosen_at else "",
            other.decision == "accepted",
            spent.get(other.name, 0.0),
        )
        for other in store.runs(run.task_id)
        if other.decision != "none" and other.reason != "baseline"
    ]
    reserved = next(row.seq for row in rows if row.event == "reserved" and row.run == run.name)
    left = 1 + sum(row.amount for row in rows if row.resource == "run" and row.seq <= reserved)
    return service.next_look(task.spec.acceptance, taken, run.tree_sha256, left=left)


def _abandon(store: Store, here: TaskContext, run: RunRow) -> None:
    """Settle a run that died with its supervisor while it trained: its sandbox is ended, the unit is given back."""
    try:
        execution.end_jobs(here, run)
    except SandboxUnavailable:
        _log.exception("the sandbox of %s of %s cannot be cleared", run.name, run.task_id)
    message = (
        "The supervisor of this run died while it trained; the run is refunded while refunds last. Start it again."
    )
    store.settle_run(run.task_id, run.name, "lost", end_reason="supervisor_died", message=message)
