"""What the tools answer: one shape for all replies, cleaned once and fitted into what every client shows its model."""

from __future__ import annotations

import base64
import json
import math
from typing import Any, NamedTuple

from mcp.types import CallToolResult, ImageContent, TextContent
from pydantic import BaseModel, ConfigDict, Field

from clinloop.guarantee import Standing
from clinloop.sandbox.installed import installed
from clinloop.scoring.results import primary_as_sent
from clinloop.services import Services
from clinloop.settings import Settings
from clinloop.spec import PRESETS
from clinloop.store.rows import RunRow, TaskRow
from clinloop.untrusted import clean

REPLY_CAP = 9_500
"""Characters of a reply as JSON: clients cut the middle out of replies of more than about 10,000."""
_TEXT_CAP, _NAME_CAP = 8_000, 200
_KEPT_WHOLE = frozenset({"status", "guarantee", "ledger_head", "budget", "task_id", "cursor", "left_out"})
_NEWEST_LAST = frozenset({"runs", "validations", "log"})
"""Fields whose beginning is left out first; of all others the end is."""
_LARGE = 200
"""Characters; smaller parts are not worth shortening by themselves."""


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
    guarantee: str
    """Guarantee level of this connection: L0 honour (the agent's own shell could read the vault; its submitted code cannot), L1 sealed,
    L2 separate user, L3 remote."""
    ledger_head: str = ""
    """Newest hash of the ledger of the task (before there is one: of the dataset; empty where a reply is about neither); keep it,
    it anchors what happened so far."""
    budget: Budget | None = None
    """What is left to spend; absent before a task exists."""
    left_out: list[str] = Field(default_factory=list[str])
    """What was shortened to fit into this reply; empty = nothing."""


class ImageView(Value):
    """What code in a sandbox can import. Agents cannot install anything: there is no network inside."""

    name: str
    """Sandbox image; the custodian adds packages to it with `clinloop images build <name> --with PACKAGE==VERSION`."""
    python: str
    """Version of Python; empty while the image is not built."""
    packages: dict[str, str]
    """Version of the packages that matter; inspect_dataset(view='packages') lists all."""
    licence: str
    """What the user must know of licences before a model is built with this image; empty = nothing."""


class RunView(Value):
    """One run."""

    run: str
    """Name: run0 is the baseline, then run1 …; smoke tests are smoke1 …"""
    status: str
    """queued, training, predicting, scoring, succeeded, failed, stopped or lost."""
    revision: str
    """Revision of the workspace that it runs."""
    hypothesis: str
    """Why the change should help; shortened here, whole in the report."""
    score: float | None = None
    """Primary metric on validation from predict.py."""
    decision: str = "none"
    """accepted, rejected or none."""
    reason: str = ""
    """Code of the decision's reason, or of the end."""
    message: str = ""
    """One sentence on how it ended."""
    ran_in: str = ""
    """Sandbox backend, image and its digest; empty until it starts, and in lists."""


class TaskFacts(NamedTuple):
    """A task together with what every reply about it says."""

    task: TaskRow
    budget: Budget
    head: str
    standing: Standing


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
    return TaskFacts(task, budget, services.store.head(f"task:{task_id}"), services.standing(task.dataset))


def image_view(image: str, settings: Settings) -> ImageView:
    """Return what an agent sees of a sandbox image."""
    found = installed(image, settings)
    return ImageView(name=found.image, python=found.python, packages=found.main, licence=found.notice)


def run_view(run: RunRow, *, hypothesis_cap: int = 300, message_cap: int = 600, is_in_list: bool = False) -> RunView:
    """Return what an agent sees of a run."""
    return RunView(
        run=run.name,
        status=run.status,
        revision=run.revision,
        hypothesis=shortened(run.hypothesis, hypothesis_cap),
        score=primary_as_sent(run.scores) if run.scores else None,
        decision=run.decision,
        reason=run.reason or run.end_reason,
        message=shortened(run.message, message_cap),
        ran_in="" if is_in_list else run.ran_in,
    )


def result_view(services: Services, task: TaskRow) -> dict[str, Any] | None:
    """Return what an agent sees of a result: over HTTP it has no use for paths of the server, and gets the address of the page instead."""
    if task.result is None or services.connection in ("stdio", "socket"):
        return task.result
    page = f"{services.settings.page_url}/tasks/{task.id}"
    shown = {"report": page, "model": page, "verify": "clinloop verify REPORT, the folder of the report from that page"}
    return task.result | {name: text for name, text in shown.items() if name in task.result}


def shortened(text: str, cap: int) -> str:
    """Return a text of at most `cap` characters that shows when it was cut."""
    return text if len(text) <= cap else text[: cap - 1] + "…"


def structured(reply: Reply) -> CallToolResult:
    """Return a reply as structured content and as the same JSON in text: clients show the model one or the other."""
    value = fitted(_cleaned(reply.model_dump(mode="json")))
    return CallToolResult(content=[TextContent(type="text", text=_json(value))], structured_content=value)


def picture(data: bytes, head: str) -> CallToolResult:
    """Return a PNG as the only content: some clients drop images that stand beside structured content. The ledger's head is in `_meta`."""
    return CallToolResult(
        content=[ImageContent(type="image", data=base64.b64encode(data).decode(), mime_type="image/png")],
        _meta={"clinloop/ledger_head": head},
    )


def fitted(reply: dict[str, Any], cap: int = REPLY_CAP) -> dict[str, Any]:
    """Shorten the largest lists, tables and texts of a JSON reply in place until it has at most `cap` characters, and say so in `left_out`."""
    totals: dict[str, int] = {}
    while (excess := _size(reply) - cap) > 0:
        path = _heaviest(reply)
        parent: Any = reply
        for key in path[:-1]:
            parent = parent[key]
        whole = parent[path[-1]]
        part = _part(whole, excess + _LARGE, keep_end=path[-1] in _NEWEST_LAST)
        parent[path[-1]] = part
        name = ".".join(map(str, path))
        total = totals.setdefault(name, len(whole))
        unit, side = (
            "characters" if isinstance(whole, str) else "entries",
            "last" if path[-1] in _NEWEST_LAST else "first",
        )
        others = [line for line in reply["left_out"] if not line.startswith(f"{name}: ")]
        reply["left_out"] = [*others, f"{name}: the {side} {len(part)} of {total} {unit} are shown"][-8:]
    return reply


def _heaviest(reply: dict[str, Any]) -> list[Any]:
    """Return the path of what to shorten: from the largest field down, as long as one child makes up much of it."""
    field = max((key for key in reply if key not in _KEPT_WHOLE), key=lambda key: _size(reply[key]))
    path, node = [field], reply[field]
    while isinstance(node, dict | list) and node:
        pairs: list[tuple[Any, Any]] = list(node.items() if isinstance(node, dict) else enumerate(node))
        key, child = max(pairs, key=lambda pair: _size(pair[1]))
        share = (
            8 if isinstance(node, dict) else 2
        )  # entries of a list are alike: rather fewer of them than one cut short
        if _size(child) < max(_LARGE, _size(node) // share) or not isinstance(child, dict | list | str):
            break
        path.append(key)
        node = child
    return path


def _part(whole: Any, excess: int, *, keep_end: bool) -> Any:
    """Return a text, list or table without as many entries as make up `excess` characters, but with at least half of them (rounded down)."""
    if isinstance(whole, dict):
        entries: list[Any] = list(whole.items())
    else:
        entries = list(whole)
    if keep_end:
        entries.reverse()
    least, freed = len(entries) // 2, 0
    while len(entries) > least and freed < excess:
        freed += _size(entries.pop())
    if keep_end:
        entries.reverse()
    if isinstance(whole, dict):
        return dict(entries)
    return "".join(entries) if isinstance(whole, str) else entries


def _cleaned(value: Any) -> Any:
    """Return a JSON value whose texts and names are fit to be shown and whose numbers are finite."""
    if isinstance(value, str):
        return clean(value, cap=_TEXT_CAP)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        result: dict[str, Any] = {}
        for key, item in value.items():
            name = clean(str(key), cap=_NAME_CAP)
            while name in result:  # different names can look the same
                name += "'"
            result[name] = _cleaned(item)
        return result
    return value


def _size(value: Any) -> int:
    return len(_json(value))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
