"""finalize: open the hidden test set once and score the accepted model and the baseline on it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from clinloop import tasks
from clinloop.services import Services
from clinloop.store.rows import QuestionRow
from clinloop.tradeoffs import tradeoffs_of
from clinloop_tools.common import services_of, tool, wait_seconds
from clinloop_tools.replies import Reply, result_view, spoken, task_facts, waiting_step
from clinloop_tools.tradeoffs import waiting

_ASKED = ("awaiting_confirmation", "awaiting_choice")
"""States in which the clinician was asked something by finalize."""


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
    ctx: Context[Services],
    wait: Annotated[
        float, Field(description="Seconds to wait for the result in this call. Default 20.", ge=0, le=3600)
    ] = 20.0,
) -> Annotated[CallToolResult, FinalReply]:
    """Score the accepted model and the baseline on the hidden test set. Once per task, and it ends the task.

    Both are rehearsed on validation images first; if that fails, the test set stays sealed and the task stays open. Then each
    predicts the test images in a fresh sandbox, and the server scores them with 95 % intervals and paired p-values, writes the
    report and the model folder. It takes minutes: the call returns "evaluating"; repeat it, with the same arguments, for the
    stored result. Where the clinician must agree first, it waits in "awaiting_confirmation"; where trade-offs are theirs to settle, in
    "awaiting_choice"; where the test set is sealed, it ends in "awaiting_unseal" until the clinician opens it. Nothing that the final
    sandboxes print comes back. Call it when read_validation shows no run worth another try.
    """
    state = services_of(ctx)
    from clinloop import evaluation  # late: a server must answer its first request within a second

    await anyio.to_thread.run_sync(tasks.require_workspace, state, task_id)
    if not _is_news(state, task_id, run):
        await anyio.to_thread.run_sync(evaluation.start, state, task_id, run)
    deadline = time.monotonic() + wait_seconds(ctx, wait)
    task = state.store.task(task_id)
    beat = 0
    while task.status in ("evaluating", "unsealed", *_ASKED) and time.monotonic() < deadline:
        if task.status in _ASKED and state.store.waiting_notes(task_id):
            break
        await anyio.sleep(0.5)
        beat += 1
        if beat % 20 == 0:
            await ctx.report_progress(beat, None, task.phase)
        task = state.store.task(task_id)
    facts, level = task_facts(state, task_id), state.store.recorded_level(task_id)
    if task.status == "open" and task.chosen_run and not task.phase:
        next_step = f"The clinician has chosen {task.chosen_run}: go on from it, or finalize(task_id='{task_id}', run='{task.chosen_run}')."
    elif task.status == "open":  # given back
        next_step = (
            f"The evaluation ended before the test set was opened: {task.phase} Put that right, then finalize again."
            if (refused := _refusal(state, task_id)) is None
            else f"{refused.answered_by} does not want the test set opened yet: {(refused.answer or {}).get('why')} Go on, then finalize again."
        )
    elif waits := waiting_step(state, task):
        next_step = waiting(waits, tradeoffs_of(state, task_id)) if task.status == "awaiting_choice" else waits
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
    return spoken(state, task_id, reply)


def _refusal(services: Services, task_id: str) -> QuestionRow | None:
    """Return the clinician's no, if that is what they said last to opening the test set."""
    asked = [question for question in services.store.questions(task_id) if question.kind == "finalize"]
    return asked[-1] if asked and asked[-1].answer and not asked[-1].answer["approved"] else None


def _is_news(services: Services, task_id: str, run: str) -> bool:
    """Tell whether the agent has not heard yet of a no for this run: then it hears that before the clinician is asked again."""
    refused = _refusal(services, task_id)
    is_open = services.store.task(task_id).status == "open"
    return (
        is_open and refused is not None and refused.asked["run"] == run and bool(services.store.waiting_notes(task_id))
    )


TOOL = tool(
    finalize, title="Finalize and score on the hidden test set", read_only=False, idempotent=True, destructive=True
)
