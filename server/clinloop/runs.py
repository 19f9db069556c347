"""Runs as a server sees them: reserve and launch, stop, recover. It owns none: each run belongs to its supervisor."""

from __future__ import annotations

import logging
import secrets
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from clinloop import context, memory, supervisor
from clinloop.errors import BadInput, NotNow, SandboxUnavailable
from clinloop.sandbox import backends
from clinloop.sandbox import gpus as devices
from clinloop.services import Services
from clinloop.store.questions import UNFINISHED
from clinloop.store.rows import Mode, RunRow, TaskRow
from clinloop.workspace import Workspace

ROOM = "room"
"""Folder in memory, below `final`, where a sealed test set is opened."""
_log = logging.getLogger(__name__)


class Started(NamedTuple):
    """Outcome of a start."""

    run: RunRow
    is_new: bool
    """False when the same start was made before, so nothing was charged again."""


def start(
    services: Services,
    task_id: str,
    *,
    mode: Mode,
    hypothesis: str = "",
    request_id: str = "",
    revision: str = "",
    inputs: list[str] | None = None,
    gpus: int | None = None,
) -> Started:
    """Reserve one unit of budget for a revision (default: the newest) and launch its supervisor.

    The baseline, run0, always trains the initial revision, unless a baseline of it has failed.

    Raises:
        BadInput: no hypothesis, inputs that are no ended runs, or more GPUs than a run may have.
        NotNow, BudgetExceeded, Unknown, SandboxUnavailable: as their texts say. NotNow also when the run was reserved and could not
            be launched (a full disk): it is launched by the next `recover`.
    """
    task = services.store.task(task_id)
    recover(services, task_id)
    backends.choose(
        services.settings,
        image=context.image_of(services.settings, task),
        accept_no_isolation=services.accept_no_isolation,
    )
    folder = services.state.task(task_id)
    workspace = Workspace(folder.workspace, folder.revisions)
    known = services.store.runs(task_id)
    if (repeated := next((run for run in known if request_id and run.request_id == request_id), None)) is not None:
        return Started(repeated, False)
    services.store.require_open(task_id)
    ended = [run for run in known if run.mode == "full" and not run.is_active and run.counts]
    chosen = workspace.snapshot() if not revision else workspace.revision(revision)
    if mode == "full" and not ended:
        chosen = workspace.revision("r1")
        hypothesis = hypothesis or "The baseline: the initial workspace, unchanged."
    if mode == "full" and len(hypothesis.strip()) < 10:
        raise BadInput(
            "A full run needs a hypothesis: say in a sentence of at least 10 characters why this change should help."
        )
    _check_inputs(services, task_id, mode, inputs or [])
    number = _count_gpus(services, gpus)
    services.record_standing(task)
    run, is_new = services.store.reserve_run(
        task_id=task.id,
        mode=mode,
        request_id=request_id or f"auto-{secrets.token_hex(8)}",
        revision=chosen.name,
        tree_sha256=workspace.tree_digest(chosen.name),
        hypothesis=hypothesis.strip()[:2000],
        inputs=list(dict.fromkeys(inputs or [])),
        gpus=number,
        joins=not request_id,
    )
    if is_new:
        _launch(services, task_id, run.name)
    return Started(run, is_new)


def stop(services: Services, task_id: str, name: str) -> RunRow:
    """Ask a run to stop; the run stays recorded and its unit stays charged.

    Raises:
        NotNow: the run has ended.
    """
    _require_active(services, task_id, name)
    services.store.request_stop(task_id, name)
    recover(services, task_id)
    return services.store.run(task_id, name)


def stop_by_person(services: Services, task_id: str, name: str, *, by: str, why: str) -> RunRow:
    """Ask a run to stop in a person's name, which its end, its ledger and its agent are told.

    Raises:
        NotNow: the run has ended, or is being stopped.
    """
    _require_active(services, task_id, name)
    services.store.stop_by_person(task_id, name, by=by, why=why)
    recover(services, task_id)
    return services.store.run(task_id, name)


def _require_active(services: Services, task_id: str, name: str) -> None:
    run = services.store.run(task_id, name)
    if not run.is_active:
        raise NotNow(f"{name} has ended ({run.status}); there is nothing to stop.")


def recover(services: Services, task_id: str | None = None) -> list[str]:
    """Launch a supervisor for every active run and open evaluation that has none; returns what was recovered.

    A supervisor that lives holds its folder's lock, so launching one too many is harmless. One that cannot be launched is logged and
    left to the next call: what can be read is worth more to the caller.
    """
    owed = [(run.task_id, run.name) for run in services.store.active_runs()]
    tasks = services.store.tasks() if task_id is None else [services.store.task(task_id)]
    owed += [(task.id, "finalize") for task in tasks if _owes_evaluation(services, task)]
    recovered: list[str] = []
    for owner, what in owed:
        if task_id in (None, owner) and not supervisor.is_alive(_folder(services, owner, what)):
            try:
                _launch(services, owner, what)
            except NotNow:
                _log.exception("could not recover %s of %s", what, owner)
            else:
                recovered.append(f"{owner}/{what}")
    return recovered


def _owes_evaluation(services: Services, task: TaskRow) -> bool:
    """Tell whether an evaluation is open, or was killed between its end and the seal of its report."""
    folder = services.state.task(task.id).report
    is_unsealed_report = (folder / "report.json").exists() and not (folder / "seal.json").exists()
    if task.status not in (*UNFINISHED, "evaluating", "declined") and services.seal(task.dataset).is_sealed:
        final = services.state.task(task.id).final
        if not supervisor.is_alive(final):
            with suppress(OSError, subprocess.SubprocessError):
                memory.clear_room(final / ROOM)  # of an unsealing that was killed, be it right after its end
        if task.status in ("awaiting_unseal", "unsealed"):
            return False  # only who holds the key can carry it on
    return task.status in ("evaluating", "unsealed") or (task.status == "evaluated" and is_unsealed_report)


def _launch(services: Services, task_id: str, what: str) -> None:
    try:
        supervisor.launch(
            _folder(services, task_id, what),
            state=services.settings.state,
            task_id=task_id,
            what=what,
            launch_settings=services.launch_settings,
        )
    except OSError as error:
        raise NotNow(
            f"{what} is recorded, but its process could not be started ({error.strerror}). Tell the custodian; read_validation starts it "
            "as soon as that works."
        ) from error


def _folder(services: Services, task_id: str, what: str) -> Path:
    task = services.state.task(task_id)
    return task.final if what == "finalize" else task.run(what).root


def _check_inputs(services: Services, task_id: str, mode: Mode, inputs: list[str]) -> None:
    """Refuse inputs that are no succeeded runs; a full run takes none from smoke tests, which would be free training time."""
    succeeded = [run for run in services.store.runs(task_id) if run.status == "succeeded"]
    usable = [run.name for run in succeeded if mode == "smoke" or run.mode == "full"]
    if wrong := [name for name in inputs if name not in usable]:
        kind = "succeeded runs" if mode == "smoke" else "succeeded full runs"
        raise BadInput(f"inputs: {wrong} are not {kind} of this task; valid: {', '.join(usable) or 'none yet'}.")


def _count_gpus(services: Services, asked: int | None) -> int:
    """Return how many GPUs a run gets: what it asked for, else the default."""
    found = devices.find(services.settings)
    default, most = devices.per_run(services.settings, found), devices.most_per_run(services.settings, found)
    if asked is not None and asked > most:
        here = f"clinloop may use {len(found.gpus)} GPUs on this machine" if found.gpus else "there is no GPU here"
        raise BadInput(
            f"gpus: {asked} are too many; a run may have {most} ({here}; the custodian sets `gpus_per_run_max`). Default: {default}."
        )
    number = default if asked is None else asked
    if number > len(found.gpus):
        raise SandboxUnavailable(
            f"The custodian's settings give a run {number} GPUs, but clinloop may use {len(found.gpus)} here. {found.problem} "
            "Tell the custodian: `clinloop doctor` shows what there is; or start with gpus=0."
        )
    return number
