"""Load over HTTP: latency of tools that do not wait at 1, 10 and 100 clients in both eras, pages, and memory.

python benchmarks/bench_http.py [--cases 25000] [--runs 30] [--tasks 100] [--only tools|pages|memory] [--keep FOLDER]

Clients are a process of their own (http_clients.py); with the server they share the cores of the machine, so on two cores each has about one.
`at once` sends the next call as soon as the last one is answered (100 clients: the latency is the queue); `one per second` pauses 1 s on average.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import numpy as np
from http_clients import LEGACY, MODERN
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from clinloop import ingestion
from clinloop.services import Services
from clinloop.settings import load_settings
from clinloop.web.app import PAGES

HERE = Path(__file__).parent
AGENTS = 10
PAGE_LIMIT_MS = 300
TRAIN = "from clinloop_runtime import open_session\nopen_session().checkpoint.write_text('weights')\n"
PREDICT = """
import argparse, hashlib
from pathlib import Path
from clinloop_runtime import open_session, predict_cases, write_predictions
parser = argparse.ArgumentParser()
for name in ("--images", "--checkpoint", "--out"):
    parser.add_argument(name, type=Path, required=True)
args = parser.parse_args()
classes = open_session().classes
cases = [case.case_id for case, _ in predict_cases(args.images)]
odds = [hashlib.sha256(case.encode()).digest()[0] / 255 for case in cases]
write_predictions(args.out, cases, classes, [[p, *[(1 - p) / (len(classes) - 1)] * (len(classes) - 1)] for p in odds])
"""


class Server:
    """A server process on a state folder."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def __enter__(self) -> Server:
        self.log = self.state.parent / "server.log"
        words = [sys.executable, "-I", "-m", "clinloop", "serve", "--http", "127.0.0.1:0", "--state", str(self.state)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*words, "--sandbox", "none", "--i-accept-no-isolation"], stdout=log, stderr=log
            )
        while not (found := re.search(r"Agents: \S+:(\d+)/mcp", self.log.read_text(encoding="utf-8"))):
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            time.sleep(0.05)
        self.port = int(found[1])
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)

    def token(self, role: str, name: str) -> str:
        """Return a new token."""
        words = [sys.executable, "-I", "-m", "clinloop", "token", "create", "--role", role, "--name", name]
        return subprocess.run(
            [*words, "--state", str(self.state)], capture_output=True, text=True, check=True
        ).stdout.strip()

    def memory_mb(self) -> float:
        """Return its resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def cpu_s(self) -> float:
        """Return the processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# what there is to serve -----------------------------------------------------------------------------------------------


def draw(root: Path, cases: int, pixels: int = 24) -> Path:
    """Draw a dataset of three classes; every fourth case has a patient in common with the next."""
    generator = np.random.default_rng(0)
    for name in "abc":
        (root / name).mkdir(parents=True)
    for index in range(cases):
        picture = generator.integers(0, 255, (pixels, pixels, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / "abc"[index % 3] / f"{index}.png", compress_level=1)
    return root


async def _call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content or {}


@contextlib.asynccontextmanager
async def _agent(server: Server, token: str) -> AsyncGenerator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=120) as connection,
        Client(streamable_http_client(f"http://127.0.0.1:{server.port}/mcp", http_client=connection)) as client,
    ):
        yield client


async def prepare(server: Server, tokens: list[str], *, n_tasks: int, n_runs: int) -> dict[str, str]:
    """Begin tasks for all agents, one run each in the first of each agent, and many runs in one; return a task with ended runs per token."""
    ended: dict[str, str] = {}
    for number, token in enumerate(tokens):
        async with _agent(server, token) as client:
            for seed in range(n_tasks // len(tokens)):
                task = await _begin(client, seed=seed)
                ended.setdefault(token, task)
            await _write(client, ended[token])
            for _ in range(1 + n_runs if number == 0 else 1):
                await _run(client, ended[token])
    return ended


async def prepare_pages(server: Server, token: str, n_runs: int) -> dict[str, str]:
    """Return a task by the path of the page that is about it: one that waits to be confirmed, one to be approved, one with a report.

    The others are about "": one with many runs on the large dataset.
    """
    async with _agent(server, token) as client:
        large = await _begin(client, "many")
        await _write(client, large)
        for _ in range(1 + n_runs):
            await _run(client, large)
        waiting = await _begin(client, confirm_spec="required")
        asked, evaluated = await _begin(client, seed=1001, confirm_finalize="required"), await _begin(client, seed=1002)
        for task in (asked, evaluated):
            await _write(client, task)
            await _run(client, task)
            await _call(client, "finalize", task_id=task, run="run0", wait=0)
        while (await _call(client, "finalize", task_id=evaluated, run="run0", wait=4))["status"] != "evaluated":
            pass
    reports = ("report", "report/page", "report/check", "files/{name:path}")
    return {"": large, "confirm": waiting, "approve": asked, **dict.fromkeys(reports, evaluated)}


async def _begin(client: Client, dataset: str = "bench", seed: int = 1000, **spec: str) -> str:
    contract = {"objective": "Tell images apart.", "budget": "paper", "acceptance": "paper", **spec}
    request = "Tell these images apart."
    started = await _call(
        client, "init_task", dataset=dataset, request=request, spec=contract, template="linear", seed=seed
    )
    return started["task_id"]


async def _write(client: Client, task: str) -> None:
    for path, text in (("train.py", TRAIN), ("predict.py", PREDICT)):
        await _call(client, "edit_workspace", task_id=task, operation="create", path=path, text=text, overwrite=True)


async def _run(client: Client, task: str) -> None:
    hypothesis = "It is worth trying because nothing else was tried yet."
    started = await _call(client, "run_training", task_id=task, hypothesis=hypothesis)
    while True:
        seen = await _call(client, "read_validation", task_id=task, run=started["run"]["run"], wait=4)
        if seen["run"]["status"] not in ("queued", "training", "predicting", "scoring"):
            assert seen["run"]["status"] == "succeeded", seen["run"]
            return


# measurements ---------------------------------------------------------------------------------------------------------


def calls_of(task: str) -> list[dict[str, Any]]:
    """Return the calls that do not wait, for one agent."""
    return [
        {"tool": "inspect_dataset", "arguments": {"dataset": "bench"}},
        {"tool": "read_validation", "arguments": {"task_id": task, "run": "run0", "wait": 0}},
        {"tool": "edit_workspace", "arguments": {"task_id": task, "operation": "view", "path": "train.py"}},
    ]


def load(server: Server, ended: dict[str, str], *, era: str, clients: int, n_calls: int, pause_s: float) -> Any:
    """Return the figures of one load."""
    tokens = list(ended)
    plan = {
        "port": server.port,
        "era": era,
        "n_calls": n_calls,
        "pause_s": pause_s,
        "clients": [
            {"token": tokens[number % len(tokens)], "calls": calls_of(ended[tokens[number % len(tokens)]])}
            for number in range(clients)
        ],
    }
    used = server.cpu_s()
    ran = subprocess.run(
        [sys.executable, str(HERE / "http_clients.py")],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    every = [value for values in found["latencies"].values() for value in values]
    return {
        "calls": len(every),
        "calls_per_s": round(len(every) / found["wall_s"], 1),
        "p50_ms": _ms(every, 50),
        "p99_ms": _ms(every, 99),
        "p99_ms_of": {tool: _ms(values, 99) for tool, values in found["latencies"].items()},
        "server_cpu_ms_per_call": round(1000 * (server.cpu_s() - used) / len(every), 2),
        "wrong": found["n_wrong"],
        "reconnects": found["reconnects"],
        **({"what": found["wrong"]} if found["wrong"] else {}),
    }


def _ms(seconds: list[float], percentile: int) -> float:
    return round(1000 * float(np.percentile(seconds, percentile)), 1)


def tools(server: Server, ended: dict[str, str]) -> dict[str, Any]:
    """Measure all loads."""
    figures: dict[str, Any] = {}
    for name, era in (("2026-07-28", MODERN), ("handshake era", LEGACY)):
        for clients, n_calls in ((1, 150), (10, 60), (100, 15)):
            made = load(server, ended, era=era, clients=clients, n_calls=n_calls, pause_s=0)
            figures[f"{name}, {clients} at once"] = made
        made = load(server, ended, era=era, clients=100, n_calls=12, pause_s=1.0)
        figures[f"{name}, 100 with one per second"] = made
    return figures


def pages(server: Server, people: dict[str, str], tasks: dict[str, str], dataset: str) -> dict[str, Any]:
    """Open every page as a custodian, or else as a clinician; a page whose path has a part that is not known here is an error, never left out.

    tasks: of the pages that are about a task in a certain state by the end of their path; "" for all others.
    """
    assert tasks, "this folder was prepared with --only tools or memory; pages need one of their own"
    parts = {"task_id": tasks[""], "run": "run0", "dataset": dataset, "name": dataset, "split": "train"}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    cookies = {role: _signed_in(server, connection, token) for role, token in people.items()}
    connection.request("GET", f"/datasets/{dataset}/pictures", headers={"Cookie": cookies["custodian"]})
    gallery = connection.getresponse().read().decode()
    parts["case_id"] = re.findall(rf"/datasets/{dataset}/pictures/([^\"?]+)", gallery)[0]
    figures: dict[str, Any] = {}
    for page in PAGES:
        if "GET" not in page.methods or "live" in page.path:
            continue
        about = page.path.removeprefix("/tasks/{task}/")
        known = parts | {"task": tasks.get(about, tasks[""])}
        if about.startswith("files/"):
            known["name"] = "report/report.json"
        path = re.sub(r"{(\w+)(?::\w+)?}", lambda found: known[found[1]], page.path)  # noqa: B023 - used at once
        cookie = cookies["custodian" if "custodian" in page.roles else "clinician"]
        times: list[float] = []
        for _ in range(9):
            begun = time.perf_counter()
            connection.request("GET", path, headers={"Cookie": cookie})
            answer = connection.getresponse()
            body = answer.read()
            times.append(time.perf_counter() - begun)
        figures[page.path] = {
            "status": answer.status,
            "ms": _ms(times, 50),
            "worst_ms": _ms(times, 100),
            "kB": len(body) // 1024,
        }
    connection.close()
    return figures


def _signed_in(server: Server, connection: http.client.HTTPConnection, token: str) -> str:
    """Return the cookie of a person."""
    connection.request("POST", "/sign-in", urlencode({"token": token}), _form(server))
    answer = connection.getresponse()
    answer.read()
    cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
    assert answer.status == 303 and cookie, answer.status
    return cookie


def _form(server: Server) -> dict[str, str]:
    return {"Content-Type": "application/x-www-form-urlencoded", "Host": f"127.0.0.1:{server.port}"}


def memory(server: Server, ended: dict[str, str], n_calls: int) -> dict[str, Any]:
    """Return how memory grows from a warm server over many calls, half of them in each era."""
    load(server, ended, era=MODERN, clients=10, n_calls=50, pause_s=0)
    load(server, ended, era=LEGACY, clients=10, n_calls=50, pause_s=0)
    before = server.memory_mb()
    wrong = 0
    for era in (MODERN, LEGACY):
        for _ in range(5):  # new connections and sessions each time
            wrong += load(server, ended, era=era, clients=10, n_calls=n_calls // 100, pause_s=0)["wrong"]
    return {
        "calls": n_calls,
        "before_mb": round(before, 1),
        "growth_mb": round(server.memory_mb() - before, 1),
        "wrong": wrong,
    }


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def main() -> None:
    """Print the figures as JSON; exit with 1 where a page failed or a call went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=25_000)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--only", choices=("tools", "pages", "memory"))
    parser.add_argument("--keep", type=Path, help="work in this folder, and use what is there")
    given = parser.parse_args()
    with _folder(given.keep) as folder:
        state, known = folder / "state", folder / "known.json"
        sizes = {"bench": 300} | ({"many": given.cases} if given.only in (None, "pages") else {})
        for name, cases in sizes.items():
            if not (state / "datasets" / name).exists():
                services = Services(load_settings(state))
                ingestion.add(services, draw(folder / name, cases), name, cache_px=(24,) if name == "bench" else (8,))
        with Server(state) as server:
            if not known.exists():
                tokens = [server.token("agent", f"agent {number}") for number in range(AGENTS)]
                ended = asyncio.run(prepare(server, tokens, n_tasks=given.tasks, n_runs=given.runs))
                people = {role: server.token(role, f"the {role}") for role in ("custodian", "clinician")}
                about = asyncio.run(prepare_pages(server, tokens[-1], given.runs)) if "many" in sizes else {}
                known.write_text(json.dumps([ended, people, about]), encoding="utf-8")
            ended, people, about = json.loads(known.read_text(encoding="utf-8"))
            figures: dict[str, Any] = {"cores_shared_by_clients_and_server": os.cpu_count()}
            if given.only in (None, "tools"):
                figures["tools"] = tools(server, ended)
            if given.only in (None, "pages"):
                figures["pages"] = pages(server, people, about, "many")
            if given.only in (None, "memory"):
                figures["memory"] = memory(server, ended, given.calls)
            log = server.log.read_text(encoding="utf-8", errors="replace")
            figures["tracebacks"] = log.count("Traceback")
    print(json.dumps(figures, indent=1))
    broken = [path for path, seen in figures.get("pages", {}).items() if seen["status"] != 200]
    n_wrong = sum(made["wrong"] for made in figures.get("tools", {}).values())
    if broken or n_wrong or figures["tracebacks"]:
        sys.exit(f"pages that failed: {broken}; wrong answers: {n_wrong}; tracebacks: {figures['tracebacks']}")


if __name__ == "__main__":
    main()
