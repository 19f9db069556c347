"""The supervisor as a process: detached from whoever launched it, one for each folder, gone without a trace when killed.

The work here is a run of a task that does not exist: the supervisor logs that and tries again for half a minute, with its lock held.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from clinloop import supervisor
from clinloop.spec import TaskSpec
from clinloop.store.store import Store

LAUNCH_SETTINGS = {"settings": {}, "accept_no_isolation": False}
LAUNCHER = """
import json, sys, time
from pathlib import Path
from clinloop import supervisor
folder = Path(sys.argv[1])
supervisor.launch(folder, state=folder.parent, task_id="nothing", what="run0", launch_settings=json.loads(sys.argv[2]))
print("launched", flush=True)
time.sleep(600)
"""


class Process(NamedTuple):
    """What the kernel tells of a process."""

    pid: int
    parent: int
    group: int
    session: int


def supervisors(folder: Path) -> list[Process]:
    """Return the processes that were started for a folder and have not ended."""
    found: list[Process] = []
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if b"clinloop.supervisor" in arguments and os.fsencode(folder) in arguments:
                state, *ids = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
                if state != "Z":
                    found.append(Process(int(entry.name), *map(int, ids)))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def log_of(folder: Path) -> str:
    return (folder / "supervisor.log").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A run's folder; what was started for it is ended with the test."""
    folder = tmp_path / "state" / "run0"
    yield folder
    for process in supervisors(folder):
        os.kill(process.pid, signal.SIGKILL)


def launch(folder: Path) -> None:
    supervisor.launch(folder, state=folder.parent, task_id="nothing", what="run0", launch_settings=LAUNCH_SETTINGS)


@pytest.fixture
def running(folder: Path) -> Process:
    """The one supervisor of the folder, at work."""
    launch(folder)
    wait_until(lambda: supervisor.is_alive(folder))
    (process,) = supervisors(folder)
    return process


def test_a_folder_that_nobody_holds_has_no_supervisor(folder: Path) -> None:
    assert not supervisor.is_alive(folder)
    folder.mkdir(parents=True)
    (folder / "supervisor.lock").touch()
    assert not supervisor.is_alive(folder)


def test_a_supervisor_is_no_child_of_its_launcher_and_leads_a_session_of_its_own(running: Process) -> None:
    assert running.session == running.group == running.pid
    ancestors: list[int] = []
    pid = os.getppid()
    while pid > 0:
        ancestors.append(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    assert running.parent != os.getpid()
    assert running.parent in (0, *ancestors), "init, or a subreaper above us, has adopted it"


def test_a_supervisor_holds_nothing_of_its_launcher(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (tmp_path / "open in the launcher").open("w", encoding="utf-8") as file:
        os.set_inheritable(file.fileno(), True)
        launch(folder)
    wait_until(lambda: supervisor.is_alive(folder))

    (process,) = supervisors(folder)

    proc = Path(f"/proc/{process.pid}")
    names = {item.split(b"=")[0] for item in (proc / "environ").read_bytes().split(b"\0")}
    assert not names & {b"ANTHROPIC_API_KEY", b"PYTHONPATH"}
    assert (proc / "cwd").readlink() == Path("/")
    opened = {number.name: str(number.readlink()) for number in (proc / "fd").iterdir()}
    assert opened["0"] == "/dev/null"
    assert opened["1"] == opened["2"] == str(folder / "supervisor.log")
    assert not any("launcher" in path for path in opened.values())


def test_a_supervisor_outlives_the_kill_of_its_launchers_process_group(folder: Path) -> None:
    arguments = [sys.executable, "-c", LAUNCHER, str(folder), json.dumps(LAUNCH_SETTINGS)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, start_new_session=True, text=True) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "launched\n"
        wait_until(lambda: supervisor.is_alive(folder))
        before = supervisors(folder)
        os.killpg(launcher.pid, signal.SIGKILL)
        assert launcher.wait(timeout=10) == -signal.SIGKILL

    assert [process.pid for process in supervisors(folder)] == [before[0].pid]
    assert supervisor.is_alive(folder)
    wait_until(lambda: "attempt 2" in log_of(folder))  # it still works


def test_a_second_supervisor_for_the_same_folder_ends_at_once(folder: Path, running: Process) -> None:
    launch(folder)
    launch(folder)

    wait_until(lambda: supervisors(folder) == [running], seconds=10)

    assert supervisor.is_alive(folder)
    assert "Traceback" not in log_of(folder).split("attempt 1", maxsplit=1)[0]


def test_of_8_supervisors_launched_at_once_one_stays(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "launch.json").write_text(json.dumps(LAUNCH_SETTINGS), encoding="utf-8")
    command = [sys.executable, "-I", "-m", "clinloop.supervisor", str(folder.parent), "nothing", "run0", str(folder)]
    with (folder / "supervisor.log").open("wb") as log:
        launched = [subprocess.Popen(command, stdout=log, stderr=log) for _ in range(8)]
        assert [process.wait(timeout=60) for process in launched] == [0] * 8

    wait_until(lambda: supervisor.is_alive(folder) and len(supervisors(folder)) == 1)

    assert log_of(folder).count("attempt 1") <= 1


def test_the_kill_of_a_supervisor_frees_its_folder_for_the_next(folder: Path, running: Process) -> None:
    os.kill(running.pid, signal.SIGKILL)

    wait_until(lambda: not supervisor.is_alive(folder))
    launch(folder)

    wait_until(lambda: supervisor.is_alive(folder))
    assert [process.pid for process in supervisors(folder)] != [running.pid]


def test_a_look_at_the_lock_does_not_turn_a_supervisor_away(folder: Path) -> None:
    folder.mkdir(parents=True)
    with (folder / "supervisor.lock").open("w", encoding="utf-8") as look:
        fcntl.flock(look, fcntl.LOCK_SH)  # as is_alive does, only longer
        launch(folder)
        time.sleep(0.1)  # in which the supervisor comes for the lock
    wait_until(lambda: supervisor.is_alive(folder))


def test_threads_of_one_server_may_launch_at_once(folder: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        for launched in [threads.submit(launch, folder) for _ in range(12)]:
            launched.result()
    wait_until(lambda: supervisor.is_alive(folder) and len(supervisors(folder)) == 1)


def test_work_that_cannot_be_settled_is_logged_and_tried_again(folder: Path, running: Process) -> None:
    wait_until(lambda: "attempt 2" in log_of(folder))
    assert "attempt 1 to settle run0 of nothing failed" in log_of(folder)
    assert "Unknown" in log_of(folder)
    assert supervisors(folder) == [running]


def test_a_supervisor_whose_work_is_done_ends_and_frees_its_folder(folder: Path) -> None:
    store = Store(folder.parent)
    spec = TaskSpec(objective="Tell melanoma from nevus.")
    store.create_task(task_id="t", dataset="d", request="", spec=spec, template="", seed=0, settings={}, init_key="k")
    store.open_task("t")
    run, _ = store.reserve_run(
        task_id="t", mode="full", request_id="q", revision="r1", tree_sha256="", hypothesis="", inputs=[]
    )
    store.settle_run("t", run.name, "stopped", end_reason="stopped", message="")
    chain = store.ledger("task:t")

    supervisor.launch(folder, state=folder.parent, task_id="t", what="run0", launch_settings=LAUNCH_SETTINGS)

    wait_until((folder / "supervisor.lock").exists)
    wait_until(lambda: supervisors(folder) == [])
    wait_until(lambda: not supervisor.is_alive(folder))  # an ending process loses its arguments before its locks
    assert store.ledger("task:t") == chain
    assert log_of(folder) == ""
