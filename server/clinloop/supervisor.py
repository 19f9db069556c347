"""The supervisor: one small detached process that carries one run, or one evaluation, to its end whatever happens to the servers.

Called as `python -I -m clinloop.supervisor STATE TASK WHAT`, where WHAT is a run's name or "finalize".
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from clinloop.exposure import hide_memory
from clinloop.failpoints import reach
from clinloop.files import write_atomic
from clinloop.settings import download_environment, failpoint_environment

LAUNCH_FILE = "launch.json"
LOCK_FILE = "supervisor.lock"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""What detached processes get instead of the server's environment, which may hold the client's keys."""
_FORK_S = 30.0
_LOCK_ATTEMPTS = 20
"""Whoever asks `is_alive` holds the lock for a moment, so a supervisor that starts then tries again."""
_log = logging.getLogger("clinloop.supervisor")


def launch(folder: Path, *, state: Path, task_id: str, what: str, launch_settings: dict[str, Any]) -> None:
    """Start a supervisor for a run's or evaluation's folder; a second one for the same folder ends at once.

    Raises:
        OSError: its files cannot be written, or no process can be started.
    """
    write_atomic(folder / LAUNCH_FILE, json.dumps(launch_settings))
    kind = "finalize" if what == "finalize" else "run"
    reach(f"{kind}:launching")
    with (folder / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "clinloop.supervisor", str(state), task_id, what, str(folder)],
            cwd="/",
            env=ENVIRONMENT | download_environment() | failpoint_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            close_fds=True,
            start_new_session=True,
        )
    with suppress(subprocess.TimeoutExpired):  # on a machine that crawls
        process.wait(timeout=_FORK_S)  # it forks at once; the grandchild, adopted by init, is the supervisor
    reach(f"{kind}:launched")


def is_alive(folder: Path) -> bool:
    """Tell whether a supervisor holds the folder; the kernel drops its lock however it dies."""
    try:
        with (folder / LOCK_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def main(arguments: list[str]) -> None:
    """Detach, take the folder's lock, and carry the work to its end."""
    state, task_id, what, folder = Path(arguments[0]), arguments[1], arguments[2], Path(arguments[3])
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    hide_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if hold(folder) is None:
        return
    launch_settings = json.loads((folder / LAUNCH_FILE).read_text(encoding="utf-8"))
    reach("finalize:carried" if what == "finalize" else "run:carried")
    # Imported after the fork, so that `launch` returns quickly.
    from clinloop import evaluation, life

    carry = evaluation.carry if what == "finalize" else life.carry
    for attempt in range(5):
        try:
            carry(state=state, task_id=task_id, what=what, launch_settings=launch_settings)
            return
        except Exception:
            # Only what could not even be written to the store arrives here (a full disk, say); the next server recovers the run.
            _log.exception("attempt %d to settle %s of %s failed", attempt + 1, what, task_id)
            time.sleep(2.0**attempt)


def hold(folder: Path) -> int | None:
    """Hold the folder until the returned descriptor is closed or this process ends; None when another process does."""
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(_LOCK_ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return lock
    os.close(lock)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
