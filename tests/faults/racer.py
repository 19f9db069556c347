"""One of several processes that do the same thing at the same moment: `python racer.py STATE finalize|smoke TASK AT NUMBER`.

Prints one JSON list: ["evaluating"] for finalize; [run, name of the refusal, is new] for smoke.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from clinloop import evaluation, runs
from clinloop.errors import Refusal
from clinloop.services import Services
from clinloop.settings import load_settings


def race(state: str, what: str, task: str, at: str, number: str) -> list[object]:
    """Wait for the moment, then do it."""
    services = Services(load_settings(Path(state), sandbox="none"), accept_no_isolation=True)
    services.store.task(task)
    time.sleep(max(0.0, float(at) - time.time()))
    if what == "finalize":
        evaluation.start(services, task, "run0")
        return [services.store.task(task).status]
    try:
        started = runs.start(services, task, mode="smoke", request_id=f"racer-{number}")
    except Refusal as refusal:
        return ["", type(refusal).__name__, False]
    return [started.run.name, "", started.is_new]


if __name__ == "__main__":
    print(json.dumps(race(*sys.argv[1:])))
