"""The evaluation of a task: freeze -> rehearse -> unseal -> predict -> score -> report -> end. The test set is opened once.

A crash before `unsealing` starts over; a crash after it is recorded, and resumed with the same frozen copies, at most once.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinloop import context, delivery, leases, runs
from clinloop.context import TaskContext
from clinloop.datasets import vault
from clinloop.datasets.dataset import CaseRow
from clinloop.datasets.pictures import prepare_predict_view
from clinloop.delivery import Frozen, Model
from clinloop.errors import BadInput, BadPredictions, NotNow
from clinloop.failpoints import reach
from clinloop.files import remove_tree, sha256_file, write_atomic
from clinloop.opening import (
    CANARIES,
    Invalid,
    job_name,
    largest_difference,
    one_interruption,
    open_view,
    predict,
    predict_test,
    score,
)
from clinloop.paths import PREDICTIONS, StateFolder, TaskFolder
from clinloop.report import data as report
from clinloop.report.write import seal_report
from clinloop.revisions import digest_of
from clinloop.scoring import service
from clinloop.services import Services
from clinloop.store.questions import UNFINISHED
from clinloop.store.rows import RunRow
from clinloop.store.store import Store
from clinloop.tradeoffs import tradeoffs_of
from clinloop.workspace import Workspace

_MODELS: tuple[Model, ...] = ("initial", "refined")
_log = logging.getLogger(__name__)


class _RehearsalFailed(Exception):
    """Something that the agent can correct, found before the test set was touched."""


def start(services: Services, task_id: str, run_name: str) -> None:
    """Close a task and launch its evaluation, or ask the clinician first; a task whose evaluation has started or ended is left alone.

    Where the spec leaves trade-offs to the clinician and there is one that no choice has settled, the task waits for the choice instead.

    Raises:
        BadInput: `run_name` is not the incumbent, or not the run that the clinician was asked about; the text names it.
        NotNow: there is no accepted run, a run is active, or the task waits for a person otherwise.
    """
    task = services.store.task(task_id)
    asked = services.store.open_question(task_id)
    if asked is not None and asked.kind == "tradeoff":
        return
    if asked is not None and asked.kind == "finalize":
        if run_name != asked.asked["run"]:
            raise BadInput(
                f"run {run_name!r} is not what the clinician was asked about: call finalize with run='{asked.asked['run']}'."
            )
        return
    if task.status in UNFINISHED:
        services.store.require_open(task_id)
        incumbent = services.store.incumbent(task_id)
        if incumbent is None:
            raise NotNow(
                f"Task {task_id} has no accepted run, so there is no model to score; start the baseline with run_training first."
            )
        if run_name != incumbent.name:
            raise BadInput(
                f"run {run_name!r} is not the incumbent; the accepted model is {incumbent.name}: call finalize with run='{incumbent.name}'."
            )
        if (found := tradeoffs_of(services, task_id)).is_open:
            services.store.ask_choice(task_id, found.asked())
            return
        services.record_standing(task)
        if task.spec.confirm_finalize == "required":
            services.store.ask_finalize(task_id, run_name)
        else:
            services.store.begin_evaluation(task_id, run_name)
    runs.recover(services, task_id)


def carry(*, state: Path, task_id: str, what: str, launch_settings: dict[str, Any]) -> None:
    """Carry an evaluation to its terminal state inside its supervisor; `what` is always "finalize"."""
    store = Store(state)
    task = store.task(task_id)
    if task.status == "evaluated":
        _seal(store, task_id, StateFolder(state).task(task_id).report)
    if task.status not in ("evaluating", "unsealed"):
        return
    try:
        _evaluate(store, context.assemble(store, task_id, launch_settings))
    except Exception as fault:
        _log.exception("the evaluation of %s was cut off", task_id)
        if store.task(task_id).status == "evaluating":
            reason = str(fault) if isinstance(fault, _RehearsalFailed) else context.explain(fault)
            store.reopen_task(task_id, reason)
        elif isinstance(fault, Invalid | BadPredictions):
            end_invalid(store, StateFolder(state).task(task_id), task_id, fault)
        else:
            # The test set is open, so there is no way back: the supervisor tries again, and so does whoever asks for the result later.
            store.set_phase(task_id, f"waiting to try again. Cause: {context.explain(fault)}")
            raise


def _evaluate(store: Store, here: TaskContext) -> None:
    task_id = here.task.id
    end_jobs(here)
    if here.task.status == "evaluating":
        ready = _with_gpus(here, store)
        frozen = _prepare(ready, store)
        record = identify(frozen)
        if vault.seal_state(here.dataset.folder).is_sealed:
            store.await_unseal(task_id, record)  # `unsealing` goes on when the clinician brings the key
            leases.release_after_evaluation(store, ready)
            return
        store.unseal(task_id, record)
    else:
        record_resumed(store, task_id)
        frozen = read_frozen(here, store)
    conclude(here, store, frozen, vault.open_test(here.dataset.folder), here.folder.final)


def identify(frozen: Sequence[Frozen]) -> dict[str, Any]:
    """Return what the ledger keeps of frozen models: their runs and the hashes of code and checkpoint."""
    return {
        model.model: {
            "run": model.run,
            "tree_sha256": model.tree_sha256,
            "checkpoint_sha256": model.checkpoint_sha256,
        }
        for model in frozen
    }


def record_resumed(store: Store, task_id: str) -> None:
    """Write into the ledger that an evaluation goes on after it was cut off."""
    note = "the evaluation was interrupted after the test set was unsealed"
    store.record(f"task:{task_id}", "evaluation_resumed", {"note": note})


def conclude(here: TaskContext, store: Store, frozen: Sequence[Frozen], opened: Sequence[CaseRow], place: Path) -> None:
    """Take an evaluation whose test set is open to its end; what holds test images or predictions of them is written below a place."""
    task_id, final = here.task.id, here.folder.final
    ready = _with_gpus(here, store)
    try:
        with one_interruption(final):
            store.set_phase(task_id, "predicting the test images")
            view = open_view(here, opened, place)
            reach("finalize:opened")
            for model in frozen:
                predict_test(ready, model, view)
    finally:
        remove_tree(place / "view")
        leases.release_after_evaluation(store, ready)
    store.set_phase(task_id, "scoring")
    outcome = score(here, store, frozen, view)
    reach("finalize:scored")
    store.set_phase(task_id, "writing the report")
    delivered = delivery.deliver(here, store, frozen, outcome)
    reach("finalize:report_written")
    result = {"outcome": "ok", **delivered.result}
    store.end_evaluation(task_id, "evaluated", result, {"report_sha256": delivered.report_sha256})
    _seal(store, task_id, here.folder.report)


def end_invalid(store: Store, here: TaskFolder, task_id: str, fault: Exception) -> None:
    """End a task whose test set was opened and cannot be scored; the cause is kept for the clinician."""
    write_atomic(here.final / "failure.txt", str(fault))
    message = "The evaluation could not be completed; the clinician finds the cause on the server."
    store.end_evaluation(task_id, "invalid", {"outcome": "invalid", "message": message}, {})


def _with_gpus(here: TaskContext, store: Store) -> TaskContext:
    return leases.hold_for_evaluation(store, here, [run for _, run in _models(here, store)])


def _seal(store: Store, task_id: str, folder: Path) -> None:
    seal_report(folder, [report.LedgerRow(**row._asdict()) for row in store.ledger(f"task:{task_id}")])
    reach("finalize:sealed")


# freeze and rehearse ---------------------------------------------------------------------------------------------


def _prepare(here: TaskContext, store: Store) -> list[Frozen]:
    """Freeze both models and rehearse them; the test set is not touched."""
    store.set_phase(here.task.id, "freezing copies of the accepted model and the baseline")
    frozen = _freeze(here, store)
    reach("finalize:frozen")
    store.set_phase(here.task.id, "rehearsing on validation images")
    for model in frozen:
        _rehearse(here, model)
    return frozen


def _models(here: TaskContext, store: Store) -> list[tuple[Model, RunRow]]:
    baseline = store.baseline(here.task.id)
    accepted = store.run(here.task.id, here.task.final_run or "")
    if baseline is None:
        raise _RehearsalFailed("There is no baseline.")
    return [("initial", baseline), ("refined", accepted)]


def _freeze(here: TaskContext, store: Store) -> list[Frozen]:
    """Copy code and checkpoint of both models to where no run can write, and hash the copies."""
    workspace = Workspace(here.folder.workspace, here.folder.revisions)
    frozen: list[Frozen] = []
    for model, run in _models(here, store):
        target = here.folder.final / model
        remove_tree(target)
        target.mkdir(parents=True, mode=0o700)
        workspace.export(run.revision, target / "code")
        shutil.copyfile(here.folder.run(run.name).checkpoint, target / "checkpoint")
        (target / "checkpoint").chmod(0o644)
        frozen.append(
            Frozen(model, run.name, target, workspace.tree_digest(run.revision), sha256_file(target / "checkpoint"))
        )
    return frozen


def read_frozen(here: TaskContext, store: Store) -> list[Frozen]:
    """Return the frozen copies, checked against the ledger.

    Raises:
        Invalid: a copy is not what was frozen.
    """
    sealed = next(row.detail for row in store.ledger(f"task:{here.task.id}") if row.event in ("frozen", "unsealing"))
    frozen = [
        Frozen(model, facts["run"], here.folder.final / model, facts["tree_sha256"], facts["checkpoint_sha256"])
        for model in _MODELS
        for facts in [sealed[model]]
    ]
    for model in frozen:
        if sha256_file(model.folder / "checkpoint") != model.checkpoint_sha256:
            raise Invalid(f"the frozen checkpoint of {model.model} has changed")
        if digest_of(model.folder / "code") != model.tree_sha256:
            raise Invalid(f"the frozen code of {model.model} has changed")
    return frozen


def end_jobs(here: TaskContext) -> None:
    """End the sandboxes that a process that died has left of this evaluation."""
    for model in _MODELS:
        for name in ("rehearsal", "test", "audit"):
            here.sandbox.stop(job_name(here, model, name))


def _rehearse(here: TaskContext, model: Frozen) -> None:
    """Predict a few validation images with the frozen copy, under new names: they must get what they got when the run was scored."""
    cases = {case.case_id: case for case in here.val_cases}
    known = service.read_predictions(here.folder.run(model.run).predictions, scheme=here.scheme, expected=list(cases))
    chosen = sorted(known)[:CANARIES]
    view = here.folder.final / "rehearsal"
    remove_tree(view)
    names = {case_id: secrets.token_hex(6) for case_id in chosen}
    prepare_predict_view([cases[case_id] for case_id in chosen], view, new_ids=names)
    ending = predict(here, model, view, "rehearsal", model.folder)
    remove_tree(view)
    if ending is not None:
        raise _RehearsalFailed(f"predict.py of {model.run} failed on validation images: {ending}")
    try:
        again = service.read_predictions(
            model.folder / "rehearsal" / PREDICTIONS, scheme=here.scheme, expected=list(names.values())
        )
    except BadPredictions as failure:
        raise _RehearsalFailed(f"predict.py of {model.run} wrote invalid predictions: {failure}") from failure
    tolerance = service.TOLERANCES[here.scheme.task_type]
    if (largest := largest_difference(here.scheme, known, again, names)) > tolerance:
        raise _RehearsalFailed(
            f"predict.py of {model.run} is not reproducible: on {len(chosen)} validation images a probability differs by {largest:.3g} from the "
            f"run's own predictions (allowed {tolerance:g}); make it deterministic and independent of the names, the order and the number of images."
        )
