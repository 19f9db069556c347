"""A process that ends badly while it writes: `python doomed.py STATE inside|endless|full`.

inside    kills itself with SIGKILL in the middle of a transaction that has charged a run but not queued it
endless   goes from task to task and run to run until somebody kills it; prints a line before it begins
full      may write no file beyond 1 MiB and tries to; prints the error
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
from pathlib import Path

from clinloop.errors import NotNow
from clinloop.spec import TaskSpec
from clinloop.store import ledger
from clinloop.store.database import Database, utc_now
from clinloop.store.store import Store


def inside(state: Path) -> None:
    with Database(state).transaction() as connection:
        ledger.append(connection, "task:t", "reserved", at=utc_now(), resource="run", amount=-1, run="run0")
        os.kill(os.getpid(), signal.SIGKILL)


def endless(state: Path) -> None:
    store = Store(state)
    print("ready", flush=True)
    for n in itertools.count():
        task_id = f"{os.getpid()}-{n}"
        store.create_task(
            task_id=task_id,
            dataset="skin",
            request="Tell melanoma from nevus.",
            spec=TaskSpec(objective="Tell melanoma from nevus."),
            template="classification",
            seed=0,
            settings={},
            init_key=task_id,
        )
        store.open_task(task_id)
        for attempt in range(4):
            run, _ = store.reserve_run(
                task_id=task_id,
                mode="full",
                request_id=str(attempt),
                revision="r1",
                tree_sha256="",
                hypothesis="",
                inputs=[],
            )
            store.settle_run(task_id, run.name, "lost", end_reason="server_fault", message="")


def full(state: Path) -> None:
    store = Store(state)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        store.record("dataset:skin", "noted", {"text": "x" * (10 << 20)})
    except NotNow as error:
        print(type(error).__name__, error)


if __name__ == "__main__":
    {"inside": inside, "endless": endless, "full": full}[sys.argv[2]](Path(sys.argv[1]))
