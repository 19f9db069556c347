"""Confirm a contract: the clinician reads what was understood, answers, edits, and confirms or declines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from clinloop import clinician
from clinloop.datasets.dataset import Dataset
from clinloop.errors import BadInput
from clinloop.scoring import metrics
from clinloop.services import Services
from clinloop.spec import Guard, TaskSpec
from clinloop.store.rows import TaskRow
from clinloop.web import words
from clinloop.web.pages import Page, back, form_of, in_thread, render
from clinloop.web.signing_in import services_of
from clinloop.web.task_facts import TaskLook, look_at
from clinloop.web.task_forms import EMPTY, Filled, waiting_for
from clinloop.web.task_page import SAID

RULES = (
    ("youden", "Sensitivity and specificity together as high as can be"),
    ("sensitivity", "At least this sensitivity"),
    ("specificity", "At least this specificity"),
    ("cost", "A miss counts as much as this many false alarms"),
)
_MARGIN = 0.02
"""How much worse the value of a class may get that the clinician marks as important; the default of the spec."""


class Choices(NamedTuple):
    """What the form lets the clinician choose from."""

    primary: list[tuple[str, str]]
    attributes: list[str]


async def confirm(request: Request) -> Response:
    """Show the form, or confirm or decline."""
    services, task_id = services_of(request), request.path_params["task"]
    task, _ = await in_thread(waiting_for, services, task_id, "spec")
    filled, status = EMPTY, 200
    if request.method == "POST":
        form = await form_of(request)
        given = {key: value for key, value in form.items() if isinstance(value, str)}
        errors = await in_thread(_act, services, task, form, given)
        if not errors:
            return back(f"/tasks/{task_id}")
        filled, status = Filled(given, errors), 400
    look = await in_thread(look_at, services, task_id)
    choices = await in_thread(_choices, services, task)
    values = filled if filled.values else Filled(_values(task.spec), {})
    return render(
        request,
        "task/confirm.html.j2",
        status,
        look=look,
        words=SAID,
        filled=values,
        choices=choices,
        rules=RULES,
        risks=list(words.RISKS.items()),
        acceptance=list(words.ACCEPTANCE.items()),
        titles=_titles(look),
    )


def _act(services: Services, task: TaskRow, form: FormData, given: Mapping[str, str]) -> dict[str, str]:
    """Confirm or decline; returns what was wrong by field, nothing when it was done."""
    if given.get("act") == "decline":
        try:
            clinician.decline_spec(services, task.id, given.get("decline_why", ""))
        except BadInput as error:
            return {"decline_why": str(error)}
        return {}
    changes, errors = changes_of(task.spec, given)
    if errors:
        return errors
    answers = {question: given.get(f"answer_{place}", "") for place, question in enumerate(task.spec.open_questions)}
    try:
        clinician.confirm_spec(services, task.id, answers=answers, changes=changes)
    except BadInput as error:
        return problems_of(str(error), task.spec)
    return {}


def changes_of(spec: TaskSpec, given: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields of a spec that a form changes, and what cannot be read of it by field."""
    errors: dict[str, str] = {}
    emphasised = _chosen(given, "emphasis", spec.target_classes, "class_name", errors)
    confounders = _chosen(given, "confounder", _listed(given, "confounder"), "attribute", errors)
    guards: list[dict[str, Any]] = []
    for place, guard in enumerate(spec.guards):
        margin = _number(given.get(f"margin_{place}", ""), f"margin_{place}", errors)
        guards.append({"metric": guard.metric, "margin": margin})
    found: dict[str, Any] = {
        "objective": given.get("objective", "").strip(),
        "emphasised_classes": emphasised,
        "risk_preference": given.get("risk_preference", ""),
        "primary_metric": given.get("primary_metric", ""),
        "operating_point": _rule(spec, given, errors),
        "acceptance": given.get("acceptance", ""),
        "confounders": confounders,
        "assumptions": [line.strip() for line in given.get("assumptions", "").splitlines() if line.strip()],
        "guards": guards,
    }
    if not errors:
        _follow(spec, found)
    before = spec.model_dump(mode="json")
    return {key: value for key, value in found.items() if value != before[key]}, errors


def _chosen(
    given: Mapping[str, str], prefix: str, names: Any, key: str, errors: dict[str, str]
) -> list[dict[str, str]]:
    """Return what was ticked, each with its reason; a tick without a reason is an error."""
    found: list[dict[str, str]] = []
    for place, name in enumerate(names):
        if not given.get(f"{prefix}_{place}"):
            continue
        why = given.get(f"{prefix}_why_{place}", "").strip()
        if not why:
            errors[f"{prefix}_why_{place}"] = f"Say in a few words why {name} is ticked."
        found.append({key: name, "why": why})
    return found


def _listed(given: Mapping[str, str], prefix: str) -> list[str]:
    """Return the names that the form listed, in its order."""
    names: list[str] = []
    while (name := given.get(f"{prefix}_name_{len(names)}")) is not None:
        names.append(name)
    return names


def _number(text: str, field: str, errors: dict[str, str]) -> float:
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        errors[field] = "Give a number from 0 to 1, for example 0.02."
    return value


def _rule(spec: TaskSpec, given: Mapping[str, str], errors: dict[str, str]) -> str:
    """Return the operating point of the form; other kinds of task have one only."""
    if spec.task_type != "classification":
        return spec.operating_point
    kind, text = given.get("rule", ""), given.get("rule_number", "").strip().replace(",", ".")
    if kind == "youden":
        return kind
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if kind == "cost" and 0 < value < 1e6:
        return f"cost={value:g}"
    if kind in ("sensitivity", "specificity") and 0 < value < 1:
        return f"{kind}>={value:g}"
    errors["rule_number"] = (
        "Give a number above 0, for example 20."
        if kind == "cost"
        else "Give a share between 0 and 1, for example 0.95."
    )
    return ""


def _follow(spec: TaskSpec, found: dict[str, Any]) -> None:
    """Let guards and reported values follow classes and confounders: a newly marked class is watched, what is gone is not."""
    drafted = spec.model_copy(update={"confounders": tuple(_Named(item["attribute"]) for item in found["confounders"])})
    scheme = metrics.scheme_of(drafted)

    def exists(name: str) -> bool:
        try:
            metrics.resolve(name, scheme)
        except BadInput:
            return False
        return True

    before = {item.class_name for item in spec.emphasised_classes}
    new = [item["class_name"] for item in found["emphasised_classes"] if item["class_name"] not in before]
    guards = [guard for guard in found["guards"] if exists(guard["metric"])]
    reported = [name for name in spec.reported_metrics if exists(name)]
    if spec.task_type == "classification":
        watched = {guard["metric"] for guard in guards}
        guards += [
            Guard(metric=f"auc_{name}", margin=_MARGIN).model_dump() for name in new if f"auc_{name}" not in watched
        ]
        reported += [f"{family}_{name}" for name in new for family in ("auc", "sensitivity", "specificity")]
    found["guards"] = guards
    found["reported_metrics"] = list(dict.fromkeys(reported))


class _Named(NamedTuple):
    attribute: str


def problems_of(text: str, spec: TaskSpec) -> dict[str, str]:
    """Return the problems of a refused spec by the field of the form that each is about."""
    body = re.sub(r"^The spec has \d+ problem\(s\): |^The changed contract cannot be used \(", "", text)
    body = body.removesuffix(" Correct them all and call init_task again.").removesuffix(").")
    found: dict[str, str] = {}
    field = ""
    for part in body.split("; "):
        name, colon, rest = part.partition(": ")
        first = name.partition(".")[0]
        known = colon and first in TaskSpec.model_fields
        field = _FIELDS.get(first, "") if known else field
        said = rest if known and field else part
        found[field] = f"{found[field]}; {said}" if field in found else said[:1].upper() + said[1:]
    return found


_FIELDS = {
    name: name
    for name in ("objective", "risk_preference", "primary_metric", "acceptance", "assumptions", "guards", "confounders")
} | {"emphasised_classes": "emphasis", "operating_point": "rule_number", "answers": "answers"}


def _values(spec: TaskSpec) -> dict[str, str]:
    """Return a spec as the form shows it at first."""
    kind, _, value = re.sub(r">=|=", " ", spec.operating_point).partition(" ")
    values = {
        "objective": spec.objective,
        "risk_preference": spec.risk_preference,
        "primary_metric": spec.primary_metric,
        "rule": kind,
        "rule_number": value,
        "acceptance": spec.acceptance,
        "assumptions": "\n".join(spec.assumptions),
    }
    marked = {item.class_name: item.why for item in spec.emphasised_classes}
    for place, name in enumerate(spec.target_classes):
        if name in marked:
            values |= {f"emphasis_{place}": "yes", f"emphasis_why_{place}": marked[name]}
    values |= {f"margin_{place}": f"{guard.margin:g}" for place, guard in enumerate(spec.guards)}
    values |= {f"confounded_{item.attribute}": item.why for item in spec.confounders}
    return values


def _choices(services: Services, task: TaskRow) -> Choices:
    scheme = metrics.scheme_of(task.spec)
    names = [
        name
        for metric in metrics.metrics_of(scheme)
        for name in ([metric.of(member) for member in metric.members(scheme)] or [metric.name])
        if "<" not in name
    ]
    if task.spec.primary_metric not in names:
        names.insert(0, task.spec.primary_metric)
    attributes = Dataset.load(services.settings.state, task.dataset).attributes
    return Choices([(name, words.metric(name, scheme)) for name in names], list(attributes))


def _titles(look: TaskLook) -> list[str]:
    return [words.metric(guard.metric, look.scheme) for guard in look.task.spec.guards]


PAGES = [Page("/tasks/{task}/confirm", confirm, ("clinician",), ("GET", "POST"))]
