"""A server that dies: does one thing as a tool call would, then stays. `python victim.py SERVICES init|full|finalize|recover|ACT TASK`, ACT of ACTS.

SERVICES is the JSON of `launch_settings`. Where it dies, and who with it, is said by CLINLOOP_FAILPOINT.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from clinloop import clinician, evaluation, runs, tasks
from clinloop.services import Services
from clinloop.settings import Settings
from clinloop.spec import TaskSpec

REQUEST = "Tell these three kinds of moles apart for me, please."


def init(services: Services) -> str:
    """Create the task that every call of this creates."""
    spec = TaskSpec(objective="Tell three kinds of moles apart.", budget="demo")
    return tasks.create(services, dataset_name="moles", request=REQUEST, spec=spec).id


WHY = "It is worth it."
ACTS: dict[str, Callable[[Services, str], object]] = {
    "confirmed": lambda services, task: clinician.confirm_spec(services, task, changes={"budget": "quick"}),
    "declined": lambda services, task: clinician.decline_spec(services, task, WHY),
    "asked": lambda services, task: evaluation.start(services, task, "run0"),
    "approved": lambda services, task: clinician.answer_finalize(services, task, approved=True),
    "refused": lambda services, task: clinician.answer_finalize(services, task, approved=False, why=WHY),
    "chosen": lambda services, task: clinician.choose_run(services, task, "run0"),
    "paused": lambda services, task: clinician.set_paused(services, task, True),
    "resumed": lambda services, task: clinician.set_paused(services, task, False),
    "stopped": lambda services, task: clinician.stop_run(services, task, "run0", WHY),
    "extended": lambda services, task: clinician.extend_budget(services, task, 2, WHY),
    "note": lambda services, task: clinician.write_note(services, task, WHY),
}
"""What a clinician does, by the name of its failpoint."""


def main(launch_settings: str, what: str, task: str) -> None:
    """Do it."""
    given = json.loads(launch_settings)
    services = Services(Settings.model_validate(given["settings"]), given["accept_no_isolation"])
    if what == "init":
        init(services)
    elif what == "full":
        runs.start(services, task, mode="full", hypothesis="It is worth trying because nothing else was tried.")
    elif what == "finalize":
        incumbent = services.store.incumbent(task)
        evaluation.start(services, task, incumbent.name if incumbent else "")
    elif what in ACTS:
        ACTS[what](services, task)
    else:
        runs.recover(services, task)
    print("done", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
