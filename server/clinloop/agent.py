"""A scripted agent: it plays a trajectory over MCP like any other client, but reads every outcome from the server and decides by it."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import Implementation
from pydantic import BaseModel, ConfigDict

from clinloop.demo_screen import Screen
from clinloop.errors import Refusal
from clinloop.resources import resource
from clinloop.services import Services

POLL_S = 2.0
_ACTIVE = ("queued", "training", "predicting", "scoring")
_SHOWN = 80
"""Characters of a hypothesis that are compared with a list of runs, which shortens them."""


class PlayFailed(Refusal):
    """A trajectory could not be played to its end."""


class Step(BaseModel):
    """One change of the workspace with its reason."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """What is changed, in a few words."""
    hypothesis: str
    """Why it should help."""
    edits: list[dict[str, Any]]
    """Arguments of edit_workspace, one call each."""
    fixes: bool = False
    """Played only when the smoke test of the step before failed, on top of its edits."""
    inputs: list[str] = []
    """Runs whose /out this run reads at /inputs; "incumbent" stands for the best accepted run."""


@dataclass(frozen=True)
class Plan:
    """What the agent is to do: the contract that it writes, and the trajectory that it plays."""

    dataset: str
    request: str
    spec: dict[str, Any]
    steps: Sequence[Step]
    template: str = ""
    """"" = the one for the task type."""
    seed: int = 0


@dataclass
class _Progress:
    """Where a task stands."""

    task_id: str
    incumbent: dict[str, Any] = field(default_factory=dict[str, Any])
    runs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Those of an earlier call, all ended."""


def read_trajectory(template: str, name: str) -> list[Step]:
    """Return the steps of task_templates/`template`/trajectory/`name`.toml."""
    file = resource("task_templates") / template / "trajectory" / f"{name}.toml"
    return [Step.model_validate(step) for step in tomllib.loads(file.read_text(encoding="utf-8"))["step"]]


@asynccontextmanager
async def connected(services: Services, screen: Screen, name: str) -> AsyncGenerator[Agent]:
    """Start the server of a state folder as a subprocess and hand out an agent that talks to it over stdio as client `name`."""
    arguments = ["-I", "-m", "clinloop", "serve", "--stdio", "--state", str(services.settings.state)]
    arguments += ["--sandbox", services.settings.sandbox]
    if services.accept_no_isolation:
        arguments.append("--i-accept-no-isolation")
    server = StdioServerParameters(command=sys.executable, args=arguments)
    with (services.settings.state / "server.log").open("a", encoding="utf-8") as errors:
        client = Client(stdio_client(server, errlog=errors), client_info=Implementation(name=name, version="1"))
        refusal: Refusal | None = None
        async with client:
            try:
                yield Agent(client, screen)
            except Refusal as found:  # kept out of the client's task group, which would wrap it
                refusal = found
        if refusal is not None:
            raise refusal


class Agent:
    """Plays plans on one connection, one after the other."""

    def __init__(self, client: Client, screen: Screen) -> None:
        self._client, self._screen = client, screen

    async def inspect(self, dataset: str) -> dict[str, Any]:
        """Return the facts of a dataset, and show what the audit says first."""
        found = await self._call("inspect_dataset", dataset=dataset)
        audit = await self._call("inspect_dataset", dataset=dataset, view="audit")
        for line in audit["facts"]["audit"][:3]:
            self._screen.note(f"audit: {line}")
        return found["facts"]

    async def play(self, plan: Plan) -> dict[str, Any]:
        """Play a plan to its end and return its outcome; what an earlier call of the same plan has done is not done again.

        Raises:
            PlayFailed: a tool refused, the baseline has no score, or the evaluation could not be completed.
        """
        arguments = {"template": plan.template, "seed": plan.seed}
        task = await self._call("init_task", dataset=plan.dataset, request=plan.request, spec=plan.spec, **arguments)
        budget = task["budget"]
        self._screen.phase(f"task {task['task_id']}: {budget['runs_granted']} runs of {budget['seconds_per_run']} s")
        at = _Progress(task["task_id"])
        if task["status"] == "open":
            await self._develop(at, plan)
        else:
            await self._look(at)
        final = await self._finalize(at)
        history = await self._call("read_validation", task_id=at.task_id, view="runs")
        return {
            "task_id": at.task_id,
            "dataset": plan.dataset,
            "request": plan.request,
            "spec": task["spec"],
            "runs": [await self._run_outcome(at, run) for run in history["runs"]],
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

    async def _develop(self, at: _Progress, plan: Plan) -> None:
        """Run the baseline, then each proposal: a step, and the fix that follows it where its smoke test fails."""
        await self._look(at)
        if at.runs:
            self._screen.note(f"going on after {at.runs[-1]['run']}")
            for run in at.runs:
                if run["status"] in _ACTIVE:  # one that an interruption left alone
                    await self._wait(at, run["run"], run["run"])
            await self._look(at)
        await self._call("edit_workspace", task_id=at.task_id, operation="view", path="train.py")
        if not at.incumbent:
            baseline = await self._run(at, "baseline", mode="full", request_id=f"baseline {len(at.runs)}")
            if baseline["status"] != "succeeded":
                raise PlayFailed(f"The baseline ended as {baseline['status']}: {baseline['message']}")
        elif at.runs:
            await self._restore(at)  # an interruption may have left half of a step
        for proposal in proposals(plan.steps):
            if not any(run["status"] in ("succeeded", "failed") for run in _full_runs_of(at.runs, proposal)):
                await self._propose(at, proposal)

    async def _look(self, at: _Progress) -> None:
        """Read from the server what has been done so far."""
        seen = await self._call("read_validation", task_id=at.task_id, view="runs")
        at.runs = seen["runs"]
        at.incumbent = next((run for run in at.runs if run["run"] == seen["incumbent"]), {})

    async def _propose(self, at: _Progress, proposal: Sequence[Step]) -> None:
        """Edit and smoke-test until a smoke test passes, run, and go back unless the run is accepted."""
        for step in proposal:
            self._screen.phase(f"{step.name}: {step.hypothesis}")
            for edit in step.edits:
                await self._call("edit_workspace", task_id=at.task_id, **edit)
            inputs = [at.incumbent["run"] if name == "incumbent" else name for name in step.inputs]
            smoke = await self._run(at, step.name, mode="smoke", inputs=inputs)
            if smoke["status"] == "succeeded":
                number = len(_full_runs_of(at.runs, proposal))
                named = {"hypothesis": step.hypothesis, "request_id": f"{step.name[:90]} {number}"}
                run = await self._run(at, step.name, mode="full", inputs=inputs, **named)
                if run["decision"] == "accepted":
                    return
                break
            await self._show_failure(at, smoke)
        await self._restore(at)

    async def _restore(self, at: _Progress) -> None:
        """Go back to the code of the incumbent, unless the workspace is so already."""
        revision = at.incumbent["revision"]
        changed = await self._call("edit_workspace", task_id=at.task_id, operation="diff", since=revision)
        if not changed["diff"]:
            return
        await self._call("edit_workspace", task_id=at.task_id, operation="restore", revision=revision)

    async def _run(self, at: _Progress, name: str, **arguments: Any) -> dict[str, Any]:
        """Start a run and wait for its end."""
        started = await self._call("run_training", task_id=at.task_id, **arguments)
        return await self._wait(at, started["run"]["run"], name)

    async def _wait(self, at: _Progress, run: str, name: str) -> dict[str, Any]:
        cursor = ""
        while True:
            seen = await self._call("read_validation", task_id=at.task_id, run=run, since=cursor, wait=POLL_S)
            cursor = seen["cursor"]
            self._screen.run(run, name, seen)
            if seen["run"]["status"] not in _ACTIVE:
                break
        if seen["run"]["decision"] == "accepted":
            at.incumbent = seen["run"]
        self._screen.ended(run, name, seen)
        return seen["run"]

    async def _show_failure(self, at: _Progress, smoke: dict[str, Any]) -> None:
        phase = "predict" if smoke["reason"].startswith("predict") else "train"
        log = await self._call("read_validation", task_id=at.task_id, run=smoke["run"], view="log", log=phase)
        last = [line for line in log["log"].splitlines() if line.strip()][-1:]
        self._screen.note(f"smoke test failed: {smoke['message']} {last[0] if last else ''}")

    async def _finalize(self, at: _Progress) -> dict[str, Any]:
        self._screen.phase(f"finalize: {at.incumbent['run']} and the baseline meet the test images, once")
        while True:
            final = await self._call("finalize", task_id=at.task_id, run=at.incumbent["run"], wait=POLL_S)
            self._screen.note(final["phase"] or final["status"], transient=True)
            if final["status"] == "evaluated":
                return final
            if final["status"] not in ("evaluating", "unsealed"):
                raise PlayFailed(f"The evaluation ended as {final['status']}: {final['next_step']}")

    async def _run_outcome(self, at: _Progress, run: dict[str, Any]) -> dict[str, Any]:
        if run["status"] == "succeeded" and run["run"].startswith("run"):
            scores = await self._call("read_validation", task_id=at.task_id, run=run["run"], view="scores")
            return {**run, "scores": scores["scores"]["metrics"]}
        return {**run, "scores": None}

    async def _call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await self._client.call_tool(tool, arguments)
        if result.is_error:
            text = " ".join(getattr(item, "text", "") for item in result.content)
            raise PlayFailed(f"{tool}: {text}")
        assert result.structured_content is not None
        return result.structured_content


def proposals(steps: Sequence[Step]) -> list[list[Step]]:
    """Return the steps as they are proposed: a step together with the fixes that follow it."""
    grouped: list[list[Step]] = []
    for step in steps:
        if step.fixes:
            grouped[-1].append(step)
        else:
            grouped.append([step])
    return grouped


def _full_runs_of(runs: Sequence[dict[str, Any]], proposal: Sequence[Step]) -> list[dict[str, Any]]:
    texts = {step.hypothesis[:_SHOWN] for step in proposal}
    return [run for run in runs if run["run"].startswith("run") and run["hypothesis"][:_SHOWN] in texts]
