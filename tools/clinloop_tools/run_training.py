"""run_training: start, smoke-test or stop a sandboxed run of one revision; it returns at once."""

from __future__ import annotations

from typing import Annotated, Literal

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from clinloop import runs, tasks
from clinloop.errors import BadInput
from clinloop.services import Services
from clinloop.store.rows import RunRow
from clinloop_tools.common import services_of, tool
from clinloop_tools.replies import Reply, RunView, run_view, spoken, task_facts


class RunReply(Reply):
    """A run that was started, found or asked to stop."""

    task_id: str
    """Task."""
    run: RunView
    """The run."""
    is_new: bool
    """False when this start was made before: nothing was charged again."""


def run_training(
    task_id: Annotated[str, Field(description='Task, e.g. "isic-3f9a2c".')],
    ctx: Context[Services],
    mode: Annotated[
        Literal["full", "smoke", "stop"],
        Field(
            description='"full" (default) costs one run; "smoke" is free and short; "stop" ends the run named by `run`.'
        ),
    ] = "full",
    hypothesis: Annotated[
        str,
        Field(
            description="Why this change should help, one or two sentences; required for a full run but the baseline, it goes into the "
            "report. Default: none.",
            max_length=2000,
        ),
    ] = "",
    revision: Annotated[
        str, Field(description='Revision to run, e.g. "r4". Default: the newest state of the workspace.')
    ] = "",
    inputs: Annotated[
        list[str] | None,
        Field(
            description='Succeeded full runs whose /out is mounted read-only at /inputs/<run>, e.g. ["run2"]. Default: none.'
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        Field(
            description="GPUs for this run; the code finds their number in session.gpus, and the run waits in line until they are free. Default: what "
            "the custodian has set, usually 1 where there is a GPU, else 0.",
            ge=0,
            le=64,
        ),
    ] = None,
    request_id: Annotated[
        str,
        Field(
            description="Any string of yours; the same string never starts or charges a second run. Default: none.",
            max_length=100,
        ),
    ] = "",
    run: Annotated[str, Field(description='For mode "stop": the run to end, e.g. "run3". Default: none.')] = "",
) -> Annotated[CallToolResult, RunReply]:
    """Start one training run of the workspace in a sandbox, or smoke-test it, or stop a run. Returns at once.

    The first full run is the baseline (run0): it trains the initial workspace unchanged. Smoke-test every edit first: mode "smoke"
    runs train.py and predict.py on a few cases, is free, and finds most mistakes within a minute. A full run costs one unit of
    the budget when it starts, also if your code crashes. It has no network, sees training labels only, and is ended at its deadline;
    the checkpoint that it has left by then is kept. Afterwards the server runs predict.py on the validation images, scores the
    predictions and accepts or rejects the run against the incumbent. One run per task at a time. It goes on when you disconnect.
    Next: read_validation(task_id) waits for it.
    """
    state = services_of(ctx)
    tasks.require_workspace(state, task_id)
    if mode == "stop":
        if not run:
            raise BadInput("Mode 'stop' needs `run`, the name of the run to end, e.g. run='run3'.")
        stopped = runs.stop(state, task_id, run)
        return _reply(state, stopped, is_new=False, next_step="to see it end")
    if run:
        raise BadInput(
            "`run` names the run to end and belongs to mode 'stop'; to start one, leave it out (use `revision` to choose code)."
        )
    started = runs.start(
        state,
        task_id,
        mode=mode,
        hypothesis=hypothesis,
        request_id=request_id,
        revision=revision,
        inputs=inputs,
        gpus=gpus,
    )
    return _reply(
        state, started.run, is_new=started.is_new, next_step="and repeat with its cursor until the run has ended"
    )


def _reply(services: Services, run: RunRow, *, is_new: bool, next_step: str) -> CallToolResult:
    facts = task_facts(services, run.task_id)
    reply = RunReply(
        status=run.status,
        next_step=f"Call read_validation(task_id='{run.task_id}', run='{run.name}') {next_step}.",
        guarantee=facts.standing.level.code,
        ledger_head=facts.head,
        budget=facts.budget,
        task_id=run.task_id,
        run=run_view(run),
        is_new=is_new,
    )
    return spoken(services, run.task_id, reply)


TOOL = tool(run_training, title="Run training", read_only=False, idempotent=False)
