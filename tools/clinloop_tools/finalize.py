"""finalize: open the hidden test set once and score the accepted model and the baseline on it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from clinloop.services import Services
from clinloop_tools.common import State, tool, wait_seconds
from clinloop_tools.replies import Reply, result_view, structured, task_facts


class FinalReply(Reply):
    """State or result of an evaluation."""

    task_id: str
    """Task."""
    guarantee_meaning: str
    """What the lowest level of the task means; the report states it."""
    phase: str = ""
    """What the evaluation is doing while status is "evaluating" or "unsealed"."""
    result: dict[str, Any] | None = None
    """When status is "evaluated": metrics before and after with 95 % intervals and paired p-values, and where the report lies."""


async def finalize(
    task_id: Annotated[str, Field(description='Task, e.g. "isic-3f9a2c".')],
    run: Annotated[
        str,
        Field(
            description='The incumbent as you know it, e.g. "run4": a confirmation that you mean the accepted model.'
        ),
    ],
    state: State,
    ctx: Context[Services],
    wait: Annotated[
        float, Field(description="Seconds to wait for the result in this call. Default 20.", ge=0, le=3600)
    ] = 20.0,
) -> Annotated[CallToolResult, FinalReply]:
    """Score the accepted model and the baseline on the hidden test set. Once per task, and it ends the task.

    Both are rehearsed on validation images first; if that fails, the test set stays sealed and the task stays open. Then each
    predicts the test images in a fresh sandbox, and the server scores them with 95 % intervals and paired p-values, writes the
    report and the model folder. It takes minutes: the call returns "evaluating"; repeat it, with the same arguments, for the
    stored result. Where the test set is sealed it ends in "awaiting_unseal", until the clinician opens it. Nothing that the final
    sandboxes print comes back. Call it when read_validation shows no run worth another try.
    """
    from clinloop import evaluation  # late: a server must answer its first request within a second

    await anyio.to_thread.run_sync(evaluation.start, state, task_id, run)
    deadline = time.monotonic() + wait_seconds(ctx, wait)
    task = state.store.task(task_id)
    beat = 0
    while task.status in ("evaluating", "unsealed") and time.monotonic() < deadline:
        await anyio.sleep(0.5)
        beat += 1
        if beat % 20 == 0:
            await ctx.report_progress(beat, None, task.phase)
        task = state.store.task(task_id)
    facts, level = task_facts(state, task_id), state.store.recorded_level(task_id)
    if task.status == "open":  # given back
        next_step = (
            f"The evaluation ended before the test set was opened: {task.phase} Put that right, then finalize again."
        )
    elif task.status == "awaiting_unseal":
        next_step = (
            f"The test set is sealed and both models are frozen. Tell the clinician to run `clinloop unseal {task_id} --identity FILE` with the "
            f"key that only they have; until then there is nothing for you to do. Afterwards finalize(task_id='{task_id}', run='{run}') "
            "returns the result."
        )
    elif task.result is None:
        next_step = f"Call finalize(task_id='{task_id}', run='{run}') again in a while; it returns the stored result."
    else:
        next_step = "Tell the clinician the result with its intervals, the guarantee level and where the report lies. The task is closed."
    standing = facts.standing
    meaning = standing.text if standing.level == level else f"{level.code} {level.name}: {level.meaning}"
    reply = FinalReply(
        status=task.status,
        next_step=next_step,
        guarantee=level.code,
        guarantee_meaning=meaning,
        ledger_head=facts.head,
        budget=facts.budget,
        task_id=task_id,
        phase=task.phase,
        result=result_view(state, task),
    )
    return structured(reply)


TOOL = tool(
    finalize, title="Finalize and score on the hidden test set", read_only=False, idempotent=True, destructive=True
)
