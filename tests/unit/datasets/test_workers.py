"""The worker pool survives what a decoder does to it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from clinloop.datasets import workers
from clinloop.datasets.pixels import ImageFacts, PixelJob, StoreSettings


def own_workers() -> list[int]:
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    pids = [int(pid) for task in tasks for pid in (task / "children").read_text(encoding="utf-8").split()]
    return [pid for pid in pids if b"clinloop.datasets.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_killed_workers_are_replaced_and_no_image_is_lost(tmp_path: Path, picture) -> None:
    for i in range(60):
        picture(i).save(tmp_path / f"{i}.png")
    (tmp_path / "out").mkdir()
    jobs = [PixelJob(str(tmp_path / f"{i}.png"), str(tmp_path / "out" / str(i)), None) for i in range(60)]
    outcomes: dict[int, object] = {}
    for index, outcome in workers.store_all(jobs, StoreSettings(1024, (), ())):
        if not outcomes:
            for pid in own_workers():
                os.kill(pid, signal.SIGKILL)
        outcomes[index] = outcome
    assert sorted(outcomes) == list(range(60)) and all(isinstance(outcome, ImageFacts) for outcome in outcomes.values())


def test_leaving_early_ends_the_workers(tmp_path: Path, picture) -> None:
    for i in range(200):
        picture(i).save(tmp_path / f"{i}.png")
    jobs = [PixelJob(str(tmp_path / f"{i}.png"), str(tmp_path / f"out{i}"), None) for i in range(200)]
    results = workers.store_all(jobs, StoreSettings(1024, (), ()))
    next(results)
    assert own_workers()
    begun = time.monotonic()
    results.close()
    assert not own_workers() and time.monotonic() - begun < 10
