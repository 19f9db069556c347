"""Runs that build on earlier runs, and starts that must not be charged twice."""

from __future__ import annotations

import pytest

from .conftest import Agent

pytestmark = pytest.mark.anyio

WARM_START = """
teacher = session.inputs / "run0" / "checkpoint"
if teacher.exists():
    known = json.loads(teacher.read_text(encoding="utf-8"))
    weights = np.array(known["weights"], dtype=np.float32)
    bias = np.array(known["bias"], dtype=np.float32)
    print("warm start from run0", flush=True)
for epoch in range(1, EPOCHS + 1):"""


async def test_a_run_sees_the_output_of_the_runs_that_it_names_and_of_no_other(agent: Agent) -> None:
    task = await agent.begin()
    assert (await agent.run(task))["status"] == "succeeded"
    await agent.call(
        "edit_workspace",
        task_id=task,
        operation="replace",
        path="train.py",
        old="\nfor epoch in range(1, EPOCHS + 1):",
        new=WARM_START,
    )
    hypothesis = "Starting from the weights of the baseline saves epochs."
    warm = await agent.run(task, hypothesis=hypothesis, inputs=["run0"])
    assert warm["status"] == "succeeded", warm
    log = await agent.call("read_validation", task_id=task, run=warm["run"], view="log")
    assert "warm start from run0" in log["log"]
    cold = await agent.run(task, hypothesis=hypothesis)
    log = await agent.call("read_validation", task_id=task, run=cold["run"], view="log")
    assert cold["status"] == "succeeded"
    assert "warm start" not in log["log"]


async def test_a_request_id_never_starts_or_charges_a_second_run(agent: Agent) -> None:
    task = await agent.begin()
    first = await agent.call("run_training", task_id=task, request_id="once")
    again = await agent.call("run_training", task_id=task, request_id="once")
    assert (first["is_new"], again["is_new"]) == (True, False)
    assert first["run"]["run"] == again["run"]["run"]
    assert first["budget"]["runs_left"] == again["budget"]["runs_left"]
    await agent.wait(task, first["run"]["run"])


async def test_the_baseline_trains_the_initial_workspace_whatever_was_edited_before(agent: Agent) -> None:
    task = await agent.begin()
    await agent.call(
        "edit_workspace", task_id=task, operation="replace", path="train.py", old="EPOCHS = 60", new="EPOCHS = 1"
    )
    baseline = await agent.run(task)
    assert (baseline["revision"], baseline["status"]) == ("r1", "succeeded")


async def test_a_task_may_be_on_some_classes_only(agent: Agent) -> None:
    task = await agent.begin(target_classes=["melanoma", "nevus"], primary_metric="auc_melanoma")
    assert (await agent.run(task))["status"] == "succeeded"
    scores = await agent.call("read_validation", task_id=task, view="scores")
    assert [row["class_name"] for row in scores["scores"]["per_class"]] == ["melanoma", "nevus"]
    final = await agent.finalize(task, "run0")
    assert final["status"] == "evaluated", final
    assert final["result"]["n_test"] == 24


async def test_starting_the_baseline_again_while_it_runs_finds_it_uncharged(agent: Agent) -> None:
    task = await agent.begin()
    first = await agent.call("run_training", task_id=task)
    again = await agent.call("run_training", task_id=task)
    assert (first["run"]["run"], again["run"]["run"], again["is_new"]) == ("run0", "run0", False)
    assert first["budget"]["runs_left"] == again["budget"]["runs_left"]
    await agent.wait(task, "run0")
