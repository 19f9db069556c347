"""What an agent sees of the clinician: a contract that waits, a test set that stays closed, notes, pauses, a stop, a larger budget."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from mcp import Client

from clinloop import clinician
from clinloop.app import build
from clinloop.principal import LOCAL_AGENT, Principal
from clinloop.report.verify import verify
from clinloop.services import Services
from clinloop_tools.replies import REPLY_CAP

from .conftest import ERAS, Agent

pytestmark = pytest.mark.anyio

QUESTION = "May a melanoma be missed?"
BY = "Dr. Weber (clinician)"


@pytest.fixture
def weber(services: Services) -> Services:
    return services.for_principal(Principal("Dr. Weber", frozenset(["clinician"])))


@pytest.fixture
async def agent(services: Services) -> AsyncGenerator[Agent]:
    """An agent as a client without a token is: it has the role of an agent alone."""
    async with Client(build(services.for_principal(LOCAL_AGENT)), mode=ERAS[0]) as client:
        yield Agent(client)


async def begin(agent: Agent, **spec: Any) -> dict[str, Any]:
    values = {"objective": "Tell three kinds of moles apart.", "budget": "demo", "acceptance": "paper", **spec}
    request = "Tell these three kinds of moles apart for me, please."
    return await agent.call("init_task", dataset="moles", request=request, spec=values, template="linear")


async def test_a_contract_waits_for_the_clinician_and_the_report_says_who_confirmed_it(
    agent: Agent, weber: Services
) -> None:
    made = await begin(agent, confirm_spec="required", open_questions=[QUESTION, "Which lesions?"])
    task = made["task_id"]
    assert (made["status"], made["workspace"]) == ("awaiting_confirmation", "")
    assert f"clinloop task confirm {task}" in made["next_step"] and "read_validation" in made["next_step"]
    for tool, arguments in (
        ("edit_workspace", {"operation": "list"}),
        ("run_training", {}),
        ("run_training", {"mode": "stop", "run": "run0"}),
        ("finalize", {"run": "run0"}),
    ):
        assert "waits for the clinician to confirm its contract" in await agent.refused(tool, task_id=task, **arguments)
    seen = await agent.call("read_validation", task_id=task, wait=0)
    assert seen["status"] == "awaiting_confirmation" and "confirm its contract" in seen["waits_for"]

    answered: dict[str, Any] = {}

    async def wait() -> None:
        answered.update(await agent.call("read_validation", task_id=task, since=seen["cursor"], wait=60))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(0.6)
        assert not answered
        changes = {"emphasised_classes": [{"class_name": "melanoma", "why": "it kills"}]}
        await anyio.to_thread.run_sync(
            lambda: clinician.confirm_spec(weber, task, answers={QUESTION: "Never."}, changes=changes)
        )

    assert answered["status"] == "open" and answered["cursor"] != seen["cursor"]
    assert answered["clinician"] == [
        f"{BY} has confirmed the contract, with changed fields: emphasised_classes, guards. Question: {QUESTION} Answer: Never."
    ]
    assert "run_training" in answered["next_step"] and answered["waits_for"] == ""
    spec = (await agent.call("read_validation", task_id=task, view="spec"))["spec"]
    assert spec["answers"] == [{"question": QUESTION, "answer": "Never."}]
    assert spec["open_questions"] == ["Which lesions?"]
    again = await begin(agent, confirm_spec="required", open_questions=[QUESTION, "Which lesions?"])
    assert (again["task_id"], again["status"]) == (task, "open") and again["workspace"]

    run = await agent.run(task)
    assert run["decision"] == "accepted", run
    final = await agent.finalize(task, "run0")
    assert final["status"] == "evaluated", final
    folder = weber.state.task(task).report
    outcome = verify(folder)
    assert outcome.ok, [check for check in outcome.checks if not check.ok]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    said = report["people"][0]
    assert (said["by"], said["did"]) == (BY, "confirmed the contract")
    assert "emphasised_classes" in said["text"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert BY in page and QUESTION in page and "Never." in page


async def test_a_declined_contract_ends_the_task_and_the_agent_reads_why(agent: Agent, weber: Services) -> None:
    task = (await begin(agent, confirm_spec="required"))["task_id"]
    clinician.decline_spec(weber, task, "Look at melanoma alone.")

    seen = await agent.call("read_validation", task_id=task, wait=30)

    assert seen["status"] == "declined" and seen["waited_s"] < 5
    assert "Look at melanoma alone." in seen["next_step"] and "init_task" in seen["next_step"]
    assert "Look at melanoma alone." in await agent.refused("run_training", task_id=task)
    assert (await begin(agent, confirm_spec="required"))["status"] == "declined"


async def test_the_test_set_is_opened_by_the_yes_of_the_clinician_and_not_before(agent: Agent, weber: Services) -> None:
    task = (await begin(agent, confirm_finalize="required"))["task_id"]
    await agent.run(task)

    async def ask(found: list[dict[str, Any]]) -> None:
        found.append(await agent.call("finalize", task_id=task, run="run0", wait=1))

    replies: list[dict[str, Any]] = []
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask, replies)
    async with Client(build(Services(weber.settings, True, principal=LOCAL_AGENT)), mode=ERAS[1]) as client:
        replies.append(await Agent(client).call("finalize", task_id=task, run="run0", wait=0))
    assert [reply["status"] for reply in replies] == ["awaiting_confirmation"] * 4
    assert f"clinloop task approve {task}" in replies[0]["next_step"]
    events = [row.event for row in weber.store.ledger(f"task:{task}")]
    assert events.count("asked") == 1 and "evaluation_started" not in events
    assert "clinician's yes" in await agent.refused(
        "run_training", task_id=task, hypothesis="It is worth trying once more."
    )

    clinician.answer_finalize(weber, task, approved=False, why="Try once more.")
    given_back = await agent.call("finalize", task_id=task, run="run0", wait=0)
    assert given_back["status"] == "open" and "Try once more." in given_back["next_step"]
    assert given_back["clinician"][0].startswith(f"{BY} does not want the test set opened yet")

    assert (await agent.call("finalize", task_id=task, run="run0", wait=0))["status"] == "awaiting_confirmation"
    clinician.answer_finalize(weber, task, approved=True)
    final = await agent.finalize(task, "run0")
    assert final["status"] == "evaluated", final
    report = json.loads((weber.state.task(task).report / "report.json").read_text(encoding="utf-8"))
    assert [item["did"] for item in report["people"]] == [
        "did not want the test set opened",
        "agreed to open the test set",
    ]
    assert verify(weber.state.task(task).report).ok


async def test_a_note_comes_with_the_next_reply_once_and_ends_a_wait(agent: Agent, weber: Services) -> None:
    task = (await begin(agent))["task_id"]
    clinician.write_note(weber, task, "Look at \x1b[31msmall\x1b[0m lesions.")

    listed = await agent.call("edit_workspace", task_id=task, operation="list")
    assert listed["clinician"] == [f"{BY}: Look at small lesions."]
    assert listed["next_step"].startswith("Heed what `clinician` says first.")
    assert (await agent.call("edit_workspace", task_id=task, operation="list"))["clinician"] == []

    clinician.set_paused(weber, task, True, "I am reading.")
    await agent.call("edit_workspace", task_id=task, operation="list")
    seen: dict[str, Any] = {}

    async def wait() -> None:
        seen.update(await agent.call("read_validation", task_id=task, wait=60))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(0.5)
        clinician.write_note(weber, task, "Almost done.")
    assert seen["clinician"] == [f"{BY}: Almost done."] and seen["waited_s"] < 30
    assert seen["status"] == "paused" and "I am reading." in seen["waits_for"]


async def test_notes_are_never_shortened_and_view_spec_holds_all_of_them(agent: Agent, weber: Services) -> None:
    task = (await begin(agent, assumptions=["It is assumed. " * 60] * 10))["task_id"]
    texts = [f"{number} " + '"ä' * 999 for number in range(7)]
    for text in texts:
        clinician.write_note(weber, task, text)

    lines: list[str] = []
    for _ in range(7):
        reply = await agent.raw("read_validation", task_id=task, view="spec")
        assert reply.structured_content is not None
        assert len(json.dumps(reply.structured_content, ensure_ascii=False, separators=(",", ":"))) <= REPLY_CAP
        lines += [line for line in reply.structured_content["clinician"] if "with the next reply" not in line]
    assert lines == [f"{BY}: {text}" for text in texts]

    said: list[str] = []
    since = ""
    while True:
        reply = await agent.call("read_validation", task_id=task, view="spec", since=since)
        said += reply["said"]
        if not any(line.startswith("said: those after") for line in reply["left_out"]):
            break
        since = said[-1].partition(".")[0]
    assert [line.partition(f"{BY}: ")[2] for line in said] == texts


async def test_no_run_starts_in_a_pause_and_the_agent_reads_who_and_why(agent: Agent, weber: Services) -> None:
    task = (await begin(agent))["task_id"]
    clinician.set_paused(weber, task, True, "I am reading the curves.")
    for mode in ("full", "smoke"):
        text = await agent.refused("run_training", task_id=task, mode=mode)
        assert BY in text and "I am reading the curves." in text
    assert "paused" in await agent.refused("finalize", task_id=task, run="run0")
    await agent.call("read_validation", task_id=task, wait=0)
    clinician.set_paused(weber, task, False)
    seen = await agent.call("read_validation", task_id=task, wait=30)
    assert (seen["status"], seen["clinician"]) == ("open", [f"{BY} lets the task go on."])
    assert (await agent.run(task))["decision"] == "accepted"


async def test_a_run_that_a_person_stops_says_so(agent: Agent, weber: Services) -> None:
    task = (await begin(agent))["task_id"]
    await agent.call(
        "edit_workspace",
        task_id=task,
        operation="create",
        path="train.py",
        text="import time\ntime.sleep(60)\n",
        overwrite=True,
    )
    started = await agent.call("run_training", task_id=task, mode="smoke")
    clinician.stop_run(weber, task, started["run"]["run"], "It overfits.")
    ended = await agent.wait(task, started["run"]["run"])
    assert ended["status"] == "stopped"
    assert ended["message"].startswith(f"{BY} stopped it: It overfits.")


async def test_an_extended_budget_shows_in_every_reply_and_in_the_report(agent: Agent, weber: Services) -> None:
    task = (await begin(agent))["task_id"]
    before = (await agent.call("read_validation", task_id=task, wait=0))["budget"]
    clinician.extend_budget(weber, task, 3, "It is nearly there.")
    after = (await agent.call("read_validation", task_id=task, wait=0))["budget"]
    assert after["runs_left"] == before["runs_left"] + 3
    assert after["runs_granted"] == before["runs_granted"] + 3
    await agent.run(task)
    assert (await agent.finalize(task, "run0"))["status"] == "evaluated"
    folder = weber.state.task(task).report
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (report["budget"]["runs_granted"], report["budget"]["runs_used"]) == (after["runs_granted"], 1)
    assert report["people"][0]["did"] == "extended the budget by 3 runs"
    assert verify(folder).ok


async def test_pictures_carry_no_notes_and_leave_them_to_the_next_reply(agent: Agent, weber: Services) -> None:
    task = (await begin(agent))["task_id"]
    await agent.run(task)
    clinician.write_note(weber, task, "Look at small lesions.")
    await agent.raw("read_validation", task_id=task, view="figure")
    assert (await agent.call("read_validation", task_id=task, view="runs"))["clinician"]
