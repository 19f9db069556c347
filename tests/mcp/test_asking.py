"""Open questions at the client: an extra that changes assumptions, never the clinician's confirmation, and nothing where nobody answers."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from mcp import Client
from mcp.types import ElicitRequestParams, ElicitResult

from clinloop.app import build
from clinloop.principal import LOCAL_AGENT
from clinloop.services import Services

from .conftest import ERAS, Agent

pytestmark = pytest.mark.anyio

QUESTIONS = ["May a melanoma be missed?", "Which lesions?"]


class Person:
    """Answers forms in one way and remembers what was asked."""

    def __init__(self, action: Literal["accept", "decline", "cancel"], **content: str) -> None:
        self.answer = ElicitResult(action=action, content=dict(content) if action == "accept" else None)
        self.asked: list[ElicitRequestParams] = []

    async def __call__(self, context: Any, params: ElicitRequestParams) -> ElicitResult:
        self.asked.append(params)
        return self.answer


async def begin(
    services: Services, era: str, person: Person | None, *, elicit: bool = True, **spec: Any
) -> dict[str, Any]:
    settings = services.settings.model_copy(update={"elicit": elicit})
    own = Services(settings, True, principal=LOCAL_AGENT)
    values = {"objective": "Tell three kinds of moles apart.", "budget": "demo", "open_questions": QUESTIONS, **spec}
    request = "Tell these three kinds of moles apart for me, please."
    async with Client(build(own), mode=era, elicitation_callback=person) as client:
        return await Agent(client).call("init_task", dataset="moles", request=request, spec=values, template="linear")


@pytest.mark.parametrize("era", ERAS)
async def test_answers_at_the_client_become_assumptions_and_the_same_call_asks_no_second_time(
    services: Services, era: str
) -> None:
    person = Person("accept", answer_1="Never.\x1b[31m", answer_2=" ")
    made = await begin(services, era, person)

    assert made["spec"]["assumptions"] == [f"asked in the client: {QUESTIONS[0]} – Never."]
    assert made["spec"]["answers"] == [] and made["open_questions"] == QUESTIONS
    assert len(person.asked) == 1 and all(question in person.asked[0].message for question in QUESTIONS)
    again = await begin(services, era, person)
    assert (again["task_id"], len(person.asked)) == (made["task_id"], 1)


@pytest.mark.parametrize("era", ERAS)
async def test_an_answer_at_the_client_confirms_nothing(services: Services, era: str) -> None:
    made = await begin(services, era, Person("accept", answer_1="Never."), confirm_spec="required")
    assert made["status"] == "awaiting_confirmation"
    assert services.store.task(made["task_id"]).spec.answers == ()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_where_nobody_answers_the_task_is_made_unchanged(
    services: Services, era: str, action: Literal["decline", "cancel"]
) -> None:
    person = Person(action)
    made = await begin(services, era, person)
    assert made["status"] == "open" and made["spec"]["assumptions"] == [] and len(person.asked) == 1


@pytest.mark.parametrize("era", ERAS)
async def test_nothing_is_asked_without_the_setting_the_capability_or_a_question(services: Services, era: str) -> None:
    person = Person("accept", answer_1="Never.")
    assert (await begin(services, era, None))["status"] == "open"
    assert (await begin(services, era, person, elicit=False))["spec"]["assumptions"] == []
    assert (await begin(services, era, person, open_questions=[]))["status"] == "open"
    assert person.asked == []
