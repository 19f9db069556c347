"""The evaluation of a task: freeze -> rehearse -> unseal -> predict -> score -> report -> end. The test set is opened once.

A crash before `unsealing` starts over; a crash after it is recorded, and resumed with the same frozen copies, at most once.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from clinloop import context, delivery, execution, leases, runs
from clinloop.context import TaskContext
from clinloop.datasets import vault
from clinloop.datasets.pictures import prepare_predict_view
from clinloop.delivery import Frozen, Model, Outcome
from clinloop.errors import BadInput, BadPredictions, NotNow
from clinloop.failpoints import reach
from clinloop.files import remove_tree, sha256_file, write_atomic
from clinloop.paths import StateFolder
from clinloop.report import data as report
from clinloop.report.write import seal_report
from clinloop.scoring import service
from clinloop.services import Services
from clinloop.store.rows import RunRow
from clinloop.store.store import Store
from clinloop.workspace import Workspace

CANARIES = 32
"""Validation images mixed into the test images: they must get the predictions that they got on validation."""
ORDER_AUDIT_CASES = 48
"""Cases that are predicted again under other names and in another order."""
TOLERANCE = 1e-3
"""Largest difference of a probability that counts as the same prediction; batching alone changes the last bits."""
ATTEMPTS = 2
"""How often the test predictions of one model are tried, the first included."""

_MODELS: tuple[Model, ...] = ("initial", "refined")
_log = logging.getLogger(__name__)


class _RehearsalFailed(Exception):
    """Something that the agent can correct, found before the test set was touched."""


class _Invalid(Exception):
    """The evaluation cannot be completed after the test set was touched; the text is for the record, not for the agent."""


def start(services: Services, task_id: str, run_name: str) -> None:
    """Close a task and launch its evaluation; a task whose evaluation has started or ended is left alone.

    Raises:
        BadInput: `run_name` is not the incumbent; the text names it.
        NotNow: there is no accepted run, or a run is active.
    """
    task = services.store.task(task_id)
    if task.status == "open":
        incumbent = services.store.incumbent(task_id)
        if incumbent is None:
            raise NotNow(
                f"Task {task_id} has no accepted run, so there is no model to score; start the baseline with run_training first."
            )
        if run_name != incumbent.name:
            raise BadInput(
                f"run {run_name!r} is not the incumbent; the accepted model is {incumbent.name}: call finalize with run='{incumbent.name}'."
            )
        services.record_standing(task)
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
        elif isinstance(fault, _Invalid | BadPredictions):
            write_atomic(StateFolder(state).task(task_id).final / "failure.txt", str(fault))
            message = "The evaluation could not be completed; the clinician finds the cause on the server."
            store.end_evaluation(task_id, "invalid", {"outcome": "invalid", "message": message}, {})
        else:
            # The test set is open, so there is no way back: the supervisor tries again, and so does whoever asks for the result later.
            store.set_phase(task_id, f"waiting to try again. Cause: {context.explain(fault)}")
            raise


def _evaluate(store: Store, here: TaskContext) -> None:
    task_id, final = here.task.id, here.folder.final
    for model in _MODELS:
        for name in ("rehearsal", "test", "audit"):
            here.sandbox.stop(_job_name(here, model, name))  # of a supervisor that died
    here = leases.hold_for_evaluation(store, here, [run for _, run in _models(here, store)])
    if here.task.status == "evaluating":
        frozen = _prepare(here, store)
        store.unseal(
            task_id,
            {
                model.model: {
                    "run": model.run,
                    "tree_sha256": model.tree_sha256,
                    "checkpoint_sha256": model.checkpoint_sha256,
                }
                for model in frozen
            },
        )
    else:
        note = "the evaluation was interrupted after the test set was unsealed"
        store.record(f"task:{task_id}", "evaluation_resumed", {"note": note})
        frozen = _frozen(here, store)
    try:
        with _one_interruption(final):
            store.set_phase(task_id, "predicting the test images")
            view = _open_view(here)
            reach("finalize:opened")
            for model in frozen:
                _predict_test(here, model, view)
    finally:
        remove_tree(final / "view")
        leases.release_after_evaluation(store, here)
    store.set_phase(task_id, "scoring")
    outcome = _score(here, store, frozen, view)
    reach("finalize:scored")
    store.set_phase(task_id, "writing the report")
    delivered = delivery.deliver(here, store, frozen, outcome)
    reach("finalize:report_written")
    result = {"outcome": "ok", **delivered.result}
    store.end_evaluation(task_id, "evaluated", result, {"report_sha256": delivered.report_sha256})
    _seal(store, task_id, here.folder.report)


def _seal(store: Store, task_id: str, folder: Path) -> None:
    seal_report(folder, [report.LedgerRow(**row._asdict()) for row in store.ledger(f"task:{task_id}")])
    reach("finalize:sealed")


@contextmanager
def _one_interruption(final: Path) -> Generator[None]:
    """Let a kill cut the prediction of the test images off once, not twice; a fault that is caught here does not count.

    Raises:
        _Invalid: it was cut off twice.
    """
    marker, spent = final / "predicting", final / "interrupted"
    if marker.exists():
        if spent.exists():
            raise _Invalid("interrupted twice while the test images were predicted")
        marker.rename(spent)
    write_atomic(marker, "")
    try:
        yield
    finally:
        marker.unlink(missing_ok=True)  # needs no room on a full disk


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


def _frozen(here: TaskContext, store: Store) -> list[Frozen]:
    """Return the frozen copies of an interrupted evaluation, checked against the ledger."""
    sealed = next(row.detail for row in store.ledger(f"task:{here.task.id}") if row.event == "unsealing")
    frozen = [
        Frozen(model, facts["run"], here.folder.final / model, facts["tree_sha256"], facts["checkpoint_sha256"])
        for model in _MODELS
        for facts in [sealed[model]]
    ]
    for model in frozen:
        if sha256_file(model.folder / "checkpoint") != model.checkpoint_sha256:
            raise _Invalid(f"the frozen checkpoint of {model.model} has changed")
    return frozen


def _rehearse(here: TaskContext, model: Frozen) -> None:
    """Predict a few validation images with the frozen copy, under new names: they must get what they got when the run was scored."""
    known = service.read_probabilities(here.folder.run(model.run).predictions, here.classes)
    chosen = sorted(known)[:CANARIES]
    view = here.folder.final / "rehearsal"
    known_cases = {case.case_id: case for case in here.dataset.cases("val")}
    remove_tree(view)
    names = {case_id: secrets.token_hex(6) for case_id in chosen}
    prepare_predict_view([known_cases[case_id] for case_id in chosen], view, new_ids=names)
    ending = _predict(here, model, view, "rehearsal")
    remove_tree(view)
    if ending is not None:
        raise _RehearsalFailed(f"predict.py of {model.run} failed on validation images: {ending}")
    try:
        again = service.read_probabilities(
            model.folder / "rehearsal" / "predictions.csv", here.classes, expected=list(names.values())
        )
    except BadPredictions as failure:
        raise _RehearsalFailed(f"predict.py of {model.run} wrote invalid predictions: {failure}") from failure
    if (largest := _largest_difference(known, again, names)) > TOLERANCE:
        raise _RehearsalFailed(
            f"predict.py of {model.run} is not reproducible: on {len(chosen)} validation images a probability differs by {largest:.3g} from the "
            f"run's own predictions (allowed {TOLERANCE:g}); make it deterministic and independent of the names, the order and the number of images."
        )


# the test set ----------------------------------------------------------------------------------------------------


class _View(NamedTuple):
    """The test images mixed with canaries, and a smaller view with other names for the order audit."""

    folder: Path
    audit_folder: Path
    names: dict[str, dict[str, str]]
    """{"test" | "canary" | "audit": {name in the view: case id}}; for "audit": {name in the audit view: name in the view}."""


def _open_view(here: TaskContext) -> _View:
    """Write the test images under random names; the names are kept, so that a resumed evaluation finds the same ones."""
    final = here.folder.final
    names_file = final / "names.json"
    folder, audit_folder = final / "view" / "all", final / "view" / "audit"
    test = {case.case_id: case for case in vault.open_test(here.dataset.folder) if case.label in here.classes}
    if names_file.exists():
        names = json.loads(names_file.read_text(encoding="utf-8"))
    else:
        canaries = [case.case_id for case in here.dataset.cases("val") if case.label in here.classes]
        canaries = sorted(canaries, key=lambda _: secrets.randbits(64))[:CANARIES]
        names = {
            "test": {secrets.token_hex(6): case_id for case_id in test},
            "canary": {secrets.token_hex(6): case_id for case_id in canaries},
        }
        everything = sorted([*names["test"], *names["canary"]], key=lambda _: secrets.randbits(64))
        names["audit"] = {secrets.token_hex(6): name for name in everything[:ORDER_AUDIT_CASES]}
        write_atomic(names_file, json.dumps(names))
    known = test | {case.case_id: case for case in here.dataset.cases("val")}
    case_ids = names["test"] | names["canary"]
    remove_tree(final / "view")
    (final / "view").mkdir(mode=0o700)
    new_ids = {case_id: name for name, case_id in case_ids.items()}
    prepare_predict_view([known[case_id] for case_id in new_ids], folder, new_ids=new_ids)
    audited = {case_ids[name]: other for other, name in names["audit"].items()}
    prepare_predict_view([known[case_id] for case_id in audited], audit_folder, new_ids=audited)
    return _View(folder, audit_folder, names)


def _predict_test(here: TaskContext, model: Frozen, view: _View) -> None:
    """Predict both views in fresh sandboxes, unless that was done before an interruption."""
    for folder, name in ((view.folder, "test"), (view.audit_folder, "audit")):
        failures: list[str] = []
        while not _is_predicted(model, name):
            if len(failures) == ATTEMPTS:
                raise _Invalid(f"predict.py of {model.run} failed on the test images: {'; '.join(failures)}")
            failure = _predict(here, model, folder, name)
            if failure is None:
                _done_file(model, name).touch()
                reach("finalize:predicted")
            else:
                failures.append(failure)


def _is_predicted(model: Frozen, name: str) -> bool:
    """Tell whether a view was predicted to the end; a file alone may be half of one."""
    return _done_file(model, name).exists()


def _done_file(model: Frozen, name: str) -> Path:
    return model.folder / f"{name}.done"


def _predict(here: TaskContext, model: Frozen, view: Path, name: str) -> str | None:
    """Run predict.py of a frozen model on a view; None when it completed, else how it failed. Of its /out only the predictions stay."""
    out = model.folder / name
    ending = execution.predict(
        here,
        name=_job_name(here, model.model, name),
        code=model.folder / "code",
        checkpoint=model.folder / "checkpoint",
        view=view,
        out=out,
        session=model.folder / f"session-{name}",
        log=model.folder / f"log-{name}.txt",
    )
    for path in out.iterdir():  # whatever else it left may be copies of test images
        if path.name != "predictions.csv":
            remove_tree(path)
    return None if ending.reason == "completed" else ending.message


def _job_name(here: TaskContext, model: Model, name: str) -> str:
    return f"{here.task.id}-final-{model}-{name}"


# scores ----------------------------------------------------------------------------------------------------------


def _score(here: TaskContext, store: Store, frozen: list[Frozen], view: _View) -> Outcome:
    test = {case.case_id: case for case in vault.open_test(here.dataset.folder)}
    truth = [(name, test[case_id].group, test[case_id].label) for name, case_id in view.names["test"].items()]
    issued = [*view.names["test"], *view.names["canary"]]
    tables: dict[Model, bytes] = {}
    canaries: dict[Model, report.CanaryCheck] = {}
    order: dict[Model, report.OrderAudit] = {}
    for model in frozen:
        everything = service.read_probabilities(
            model.folder / "test" / "predictions.csv", here.classes, expected=issued
        )
        audited = service.read_probabilities(
            model.folder / "audit" / "predictions.csv", here.classes, expected=list(view.names["audit"])
        )
        known = service.read_probabilities(here.folder.run(model.run).predictions, here.classes)
        differences = [
            _largest_difference(known, everything, {case_id: name}) for name, case_id in view.names["canary"].items()
        ]
        canaries[model.model] = report.CanaryCheck(
            model=model.model,
            n=len(differences),
            agreeing=sum(value <= TOLERANCE for value in differences),
            largest_difference=max(differences, default=0.0),
        )
        largest = _largest_difference(everything, audited, {name: other for other, name in view.names["audit"].items()})
        order[model.model] = report.OrderAudit(
            model=model.model,
            ok=largest <= TOLERANCE,
            detail=f"{len(audited)} cases were predicted again under other names and in another order; largest difference {largest:.2g}.",
        )
        tables[model.model] = service.probabilities_csv(
            {name: everything[name] for name in view.names["test"]}, here.classes
        )
    spec = here.task.spec
    points = {
        model.model: (store.run(here.task.id, model.run).scores or {}).get("operating_points", {}) for model in frozen
    }
    final = service.final_scores(
        tables["initial"],
        tables["refined"],
        truth,
        classes=here.classes,
        metrics=list(spec.reported_metrics),
        operating_points_initial=points["initial"],
        operating_points_refined=points["refined"],
        seed=here.task.seed,
        unit=here.dataset.group_kind,
    )
    counts = {name: sum(label == name for _, _, label in truth) for name in here.classes}
    return Outcome(final, truth, tables, canaries, order, counts)


def _largest_difference(
    first: dict[str, tuple[float, ...]], second: dict[str, tuple[float, ...]], names: dict[str, str]
) -> float:
    """Return the largest absolute difference of a probability between first[name] and second[names[name]]."""
    return max(
        (abs(a - b) for one, other in names.items() for a, b in zip(first[one], second[other], strict=True)),
        default=0.0,
    )
