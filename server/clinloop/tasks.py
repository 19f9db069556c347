"""Tasks: a request and a spec become a frozen contract, a workspace that runs, and a budget."""

from __future__ import annotations

import fcntl
import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from clinloop import context, templates
from clinloop.datasets.dataset import Dataset
from clinloop.errors import BadInput, Refusal
from clinloop.failpoints import reach
from clinloop.scoring import metrics
from clinloop.services import Services
from clinloop.spec import SpecFacts, TaskSpec, canonical, freeze
from clinloop.store.rows import TaskRow
from clinloop.workspace import Workspace


def create(
    services: Services,
    *,
    dataset_name: str,
    request: str,
    spec: TaskSpec,
    template: str = "",
    tier: templates.Tier = "lite",
    seed: int = 0,
    told: Sequence[str] = (),
) -> TaskRow:
    """Freeze the contract and make the workspace; the same arguments return the same task, also after a crash half-way.

    told: further assumptions, which do not make it another task.

    Raises:
        Unknown: no such dataset or template.
        BadInput: empty request, or a spec that does not fit the data (all problems at once).
    """
    plan = _plan(services, dataset_name, request, spec, template, tier, seed)
    frozen = plan.spec.model_copy(update={"assumptions": (*plan.spec.assumptions, *told)})
    slug = re.sub(r"[^a-z0-9]+", "-", dataset_name.lower()).strip("-")[:24] or "task"
    task, _ = services.store.create_task(
        task_id=f"{slug}-{secrets.token_hex(3)}",
        dataset=dataset_name,
        request=request.strip(),
        spec=frozen,
        template=plan.template.name,
        tier=tier,
        seed=seed,
        settings=services.launch_settings,
        init_key=plan.init_key,
        owner=services.principal.name,
        confirms=frozen.confirm_spec == "required",
    )
    if task.status in ("awaiting_confirmation", "preparing", "open"):
        services.record_standing(task)
    return prepare(services, task.id)


def is_new(
    services: Services,
    *,
    dataset_name: str,
    request: str,
    spec: TaskSpec,
    template: str,
    tier: templates.Tier,
    seed: int,
) -> bool:
    """Tell whether these arguments would make a task: they are valid, and there is none of them."""
    try:
        plan = _plan(services, dataset_name, request, spec, template, tier, seed)
    except Refusal:
        return False
    return services.store.task_of_key(plan.init_key) is None


class _Plan(NamedTuple):
    spec: TaskSpec
    template: templates.Template
    init_key: str


def _plan(
    services: Services, dataset_name: str, request: str, spec: TaskSpec, template: str, tier: templates.Tier, seed: int
) -> _Plan:
    if len(request.strip()) < 10:
        raise BadInput("request: give the clinician's words verbatim, at least 10 characters; they head the report.")
    dataset = Dataset.load(services.settings.state, dataset_name)
    settings = services.settings
    required = {
        name: getattr(settings, name)
        for name in ("confirm_spec", "confirm_finalize", "tradeoffs")
        if getattr(settings, name) in ("required", "clinician")
    }
    frozen = freeze(spec.model_copy(update=required), spec_facts(dataset))
    chosen = templates.find(template, frozen.task_type)
    owner = services.principal.name
    identity = [
        dataset_name,
        request,
        frozen.model_dump(mode="json"),
        chosen.name,
        tier,
        seed,
        *([owner] if owner else []),
    ]
    init_key = hashlib.sha256(canonical(identity).encode()).hexdigest()
    return _Plan(frozen, chosen, init_key)


def prepare(services: Services, task_id: str) -> TaskRow:
    """Make data and workspace of a task that is neither waiting for a confirmation nor ready, and open it."""
    task = services.store.task(task_id)
    if task.status == "preparing":
        contract = next(row for row in services.store.ledger(f"task:{task_id}") if row.event == "contract")
        tier: templates.Tier = "lite" if contract.detail["tier"] == "lite" else "standard"
        dataset = Dataset.load(services.settings.state, task.dataset)
        _prepare(services, task, dataset, templates.find(task.template, task.spec.task_type), tier)
    return services.store.task(task_id)


def require_workspace(services: Services, task_id: str) -> TaskRow:
    """Return a task with its workspace, which is made if the process that was to make it has died.

    Raises:
        NotNow: the contract is not confirmed yet, or was declined.
    """
    task = prepare(services, task_id)
    asked = services.store.open_question(task_id)
    if task.status == "declined" or (asked is not None and asked.kind == "spec"):
        services.store.require_open(task_id)
    return task


def _resolve_metric(name: str, spec: TaskSpec) -> object:
    return metrics.resolve(name, metrics.scheme_of(spec))


def spec_facts(dataset: Dataset, *, is_confirmed: bool = False) -> SpecFacts:
    """Return what a spec on a dataset is checked against."""
    task_types = ["classification"] if len(dataset.classes) > 1 else []
    if dataset.task_type != "classification":
        task_types.append(dataset.task_type)
    return SpecFacts(
        dataset.classes,
        dataset.attributes,
        dataset.counts.get("val", {}),
        _resolve_metric,
        task_types,
        dataset.targets,
        is_confirmed,
    )


def _prepare(
    services: Services, task: TaskRow, dataset: Dataset, template: templates.Template, tier: templates.Tier
) -> None:
    folder = services.state.task(task.id)
    folder.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder.root / "prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if services.store.task(task.id).status != "preparing":
            return
        context.prepare_task_data(dataset, task.spec, folder)
        Workspace(folder.workspace, folder.revisions).create_from(template.name, template.sources(tier))
        reach("task:prepared")
        services.store.open_task(task.id)
