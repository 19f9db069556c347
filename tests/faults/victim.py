"""A server that dies: does one thing as a tool call would, then stays. `python victim.py SERVICES init|full|finalize|recover TASK`.

SERVICES is the JSON of `launch_settings`. Where it dies, and who with it, is said by CLINLOOP_FAILPOINT.
"""

from __future__ import annotations

import json
import sys
import time

from clinloop import evaluation, runs, tasks
from clinloop.services import Services
from clinloop.settings import Settings
from clinloop.spec import TaskSpec

REQUEST = "Tell these three kinds of moles apart for me, please."


def init(services: Services) -> str:
    """Create the task that every call of this creates."""
    spec = TaskSpec(objective="Tell three kinds of moles apart.", budget="demo")
    return tasks.create(services, dataset_name="moles", request=REQUEST, spec=spec).id


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
    else:
        runs.recover(services, task)
    print("done", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
