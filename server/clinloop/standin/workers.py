"""A pool of processes that draw, and that end with the process that asked for it, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def pool(n_batches: int) -> ProcessPoolExecutor:
    """Return a pool with a worker per core that this process may use, at most one per batch."""
    return ProcessPoolExecutor(
        max(1, min(len(os.sched_getaffinity(0)), n_batches)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    )


def _end_with_parent() -> None:
    threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
