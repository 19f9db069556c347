"""What all tools share: the reply, the way refusals reach the agent, and how long a client may wait."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from mcp.server.mcpserver import Context, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from pydantic import BaseModel, ConfigDict

from clinloop.errors import Refusal
from clinloop.services import Services
from clinloop.spec import PRESETS
from clinloop.store.rows import RunRow, TaskRow

REPLY_CAP = 9_500
"""Characters of a reply; Codex cuts the middle out of longer ones."""

DEFAULT_WAIT_S = 20.0
# Client name -> longest wait in seconds. Source: default tool limits measured with real clients (openai-agents 5 s, TypeScript SDK 60 s,
# Codex 300 s, Claude Code hours); unknown clients get what the shortest common limit of 60 s allows.
_WAIT_CAPS = {"claude-code": 600.0, "codex-mcp-client": 240.0, "openai-agents-mcp": 4.0, "gemini-cli-mcp-client": 300.0}
_WAIT_CAP_UNKNOWN = 45.0


def _services(ctx: Context[Services]) -> Services:
    return ctx.request_context.lifespan_context


State = Annotated[Services, Resolve(_services)]
"""The server's services, injected and invisible to the agent."""


class Value(BaseModel):
    """Base of everything in a reply: frozen, nothing extra, field docstrings become descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Budget(Value):
    """What a task has left."""

    preset: str
    """Name of the budget preset."""
    runs_left: int
    """Charged runs left."""
    runs_granted: int
    """Charged runs granted, the baseline included."""
    seconds_per_run: int
    """Wall-clock seconds of one train.py."""
    smokes_left: int
    """Free smoke tests left."""
    error_views_left: int
    """Views of validation errors left."""


class Reply(Value):
    """What every reply carries."""

    status: str
    """State of what was asked about, or "ok"."""
    next_step: str
    """What to do next."""
    guarantee: str = "L0"
    """Guarantee level: L0 = honour (the agent's own shell could read the server's files; its submitted code cannot)."""
    ledger_head: str = ""
    """Newest hash of the task's ledger; keep it, it anchors what happened so far."""
    budget: Budget | None = None
    """What is left to spend; absent before a task exists."""


class RunView(Value):
    """One run."""

    run: str
    """Name: run0 is the baseline, then run1 …; smoke tests are smoke1 …"""
    status: str
    """queued, training, predicting, scoring, succeeded, failed, stopped or lost."""
    revision: str
    """Revision of the workspace that it runs."""
    hypothesis: str
    """Why the change should help."""
    score: float | None = None
    """Primary metric on validation from predict.py."""
    decision: str = "none"
    """accepted, rejected or none."""
    reason: str = ""
    """Code of the decision's reason, or of the end."""
    message: str = ""
    """One sentence on how it ended."""


class TaskFacts(NamedTuple):
    """A task together with what every reply about it says."""

    task: TaskRow
    budget: Budget
    head: str


def task_facts(services: Services, task_id: str) -> TaskFacts:
    """Return a task with its budget and ledger head."""
    task = services.store.task(task_id)
    left = services.store.balance(task_id)
    preset = PRESETS[task.spec.budget]
    budget = Budget(
        preset=task.spec.budget,
        runs_left=left["run"],
        runs_granted=preset.runs,
        seconds_per_run=preset.train_seconds,
        smokes_left=left["smoke"],
        error_views_left=left["error_view"],
    )
    return TaskFacts(task, budget, services.store.head(f"task:{task_id}"))


def run_view(run: RunRow) -> RunView:
    """Return what an agent sees of a run."""
    return RunView(
        run=run.name,
        status=run.status,
        revision=run.revision,
        hypothesis=run.hypothesis[:300],
        score=None if run.score is None else round(run.score, 4),
        decision=run.decision,
        reason=run.reason or run.end_reason,
        message=run.message[:600],
    )


def wait_seconds(ctx: Context[Services], asked: float) -> float:
    """Return how long this client may wait: what it asked for, capped by setting or by its name."""
    params = ctx.session.client_params
    name = params.client_info.name if params else ""
    configured = ctx.request_context.lifespan_context.settings.wait_cap_s
    cap = configured if configured is not None else _WAIT_CAPS.get(name, _WAIT_CAP_UNKNOWN)
    return max(0.0, min(asked, cap))


def structured(reply: BaseModel) -> CallToolResult:
    """Return a reply as structured content and as the same JSON in text: clients show the model one or the other."""
    text = reply.model_dump_json()
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=reply.model_dump(mode="json")
    )


def picture(data: bytes) -> CallToolResult:
    """Return a PNG as the only content: some clients drop images that stand beside structured content."""
    import base64

    return CallToolResult(
        content=[ImageContent(type="image", data=base64.b64encode(data).decode(), mime_type="image/png")]
    )


def tool(
    function: Callable[..., Any],
    *,
    title: str,
    read_only: bool,
    idempotent: bool,
    destructive: bool = False,
    always_load: bool = True,
) -> Tool:
    """Make the tool of a function: all annotations set, unknown arguments refused, refusals shown to the agent."""
    made = Tool.from_function(
        _refusing(function),
        name=function.__name__,
        title=title,
        description=inspect.cleandoc(function.__doc__ or ""),
        annotations=ToolAnnotations(
            title=title,
            read_only_hint=read_only,
            destructive_hint=destructive,
            idempotent_hint=idempotent,
            open_world_hint=False,
        ),
        meta={"anthropic/alwaysLoad": always_load},
    )
    arguments = made.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"  # the SDK would drop a misspelt argument silently
    arguments.model_rebuild(force=True)
    made.parameters = arguments.model_json_schema(by_alias=True)
    return made


def _refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn refusals into tool errors, the only exceptions whose text reaches the agent."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except Refusal as refusal:
                raise ToolError(str(refusal)) from refusal

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Refusal as refusal:
            raise ToolError(str(refusal)) from refusal

    return call
