"""What an agent does after it has read validation, and the end of a log, from which that sometimes follows."""

from __future__ import annotations

import re

from clinloop.beneath import Beneath
from clinloop.errors import BadInput
from clinloop.services import Services
from clinloop.store.questions import UNFINISHED
from clinloop.store.rows import RunRow
from clinloop.untrusted import clean_log
from clinloop_tools.replies import TaskFacts

LOG_CAP = 5_000
"""Characters of a log in one reply."""


def read_log(services: Services, run: RunRow, phase: str) -> str:
    """Return the end of a run's log, cleaned; empty while there is none."""
    folder = services.state.task(run.task_id).run(run.name)
    try:
        with Beneath(folder.root) as root:
            return clean_log(root.read_tail(folder.log(phase).name, cap=64 << 10), cap=LOG_CAP)
    except BadInput:
        return ""


def missing_module(services: Services, run: RunRow | None) -> str:
    """Return what to do about an import that failed for want of a package, or an empty text."""
    if run is None or run.status != "failed" or "crash" not in run.end_reason:
        return ""
    log = read_log(services, run, "predict" if "predict" in run.end_reason else "train")
    found = re.findall(r"^ModuleNotFoundError: No module named '([A-Za-z0-9_.]{1,80})'", log, flags=re.MULTILINE)
    if not found:
        return ""
    image = run.facts.get("image", "")
    return (
        f"There is no module {found[-1]!r} in the workspace or in the sandbox image {image!r}, and nothing can be installed from inside: do "
        "without it (inspect_dataset(view='packages') lists what there is), or ask the custodian to add its package with "
        f"`clinloop images build {image} --with PACKAGE==VERSION`. Then smoke-test before the next full run."
    )


def next_step_after(facts: TaskFacts, run: RunRow | None, incumbent: RunRow | None, missing: str) -> str:
    task, budget = facts.task, facts.budget
    if run and run.is_active:
        return f"Call read_validation(task_id='{task.id}', run='{run.name}', since=<cursor>) again until it has ended."
    if task.status not in UNFINISHED:
        return f"The task is {task.status}; finalize(task_id='{task.id}', run='{task.final_run}') returns its result."
    if run is None:
        return f"Start the baseline: run_training(task_id='{task.id}')."
    if missing:
        return missing
    if run.status == "failed":
        phase = ", log='predict'" if "predict" in run.end_reason else ""
        return (
            f"See read_validation(task_id='{task.id}', run='{run.name}', view='log'{phase}) for the cause, correct it with edit_workspace, "
            "and smoke-test it before the next full run."
        )
    if run.status in ("stopped", "lost"):
        return "Start it again with run_training when it is still wanted."
    if run.mode == "smoke":
        return "The smoke test passed: start the full run with a hypothesis."
    if budget.runs_left == 0:
        final = f"finalize(task_id='{task.id}', run='{incumbent.name}')" if incumbent else "init_task for a new task"
        return f"The budget is used: call {final}. Clients that ask for approval will ask for it here."
    if run.reason == "needs_confirmation":
        return (
            f"{run.name} passed and waits for its confirmation: run the same code again, run_training(task_id='{task.id}', "
            f"revision='{run.revision}') with the same hypothesis; another seed is used by itself."
        )
    if incumbent is None:
        return "Form the next hypothesis from views 'scores', 'curve' and 'errors', edit, smoke-test, and run it."
    restore = (
        ""
        if run.name == incumbent.name
        else f" The incumbent's code comes back with edit_workspace(operation='restore', revision='{incumbent.revision}')."
    )
    return (
        "Form the next hypothesis from views 'scores', 'curve' and 'errors', edit, smoke-test, run; or finalize with the incumbent, "
        f"finalize(task_id='{task.id}', run='{incumbent.name}').{restore}"
    )
