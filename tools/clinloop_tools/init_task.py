"""init_task: the clinician's request and its structured spec become a frozen contract with a workspace and a budget."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context, Resolve
from mcp.types import CallToolResult
from pydantic import Field

from clinloop import context, ingestion, tasks, templates
from clinloop.errors import NotNow
from clinloop.services import Services
from clinloop.spec import TaskSpec
from clinloop_tools.asking import Answers, ask_open_questions, told
from clinloop_tools.common import services_of, tool
from clinloop_tools.replies import ImageView, Reply, image_view, spoken, task_facts, waiting_step


class TaskReply(Reply):
    """A task, ready for runs unless status says that the clinician has to confirm it."""

    task_id: str
    """Name of the task in all other calls."""
    spec: dict[str, Any]
    """The frozen contract, with everything filled in that was left open."""
    spec_sha256: str
    """Its hash, recorded in the ledger."""
    ledger_key: str
    """Fingerprint of the key that signs the ledger; the clinician notes it for `clinloop verify --key`."""
    template: str
    """What the workspace started from."""
    tier: str
    """How much it started with: lite or standard."""
    files: list[str]
    """Files of the workspace."""
    workspace: str
    """Folder of the workspace; it may also be edited with your own tools, every run snapshots it. Empty when it is out of your reach, or not made yet."""
    guarantee_meaning: str
    """What that level means, and why it is not higher; the report states the lowest level of the task."""
    image: ImageView
    """What the code can import."""
    open_questions: list[str]
    """What the clinician should still answer; ask before you spend the budget."""


def init_task(
    dataset: Annotated[str, Field(description="Name of a dataset, as inspect_dataset lists it.")],
    request: Annotated[
        str, Field(description="The clinician's request, verbatim; it heads the report.", max_length=4000)
    ],
    spec: Annotated[
        TaskSpec, Field(description="What the request means. At least `objective`; everything else has a default.")
    ],
    ctx: Context[Services],
    answers: Annotated[ElicitationResult[Answers], Resolve(ask_open_questions)],
    template: Annotated[
        str, Field(description='What the workspace starts from. Default: the one for the task type ("classification").')
    ] = "",
    tier: Annotated[
        templates.Tier,
        Field(
            description='"lite" (default): the baseline, TECHNIQUES.md and small tested modules in techniques/ to build on; '
            '"standard": the baseline alone, for comparing agents. It is recorded.'
        ),
    ] = "lite",
    seed: Annotated[
        int,
        Field(description="Seed of the task; another seed makes another task of the same contract. Default 0.", ge=0),
    ] = 0,
) -> Annotated[CallToolResult, TaskReply]:
    """Freeze the contract of a task: request + spec -> budget, workspace with a baseline that runs, ledger.

    Call it after inspect_dataset. Translate the request yourself: which classes, which error is worse, which metric decides, what must
    not get worse. Write what you assumed into `assumptions` and what only the clinician can say into `open_questions`. The spec is
    checked against the data and all problems come back at once. It cannot be changed afterwards, except by the clinician where they must
    confirm it first (status "awaiting_confirmation"; read_validation waits for that). The same arguments return the same task.
    Next: read the workspace with edit_workspace, then start the baseline with run_training.
    """
    state = services_of(ctx)
    if dataset in ingestion.folders(state):
        raise NotNow(f"Folder {dataset!r} is not ingested yet: inspect it first, inspect_dataset(dataset={dataset!r}).")
    task = tasks.create(
        state,
        dataset_name=dataset,
        request=request,
        spec=spec,
        template=template,
        tier=tier,
        seed=seed,
        told=told(spec, answers),
    )
    facts = task_facts(state, task.id)
    workspace = state.state.task(task.id).workspace
    files = templates.find(task.template, task.spec.task_type).sources(tier)
    begin = (
        f"Read {', '.join(name for name in files if '/' not in name)} with edit_workspace(task_id='{task.id}', operation='view', path=...), "
        f"then start the baseline: run_training(task_id='{task.id}')."
    )
    reply = TaskReply(
        status=task.status,
        next_step=waiting_step(state, task) or begin,
        guarantee=facts.standing.level.code,
        guarantee_meaning=facts.standing.text,
        ledger_head=facts.head,
        budget=facts.budget,
        task_id=task.id,
        spec=task.spec.model_dump(mode="json"),
        spec_sha256=task.spec.sha256(),
        ledger_key=state.store.key_fingerprint,
        template=task.template,
        tier=tier,
        files=list(files),
        workspace=str(workspace) if state.connection == "stdio" and workspace.is_dir() else "",
        image=image_view(context.image_of(state.settings, task), state.settings),
        open_questions=list(task.spec.open_questions),
    )
    return spoken(state, task.id, reply)


TOOL = tool(init_task, title="Start a task", read_only=False, idempotent=True)
