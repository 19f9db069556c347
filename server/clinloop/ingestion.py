"""Adding datasets: by the custodian's command, or in the background when an agent first inspects a folder below a data root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from clinloop import supervisor
from clinloop.datasets import roots
from clinloop.datasets.dataset import Dataset, stored_name
from clinloop.datasets.vault import seal_state
from clinloop.errors import BadInput, Refusal, unknown
from clinloop.exposure import hide_memory
from clinloop.services import Services

Progress = Callable[[str, int, int], None]


def add(
    services: Services,
    path: Path,
    name: str,
    *,
    layout: str = "auto",
    columns: dict[str, Any] | None = None,
    test: str = "",
    seed: int = 0,
    cache_px: tuple[int, ...] = (64, 224),
    keep_boxes: float = 1.0,
    on_leak: str = "refuse",
    seal: tuple[str, ...] = (),
    progress: Progress = lambda phase, done, total: None,
    wait_s: float = 0.0,
) -> Dataset:
    """Ingest a folder and open the dataset's ledger with its commitment; see `datasets.ingest.ingest` for what is refused."""
    from clinloop.datasets.case import LayoutOptions
    from clinloop.datasets.ingest import IngestOptions, ingest

    options = IngestOptions(
        layout=layout,
        columns=LayoutOptions(**(columns or {})),
        test=_test_rule(test),
        seed=seed,
        cache_px=cache_px,
        keep_boxes=keep_boxes,
        on_leak=on_leak,
        seal=seal,
    )
    record = ingest(
        path.absolute(),
        name,
        state=services.settings.state,
        key=services.key,
        options=options,
        progress=progress,
        wait_s=wait_s,
    )
    _open_ledger(services, record.name)
    return Dataset.load(services.settings.state, record.name)


def folders(services: Services) -> list[str]:
    """Return the folders below the data roots that can be inspected by name and are not ingested yet."""
    ready = Dataset.list_names(services.settings.state)
    return [name for name in roots.folder_names(services.settings.data_roots) if stored_name(name) not in ready]


def ingest_on_first_use(services: Services, name: str, wait_s: float) -> dict[str, Any] | None:
    """Ingest a folder below a data root in a process of its own; None when it is ready, else how far it is.

    Raises:
        Unknown: there is neither a dataset nor a folder of this name.
        Refusal: the ingest was refused; the text says why.
    """
    state = services.settings.state
    folder = roots.resolve_in_roots(name, services.settings.data_roots)
    if folder is None:
        hint = "Call inspect_dataset without arguments to list them; the custodian adds one with `clinloop data add`."
        raise unknown("dataset", name, [*Dataset.list_names(state), *folders(services)], hint)
    status = state / "ingesting" / f"{stored_name(name)}.json"
    status.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = _read(status)
    if found is None or not _is_running(found):
        if found and found.get("error"):
            status.unlink()  # said once; the next call tries again
            raise Refusal(found["error"])
        _launch(services, folder, name, status)
    deadline = time.monotonic() + wait_s
    while True:
        if stored_name(name) in Dataset.list_names(state):
            status.unlink(missing_ok=True)
            return None
        found = _read(status) or {}
        if found.get("error"):
            status.unlink(missing_ok=True)
            raise Refusal(found["error"])
        if time.monotonic() >= deadline:
            return {key: found.get(key) for key in ("phase", "done", "total")}
        time.sleep(0.1)


def _launch(services: Services, folder: Path, name: str, status: Path) -> None:
    """Start the background process, double-forked like a supervisor: the client that asked may be gone before it ends."""
    status.write_text(
        json.dumps({"phase": "starting", "done": 0, "total": 0, "pid": 0, "at": time.time()}), encoding="utf-8"
    )
    arguments = [str(services.settings.state), str(folder), name, str(status)]
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "clinloop.ingestion", *arguments],
        cwd="/",
        env=supervisor.ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        process.wait(timeout=30)


def _main(arguments: list[str]) -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    hide_memory()
    state, folder, name, status = Path(arguments[0]), Path(arguments[1]), arguments[2], Path(arguments[3])
    from clinloop.settings import load_settings

    last = 0.0

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.2 or done == total:
            last = time.monotonic()
            _write(status, {"phase": phase, "done": done, "total": total, "pid": os.getpid(), "at": time.time()})

    try:
        add(Services(load_settings(state)), folder, name, progress=progress, wait_s=3600)
    except Refusal as refusal:
        _write(status, {"error": str(refusal)})
    except Exception as error:
        _write(
            status,
            {
                "error": f"The folder could not be ingested ({type(error).__name__}); the custodian can run `clinloop data add` to see why."
            },
        )
        raise


def _open_ledger(services: Services, name: str) -> None:
    """Write the commitment into the dataset's chain, once for each time that a dataset of this name is added."""
    dataset = Dataset.load(services.settings.state, name)
    scope = f"dataset:{name}"
    if any(row.detail.get("commitment") == dataset.commitment for row in services.store.ledger(scope)):
        return
    record = dataset.record
    detail = {
        "commitment": record.commitment,
        "split_digest": record.split.digest,
        "layout": record.layout,
        "counts": record.counts,
        "keep_boxes": record.keep_boxes,
        "sealed_to": list(seal_state(dataset.folder).recipients),
    }
    services.store.record(scope, "ingested", detail)


def _test_rule(text: str) -> Literal["official"] | float | None:
    if text in ("", "official"):
        return "official" if text else None
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise BadInput(f"--test {text!r} is neither 'official' nor a share between 0 and 1, such as 0.2.")
    return share


def _is_running(found: dict[str, Any]) -> bool:
    pid = int(found.get("pid") or 0)
    if pid == 0:
        return time.time() - float(found.get("at") or 0) < 20
    return Path(f"/proc/{pid}").exists()


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write(file: Path, value: dict[str, Any]) -> None:
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(file)


if __name__ == "__main__":
    _main(sys.argv[1:])
