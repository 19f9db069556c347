"""Open questions put to the person at the agent's client, where it can show a form: an extra, never the clinician's confirmation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context, Elicit
from pydantic import BaseModel, ConfigDict, Field, create_model

from clinloop import tasks, templates
from clinloop.services import Services
from clinloop.spec import TaskSpec
from clinloop.untrusted import clean
from clinloop_tools.common import services_of

_QUESTIONS, _QUESTION_CAP, _ANSWER_CAP = 5, 300, 500


class Answers(BaseModel):
    """What the person at the client answered: one text per question, empty where they did not."""

    model_config = ConfigDict(extra="allow")


def ask_open_questions(
    ctx: Context[Services],
    dataset: str,
    request: str,
    spec: TaskSpec,
    template: str,
    tier: templates.Tier,
    seed: int,
) -> Elicit[Answers] | Answers:
    """Ask the open questions of a task that is about to be made, if the setting and the client allow it."""
    services = services_of(ctx)
    if not services.settings.elicit or not spec.open_questions or not _shows_forms(ctx):
        return Answers()
    if not tasks.is_new(
        services, dataset_name=dataset, request=request, spec=spec, template=template, tier=tier, seed=seed
    ):
        return Answers()
    questions = _asked(spec)
    fields: dict[str, Any] = {
        f"answer_{number}": (str, Field(default="", title=question))
        for number, question in enumerate(questions, start=1)
    }
    listed = "\n".join(f"{number}. {question}" for number, question in enumerate(questions, start=1))
    message = f"The agent asks before it freezes the contract of a task on {clean(dataset, cap=100)}:\n{listed}"
    return Elicit(message, create_model("Answers", __base__=Answers, **fields))


def told(spec: TaskSpec, outcome: ElicitationResult[Answers]) -> Sequence[str]:
    """Return what was answered as assumptions; nothing where the person, or the client by itself, declined."""
    if not isinstance(outcome, AcceptedElicitation):
        return ()
    answers = outcome.data.model_dump()
    return [
        f"asked in the client: {question} – {answer}"
        for number, question in enumerate(_asked(spec), start=1)
        if (answer := clean(str(answers.get(f"answer_{number}", "")), cap=_ANSWER_CAP).strip())
    ]


def _asked(spec: TaskSpec) -> list[str]:
    return [clean(question, cap=_QUESTION_CAP) for question in spec.open_questions[:_QUESTIONS]]


def _shows_forms(ctx: Context[Services]) -> bool:
    """Tell whether the client has declared that it shows forms; one that says nothing more than "elicitation" does."""
    capabilities = ctx.client_capabilities
    declared = capabilities.elicitation if capabilities else None
    return declared is not None and (declared.form is not None or declared.url is None)
