"""Wait in line for GPUs or a CPU slot, and take them: what a supervisor does before a run or an evaluation uses any."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from clinloop import runs
from clinloop.context import TaskContext
from clinloop.errors import SandboxUnavailable
from clinloop.sandbox import gpus
from clinloop.services import Services
from clinloop.settings import Settings
from clinloop.store.queue import FINALIZE, Place
from clinloop.store.rows import RunRow
from clinloop.store.store import Store

_log = logging.getLogger(__name__)
_POLL_S = 0.5
_POLL_MOST_S = 2.0
"""Whoever is far behind in the line looks less often."""
_RECOVER_S = 10.0
"""Whoever waits looks this often for runs whose supervisors died, because one of them may be what it waits for."""
_CLEAR_S = 10.0
"""The driver takes a moment to forget a process that was killed."""


def hold_for_run(store: Store, here: TaskContext, run: RunRow) -> TaskContext | None:
    """Return the context with what a run needs, GPUs or a CPU slot, when its turn has come; None when it was stopped before it started."""

    def should_stop() -> bool:
        return run.status == "queued" and store.run(run.task_id, run.name).stop_requested

    return _hold(store, here, run.name, should_stop=should_stop)


def hold_for_evaluation(store: Store, here: TaskContext, models: Sequence[RunRow]) -> TaskContext:
    """Return the context with as many GPUs as the largest of the models' runs had, after waiting in line for them.

    They are held from the rehearsal to the last test image, so that no open test set waits for other people's runs. An evaluation without
    GPUs takes minutes and waits for nothing.
    """
    task_id = here.task.id
    store.claim_units(task_id, FINALIZE, "gpu", max(run.gpus for run in models))
    ready = _hold(store, here, FINALIZE, report=lambda text: store.set_phase(task_id, f"waiting for {text}"))
    assert ready is not None  # nobody can stop it
    return ready


def release_after_evaluation(store: Store, here: TaskContext) -> None:
    """Give back what an evaluation held; its end would, too."""
    store.release_units(here.task.id, FINALIZE)
    check_cleared(store, here)


def _hold(
    store: Store,
    here: TaskContext,
    holder: str,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[str], None] = lambda _: None,
) -> TaskContext | None:
    """Return the context with the units that the holder claimed, after waiting for its turn; None when it was stopped before.

    Without a claim there is nothing to wait for. The units are given back by the store, with the end of the run or evaluation.

    Raises:
        SandboxUnavailable: the machine has fewer GPUs than the claim wants.
    """
    services = Services(here.settings, here.accept_no_isolation)
    recover_at, told = time.monotonic(), ""
    while True:
        place = store.place(here.task.id, holder)
        if place is None:
            return None if should_stop() else here
        if not place.units and should_stop():
            return None
        usable, note = ((), "") if place.units else _find_usable(store, here.settings, place)
        # Who has as many before it as there are units need not ask under the store's only lock for writing.
        may_ask = place.ahead < len(usable)
        if taken := place.units or (store.lease_units(here.task.id, holder, usable) if may_ask else ()):
            _log.info("%s of %s has %s", holder, here.task.id, ", ".join(taken))
            return replace(here, gpus=taken) if place.lane == "gpu" else here
        if note != place.note:
            store.note_wait(here.task.id, holder, note)
        if (text := place._replace(note=note).text) != told:
            report(text)
            told = text
        if time.monotonic() >= recover_at:
            runs.recover(services)
            recover_at = time.monotonic() + _RECOVER_S
        time.sleep(min(_POLL_MOST_S, _POLL_S * (1 + place.ahead)))


def _find_usable(store: Store, settings: Settings, place: Place) -> tuple[tuple[str, ...], str]:
    """Return the units of a claim's lane that could be leased, those that are leased included, and what keeps others from it.

    Raises:
        SandboxUnavailable: the machine has fewer GPUs than the claim wants.
    """
    if place.lane != "gpu":
        return tuple(f"{place.lane}:{number}" for number in range(settings.slots)), ""
    found = gpus.find(settings)
    if len(found.gpus) < place.wanted:
        raise SandboxUnavailable(
            f"{place.wanted} GPUs are needed and clinloop may use {len(found.gpus)} here. {found.problem} See `clinloop doctor`."
        )
    leased = store.leased_units()
    busy = [gpu.uuid for gpu in found.gpus if gpu.processes and gpu.uuid not in leased]
    usable = tuple(gpu.uuid for gpu in found.gpus if not gpu.processes)
    return usable, "; ".join(f"{uuid} is in use by other processes" for uuid in busy)


def check_cleared(store: Store, here: TaskContext) -> None:
    """Log which GPUs of an ended run or evaluation still have processes on them; nobody is given those."""
    for gpu in find_left(here.settings, here.gpus, store.leased_units):
        _log.warning("processes %s still compute on %s after their lease ended", gpu.processes, gpu.uuid)


def find_left(settings: Settings, uuids: Sequence[str], leased: Callable[[], Collection[str]]) -> list[gpus.Gpu]:
    """Return those of the GPUs on which processes are left, after the moment that the driver takes to forget one; not those leased anew."""
    deadline = time.monotonic() + _CLEAR_S
    while uuids:
        found = [gpu for gpu in gpus.find(settings).gpus if gpu.uuid in uuids and gpu.processes]
        taken = leased()
        left = [gpu for gpu in found if gpu.uuid not in taken]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(_POLL_S)
    return []
