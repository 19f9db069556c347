"""The place of the attacks: a state folder with secrets, a neighbour and listeners, and the real run path on one backend."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from mcp import Client
from mcp.types import CallToolResult

from clinloop import runs
from clinloop.app import build
from clinloop.paths import RunFolder
from clinloop.store.rows import RunRow

from ..faults.lab import GOOD_PREDICT, GOOD_TRAIN, Lab, predict_code, train_code, until
from .case import Case
from .heist import Heist, carry_out
from .probes import OUTCOMES, program

AT_ONCE = 3
"""Attacks that go on at the same time."""
SHM_KEY = 4711
_NEIGHBOUR = """
import ctypes, socket
server = socket.socket(socket.AF_UNIX)
server.bind("\\0{name}")
server.listen()
libc = ctypes.CDLL(None)
for make in (lambda: libc.shmget({key}, 4096, 0o1666), lambda: libc.semget({key}, 1, 0o1666), lambda: libc.msgget({key}, 0o1666)):
    make()
for path in ("/tmp/left-behind", "/dev/shm/neighbour", "/dev/shm/left-behind"):
    open(path, "w").write("{name}")
(session.out / "ready").touch()
time.sleep(100)
"""
_LITTER = """
for path in ("/tmp/left-behind", "/dev/shm/left-behind", session.out / "left-behind"):
    open(path, "w").write("x")
try:
    open("/data/left-behind", "w").write("x")
except OSError:
    pass
session.checkpoint.write_text("weights")
"""


class Reply(NamedTuple):
    """What an MCP tool answered."""

    text: str
    content: dict[str, Any]
    is_error: bool


class Stage:
    """One state folder on one backend. Every method may be called again; what is costly is done once."""

    CHECKPOINT = "session.checkpoint.write_text('weights')\n"

    def __init__(self, lab: Lab, backend: str) -> None:
        self.lab, self.backend = lab, backend
        self.canary = f"canary-{secrets.token_hex(8)}"
        self.listener = socket.create_server(("0.0.0.0", 0))
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("0.0.0.0", 0))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0host-{self.canary}")
        self.abstract.listen()
        self.trap = Path(tempfile.gettempdir()) / f"trap-{self.canary}"
        """A file that hostile code creates if the server ever executes it."""
        view = lab.services.settings.state / "datasets" / "moles" / "view"
        files = sorted(path for path in view.rglob("*") if path.is_file())
        self.view_digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        self.verbs: dict[tuple[str, str], Future[Any]] = {}
        self.pool = ThreadPoolExecutor(AT_ONCE)
        self.background: dict[str, RunRow] = {}
        self.alone = threading.Lock()
        self.evaluation: Heist | None = None

    def close(self) -> None:
        """End what was begun, give the listeners back."""
        self.pool.shutdown(cancel_futures=True)
        for run in self.background.values():
            if self.lab.store.run(run.task_id, run.name).is_active:  # nobody asked for it
                runs.stop(self.lab.services, run.task_id, run.name)
                self.lab.end(run)
        for opened in (self.listener, self.datagrams, self.abstract):
            opened.close()
        self.trap.unlink(missing_ok=True)

    def own_state(self, name: str) -> Path:
        """Return a new state folder with the same dataset, for an attack that needs a server with other settings."""
        state = self.lab.services.settings.state
        made = state.with_name(name)
        shutil.copytree(state / "datasets", made / "datasets")
        return made

    # runs ----------------------------------------------------------------------------------------------------------

    def task(self, train: str = GOOD_TRAIN, predict: str = GOOD_PREDICT, **files: str) -> str:
        """Create a task whose initial workspace is this code; `files` are added as a later revision."""
        task = self.lab.task(train, predict)
        for path, text in files.items():
            self.lab.edit(task, path, text)
        return task

    def smoke(self, body: str, predict: str = "", *, task: str = "") -> RunRow:
        """Run a train.py (and a predict.py) of these bodies as a smoke test, to its end."""
        task = task or self.task(train_code(body), predict_code(predict))
        return self.lab.smoke(task)

    def full(self, body: str, predict: str = "") -> RunRow:
        """The same as a full, charged run."""
        return self.lab.full(self.task(train_code(body), predict_code(predict)))

    def folder(self, run: RunRow) -> RunFolder:
        return self.lab.services.state.task(run.task_id).run(run.name)

    def log(self, run: RunRow, phase: str = "train") -> str:
        return self.folder(run).log(phase).read_text(encoding="utf-8", errors="replace")

    def begin(self, name: str, body: str) -> None:
        """Start a full run in the background; `finish` waits for it."""
        self.background[name] = self.lab.start(self.task(train_code(body)))

    def finish(self, name: str) -> RunRow:
        return self.lab.end(self.background[name])

    def check_nothing_is_left(self, task: str) -> None:
        """Check that an ended task has no process, mount, container or sandbox."""
        state = self.lab.services.settings.state
        assert self.lab.sandbox_processes(task) == []
        assert self.lab.mounts(task) == self.lab.containers(task) == []
        assert not list((state / "sandboxes").glob(f"{task}-*"))

    # tools ---------------------------------------------------------------------------------------------------------

    def call(self, tool: str, **arguments: Any) -> Reply:
        """Call an MCP tool as an agent does."""
        return self.calls([(tool, arguments)])[0]

    def calls(self, wanted: list[tuple[str, dict[str, Any]]], *, at_once: bool = False) -> list[Reply]:
        """Call several tools in one session, one after the other or at once."""
        results: list[CallToolResult | None] = [None] * len(wanted)

        async def one(client: Client, index: int) -> None:
            results[index] = await client.call_tool(*wanted[index])

        async def all_of_them() -> None:
            async with Client(build(self.lab.services), mode="2026-07-28") as client:
                if at_once:
                    async with anyio.create_task_group() as group:
                        for index in range(len(wanted)):
                            group.start_soon(one, client, index)
                else:
                    for index in range(len(wanted)):
                        await one(client, index)

        anyio.run(all_of_them)
        return [_reply(result) for result in results if result is not None]

    def heist(self) -> Heist:
        """Return the evaluation that several cases look at; it is carried out once."""
        with self.alone:
            if self.evaluation is None:
                self.evaluation = carry_out(self)
        return self.evaluation

    # probes --------------------------------------------------------------------------------------------------------

    def carry_out(self, chosen: list[tuple[str, Case]]) -> None:
        """Begin the attacks; a few go on at the same time, because most of them wait."""
        probes = self.pool.submit(self._carry_out, [case for _, case in chosen if case.probe])
        for place, case in chosen:
            verb = self.pool.submit(case.attack, self) if case.attack else probes
            self.verbs[place, case.number] = verb

    def outcome(self, place: str, case: Case) -> str:
        """Wait for an attack and return what came of it; what the host saw of a probe counts more than what it said."""
        verb = self.verbs[place, case.number].result()
        seen = case.witness(self) if case.witness else ""
        return seen or (verb[case.number] if isinstance(verb, dict) else verb)

    def _carry_out(self, cases: list[Case]) -> dict[str, str]:
        name = f"neighbour-{self.canary}"
        neighbour = self.lab.start(self.task(train_code(_NEIGHBOUR.format(name=name, key=SHM_KEY))), "smoke")
        earlier = self.smoke(_LITTER)
        assert earlier.status == "succeeded", (earlier, self.log(earlier))
        until((self.folder(neighbour).out / "ready").exists, 20)
        server = subprocess.Popen(
            ["sleep", "100"], env={"CLINLOOP_REDTEAM": self.canary}
        )  # as a server has its client's keys
        leak = os.open(self.secrets()["labels"], os.O_RDONLY)
        os.set_inheritable(leak, True)
        try:
            facts = self.facts(neighbour, name, server.pid)
            training = [case for case in cases if case.phase == "train"]
            predicting = [case for case in cases if case.phase == "predict"]
            train = program(training, facts) + GOOD_TRAIN
            task = self.task(train, program(predicting, facts) + GOOD_PREDICT)
            run = self.lab.smoke(task)
        finally:
            os.close(leak)
            server.kill()
            server.wait()
        assert run.status == "succeeded", (run, self.log(run), self.log(run, "predict"))
        runs.stop(self.lab.services, neighbour.task_id, neighbour.name)
        assert self.lab.end(neighbour).status == "stopped"  # it lived all the time
        folder = self.folder(run)
        return {
            **json.loads((folder.out / OUTCOMES).read_text(encoding="utf-8")),
            **json.loads((folder.predicted / OUTCOMES).read_text(encoding="utf-8")),
        }

    def secrets(self) -> dict[str, str]:
        """Return paths of what submitted code must never see."""
        state = self.lab.services.settings.state
        dataset = state / "datasets" / "moles"
        return {"vault": str(dataset / "vault"), "labels": str(dataset / "vault" / "cases.csv")}

    @cache  # noqa: B019 - a stage lives as long as the tests
    def test_images(self) -> list[str]:
        """Return the names of the test images."""
        return sorted(path.name for path in (Path(self.secrets()["vault"]) / "images").iterdir())

    def facts(self, neighbour: RunRow, name: str, server: int) -> dict[str, Any]:
        """Return what the probes are told: an attacker who knows where everything lies."""
        state = self.lab.services.settings.state
        dataset, other = state / "datasets" / "moles", self.lab.services.state.task(neighbour.task_id)
        vault = self.secrets()["vault"]
        host = socket.gethostbyname(socket.gethostname())
        tcp, udp = self.listener.getsockname()[1], self.datagrams.getsockname()[1]
        images = self.test_images()
        return {
            "canary": self.canary,
            "state": str(state),
            "vault": vault,
            "secret_paths": [
                vault,
                f"{vault}/cases.csv",
                f"{vault}/secret.json",
                f"{vault}/images/{images[0]}",
                str(dataset),
                str(dataset / "cases.csv"),
                str(other.data / "val_truth.csv"),
                *(str(Path.home() / name) for name in (".ssh", ".bash_history", ".profile", ".gitconfig", ".config")),
                str(Path(__file__)),
            ],
            "secret_names": [
                *images,
                "val_truth.csv",
                "secret.json",
                "clinloop.sqlite",
                "supervisor.lock",
                "launch.json",
            ],
            "store_paths": [
                str(state),
                *(str(state / part) for part in ("clinloop.sqlite", "clinloop.sqlite-wal", "key", "sandboxes")),
            ],
            "other_task_paths": [str(other.root), str(other.workspace), str(other.run(neighbour.name).out)],
            "images": images,
            "host_pids": [server, os.getpid(), *self.lab.supervisors(neighbour.task_id, neighbour.name)],
            "tcp": [("127.0.0.1", tcp), (host, tcp)],
            "udp": [("127.0.0.1", udp), (host, udp)],
            "abstract": [f"host-{self.canary}", name],
            "shm_key": SHM_KEY,
        }


def _reply(result: CallToolResult) -> Reply:
    text = "".join(getattr(part, "text", "") for part in result.content)
    return Reply(text, result.structured_content or {}, bool(result.is_error))
