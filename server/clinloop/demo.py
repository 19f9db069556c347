"""`clinloop demo`: the whole loop for real, with a scripted agent that talks to the server over stdio like any other client."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import tomllib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import Implementation
from rich.console import Console
from rich.table import Table

from clinloop import ingestion
from clinloop.demo_screen import Screen
from clinloop.errors import Refusal, SandboxUnavailable
from clinloop.resources import resource
from clinloop.sandbox import backends
from clinloop.services import Services
from clinloop.settings import load_settings
from clinloop.standin import STANDINS

CACHE_PX = (64,)
POLL_S = 2.0
REQUESTS = {
    "isic2019": "Help me to tell what these skin lesions are. Melanoma comes first: I would rather check a harmless mole than miss a melanoma.",
    "other": "Help me to sort these images into their classes, every class as good as it can be.",
}


class DemoFailed(Refusal):
    """The demo could not be played to its end."""


def play(
    *,
    data: Path | None,
    layout: str,
    images: int,
    seed: int,
    target: Path,
    json_file: Path | None,
    sandbox: str | None,
    accept: bool,
    console: Console,
) -> None:
    """Play the demo and print initial -> refined; see `clinloop demo --help` for the arguments.

    Raises:
        DemoFailed, SandboxUnavailable, Refusal: one sentence on what went wrong.
    """
    begun = time.monotonic()
    folder = _fresh(target)
    services = Services(load_settings(folder / "state", sandbox=sandbox), accept_no_isolation=accept)
    backend, reason = backends.choose(
        services.settings, image=services.settings.image or "cpu", accept_no_isolation=accept
    )
    if probe_problem := backend.probe().problem:
        raise SandboxUnavailable(probe_problem)
    with Screen(console) as screen:
        screen.note(f"Sandbox: {backend.name} ({reason}).")
        screen.phase("Python environment of the sandbox (built once, a few GB)")
        backend.environment(services.settings.image or "cpu", report=screen.note)
        name = _add_dataset(services, screen, data=data, layout=layout, images=images, seed=seed, folder=folder)
        outcome = asyncio.run(_loop(services, screen, name, seed))
    outcome["seconds"] = round(time.monotonic() - begun, 1)
    outcome["sandbox"] = backend.name
    _print(outcome, console)
    text = json.dumps(outcome, indent=1)
    (folder / "outcome.json").write_text(text, encoding="utf-8")
    if json_file is not None:
        json_file.write_text(text, encoding="utf-8")


def _fresh(target: Path) -> Path:
    """Return the target, or target-2, target-3 … when it is taken."""
    number, folder = 1, target
    while folder.exists() and any(folder.iterdir()):
        number += 1
        folder = target.with_name(f"{target.name}-{number}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder.absolute()


def _add_dataset(
    services: Services, screen: Screen, *, data: Path | None, layout: str, images: int, seed: int, folder: Path
) -> str:
    if data is None:
        data, layout, name = folder / "isic2019", "isic2019", "isic2019"
        screen.phase(f"drawing a stand-in of ISIC 2019 ({images} training images)")
        STANDINS["isic2019"](data, images=images, seed=seed, progress=screen.count)
    else:
        name = "own-images"
    screen.phase(f"reading {data.name}: audit, split by group, test part into the vault")
    dataset = ingestion.add(
        services,
        data,
        name,
        layout=layout,
        seed=seed,
        cache_px=CACHE_PX,
        progress=lambda what, done, total: screen.count(done, total, what),
    )
    return dataset.name


async def _loop(services: Services, screen: Screen, dataset: str, seed: int) -> dict[str, Any]:
    """Start the server as a subprocess, connect, and let the agent work."""
    arguments = ["-I", "-m", "clinloop", "serve", "--stdio", "--state", str(services.settings.state)]
    arguments += ["--sandbox", services.settings.sandbox]
    if services.accept_no_isolation:
        arguments.append("--i-accept-no-isolation")
    server = StdioServerParameters(command=sys.executable, args=arguments)
    async with AsyncExitStack() as stack:
        errors = stack.enter_context((services.settings.state / "server.log").open("w", encoding="utf-8"))
        client = await stack.enter_async_context(
            Client(stdio_client(server, errlog=errors), client_info=Implementation(name="clinloop-demo", version="1"))
        )
        return await _Agent(client, screen, dataset, seed).work()


class _Agent:
    """A scripted agent: it follows the template's trajectory, but reads every outcome from the server and decides by it."""

    def __init__(self, client: Client, screen: Screen, dataset: str, seed: int) -> None:
        self._client, self._screen, self._dataset, self._seed = client, screen, dataset, seed
        self._task = ""
        self._incumbent: dict[str, Any] = {}

    async def work(self) -> dict[str, Any]:
        """Play the loop and return its outcome."""
        facts = await self._call("inspect_dataset", dataset=self._dataset)
        audit = await self._call("inspect_dataset", dataset=self._dataset, view="audit")
        for line in audit["facts"]["audit"][:3]:
            self._screen.note(f"audit: {line}")
        task = await self._call("init_task", dataset=self._dataset, seed=self._seed, **self._contract(facts["facts"]))
        self._task = task["task_id"]
        self._screen.phase(
            f"task {self._task}: {task['budget']['runs_granted']} runs of {task['budget']['seconds_per_run']} s"
        )
        await self._call("edit_workspace", task_id=self._task, operation="view", path="train.py")
        baseline = await self._run("baseline", mode="full")
        if baseline["status"] != "succeeded":
            raise DemoFailed(f"The baseline ended as {baseline['status']}: {baseline['message']}")
        steps = tomllib.loads(
            (resource("task_templates") / task["template"] / "trajectory" / "trajectory.toml").read_text(
                encoding="utf-8"
            )
        )["step"]
        smoke_failed = False
        for step in steps:
            if step.get("fixes") and not smoke_failed:
                continue
            smoke_failed = await self._step(step)
        final = await self._finalize()
        history = await self._call("read_validation", task_id=self._task, view="runs")
        return {
            "task_id": self._task,
            "dataset": self._dataset,
            "request": task["spec"]["objective"],
            "spec": task["spec"],
            "runs": [await self._run_outcome(run) for run in history["runs"]],
            "final": final["result"]["metrics"],
            "n_test": final["result"]["n_test"],
            "guarantee": {"level": final["guarantee"], "meaning": final["result"]["guarantee"]},
            "ledger_head": final["ledger_head"],
            "paths": {
                "report": final["result"]["report"],
                "model": final["result"]["model"],
                "workspace": task["workspace"],
            },
            "verify": final["result"]["verify"],
        }

    def _contract(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Translate the clinician's request, as an agent does after reading the facts."""
        if "MEL" in facts["classes"]:
            spec = {
                "objective": "Classify dermoscopic images into the eight diagnoses of ISIC 2019, melanoma first.",
                "emphasised_classes": [{"class_name": "MEL", "why": "a missed melanoma can kill"}],
                "risk_preference": "sensitivity_first",
                "primary_metric": "macro_auc",
                "reported_metrics": [
                    "macro_auc",
                    "auc_MEL",
                    "sens_at_spec80_MEL",
                    "sensitivity_MEL",
                    "specificity_MEL",
                    "f1",
                    "balanced_accuracy",
                ],
                "operating_point": "sensitivity>=0.8",
                "guards": [{"metric": "auc_MEL", "margin": 0.02}],
                "assumptions": ["All eight diagnoses matter; images that are none of them are out of scope."],
                "open_questions": [
                    "Is a sensitivity of 80 % for melanoma on validation enough, or should the threshold be lower?"
                ],
                "budget": "demo",
            }
            return {"request": REQUESTS["isic2019"], "spec": spec}
        spec = {
            "objective": f"Classify images into the {len(facts['classes'])} classes of the folder.",
            "budget": "demo",
            "assumptions": ["All classes and all errors matter equally."],
        }
        return {"request": REQUESTS["other"], "spec": spec}

    async def _step(self, step: dict[str, Any]) -> bool:
        """Edit, smoke-test, run, and go back when the run is rejected; True when the smoke test failed."""
        self._screen.phase(f"{step['name']}: {step['hypothesis']}")
        for edit in step["edits"]:
            await self._call("edit_workspace", task_id=self._task, **edit)
        smoke = await self._run(step["name"], mode="smoke")
        if smoke["status"] != "succeeded":
            phase = "predict" if smoke["reason"].startswith("predict") else "train"
            log = await self._call("read_validation", task_id=self._task, run=smoke["run"], view="log", log=phase)
            last = [line for line in log["log"].splitlines() if line.strip()][-1:]
            self._screen.note(f"smoke test failed: {smoke['message']} {last[0] if last else ''}")
            return True
        run = await self._run(step["name"], mode="full", hypothesis=step["hypothesis"])
        if run["decision"] != "accepted":
            await self._call(
                "edit_workspace", task_id=self._task, operation="restore", revision=self._incumbent["revision"]
            )
        return False

    async def _run(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Start a run and wait for its end."""
        started = await self._call("run_training", task_id=self._task, **arguments)
        run, cursor = started["run"]["run"], ""
        while True:
            seen = await self._call("read_validation", task_id=self._task, run=run, since=cursor, wait=POLL_S)
            cursor = seen["cursor"]
            self._screen.run(run, name, seen)
            if seen["run"]["status"] not in ("queued", "training", "predicting", "scoring"):
                break
        if seen["run"]["decision"] == "accepted":
            self._incumbent = seen["run"]
        self._screen.ended(run, name, seen)
        return seen["run"]

    async def _finalize(self) -> dict[str, Any]:
        self._screen.phase(f"finalize: {self._incumbent['run']} and the baseline meet the test images, once")
        while True:
            final = await self._call("finalize", task_id=self._task, run=self._incumbent["run"], wait=POLL_S)
            self._screen.note(final["phase"] or final["status"], transient=True)
            if final["status"] == "evaluated":
                return final
            if final["status"] in ("invalid", "open"):
                raise DemoFailed(f"The evaluation ended as {final['status']}: {final['next_step']}")

    async def _run_outcome(self, run: dict[str, Any]) -> dict[str, Any]:
        if run["status"] == "succeeded" and run["run"].startswith("run"):
            scores = await self._call("read_validation", task_id=self._task, run=run["run"], view="scores")
            return {**run, "scores": scores["scores"]["metrics"]}
        return {**run, "scores": None}

    async def _call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await self._client.call_tool(tool, arguments)
        if result.is_error:
            text = " ".join(getattr(item, "text", "") for item in result.content)
            raise DemoFailed(f"{tool}: {text}")
        assert result.structured_content is not None
        return result.structured_content


def _print(outcome: dict[str, Any], console: Console) -> None:
    def shown(value: dict[str, float | None]) -> str:
        return (
            "undefined" if value["value"] is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
        )

    table = Table(
        "metric",
        "initial (95 % CI)",
        "refined (95 % CI)",
        "p",
        title=f"Test set, {outcome['n_test']} cases, opened once",
    )
    for metric in outcome["final"]:
        p = "" if metric["p"] is None else f"{metric['p']:.2g}"
        table.add_row(metric["name"], shown(metric["initial"]), shown(metric["refined"]), p)
    console.print(table)
    console.print(f"Guarantee {outcome['guarantee']['meaning']}", highlight=False)
    console.print(f"Report: {outcome['paths']['report']}", highlight=False, soft_wrap=True)
    console.print(f"Check it: {outcome['verify']}", highlight=False, soft_wrap=True)
    console.print(f"{outcome['seconds']:.0f} s in all.", highlight=False)
