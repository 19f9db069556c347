"""One operation on the store by many processes at once: `python crowd.py STATE ACTION PROCESSES TRIES`.

Prints what each process saw, try by try, as JSON. A program of its own, so that it forks before there are threads.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from clinloop.errors import NotNow, Refusal
from clinloop.spec import TaskSpec
from clinloop.store.rows import RunRow
from clinloop.store.store import Store


class Turn(NamedTuple):
    """One try of one process."""

    state: Path
    process: int
    attempt: int


def _reserve(turn: Turn, task_id: str, **changes: Any) -> tuple[RunRow, bool]:
    values: dict[str, Any] = {
        "mode": "full",
        "request_id": f"{turn.process}-{turn.attempt}",
        "revision": "r1",
        "tree_sha256": f"tree {turn.process}-{turn.attempt}",
        "hypothesis": "a sharper image should help",
        "inputs": [],
    }
    return Store(turn.state).reserve_run(task_id=task_id, **(values | changes))


def spend_run(turn: Turn) -> str:
    """Take a unit of task t; while another process's run is active, ask again."""
    while True:
        try:
            run, is_new = _reserve(turn, "t")
        except NotNow:
            continue
        assert is_new
        assert Store(turn.state).settle_run("t", run.name, "failed", end_reason="crash", message="")
        return run.name


def spend_error_view(turn: Turn) -> str:
    Store(turn.state).spend_error_view("t", {"process": turn.process})
    return "shown"


def record(turn: Turn) -> str:
    return Store(turn.state).record("dataset:skin", "noted", {"process": turn.process, "attempt": turn.attempt})


def start_other_tree(turn: Turn) -> str:
    run, is_new = _reserve(turn, f"t{turn.attempt}")
    return f"{run.name} {'new' if is_new else 'old'}"


def start_same_request(turn: Turn) -> str:
    run, is_new = _reserve(turn, f"t{turn.attempt}", request_id="the same", tree_sha256="the same")
    return f"{run.name} {'new' if is_new else 'old'}"


def start_same_tree(turn: Turn) -> str:
    run, is_new = _reserve(turn, f"t{turn.attempt}", tree_sha256="the same")
    return f"{run.name} {'new' if is_new else 'old'}"


def settle_lost(turn: Turn) -> str:
    settled = Store(turn.state).settle_run(f"t{turn.attempt}", "run0", "lost", end_reason="server_fault", message="")
    return str(settled)


def create_task(turn: Turn) -> str:
    task, is_new = Store(turn.state).create_task(
        task_id=f"t{turn.attempt}-{turn.process}",
        dataset="skin",
        request="Tell melanoma from nevus.",
        spec=TaskSpec(objective="Tell melanoma from nevus."),
        template="classification",
        seed=0,
        settings={},
        init_key=f"key {turn.attempt}",
    )
    return f"{task.id} {'new' if is_new else 'old'}"


def begin_evaluation(turn: Turn) -> str:
    return str(Store(turn.state).begin_evaluation(f"t{turn.attempt}", "run0"))


def unseal(turn: Turn) -> str:
    Store(turn.state).unseal(f"t{turn.attempt}", {"process": turn.process})
    return "unsealed"


def open_new_store(turn: Turn) -> str:
    return Store(turn.state / f"new-{turn.attempt}").head("dataset:skin")


def use_a_gpu(turn: Turn) -> str:
    """Lease one of two GPUs for a run of the process's own task, waiting for it, and write down who uses it meanwhile."""
    store, task_id = Store(turn.state), f"t{turn.process}"
    run, _ = _reserve(turn, task_id, gpus=1)
    while not (leased := store.lease_units(task_id, run.name, ["GPU-a", "GPU-b"])):
        time.sleep(0.01)
    in_use = turn.state / leased[0]
    with in_use.open("x", encoding="utf-8"):  # fails when another process uses it
        time.sleep(0.01)
    in_use.unlink()
    assert store.settle_run(task_id, run.name, "failed", end_reason="crash", message="")
    return leased[0]


ACTIONS: dict[str, Callable[[Turn], str]] = {
    action.__name__: action
    for action in (
        spend_run,
        spend_error_view,
        record,
        start_other_tree,
        start_same_request,
        start_same_tree,
        settle_lost,
        create_task,
        begin_evaluation,
        unseal,
        open_new_store,
        use_a_gpu,
    )
}


def main(state: str, action: str, processes: str, tries: str) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(int(processes))

    def work(process: int, out: Any) -> None:
        seen: list[str] = []
        for attempt in range(int(tries)):
            turn = Turn(Path(state), process, attempt)
            barrier.wait(timeout=120)
            try:
                seen.append(ACTIONS[action](turn))
            except Refusal as refusal:
                seen.append(type(refusal).__name__)
            except BaseException:
                barrier.abort()  # the others need not wait for this one
                raise
        out.send(seen)

    ends: list[Any] = []
    for process in range(int(processes)):
        end, other = context.Pipe(duplex=False)
        context.Process(target=work, args=(process, other)).start()
        other.close()
        ends.append(end)
    json.dump([end.recv() for end in ends], sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
