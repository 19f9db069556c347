"""The main job through the real MCP client: images -> task -> runs -> finalize -> a report that verifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mcp import Client

from clinloop.app import build
from clinloop.services import Services

from .conftest import ERAS, Agent

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ERAS)
async def test_an_agent_takes_a_folder_of_images_to_a_report_that_verifies(services: Services, era: str) -> None:
    async with Client(build(services), mode=era) as client:
        agent = Agent(client)
        facts = await agent.call("inspect_dataset", dataset="moles")
        assert facts["facts"]["classes"] == ["keratosis", "melanoma", "nevus"]
        task_id = await agent.begin()

        baseline = await agent.run(task_id)
        assert (baseline["run"], baseline["status"], baseline["decision"]) == ("run0", "succeeded", "accepted"), (
            baseline
        )
        assert baseline["score"] > 0.5

        edited = await agent.call(
            "edit_workspace",
            task_id=task_id,
            operation="replace",
            path="train.py",
            old="EPOCHS = 60",
            new="EPOCHS = 400",
        )
        assert edited["revision"] == "r2"
        assert (await agent.run(task_id, mode="smoke"))["status"] == "succeeded"
        refined = await agent.run(task_id, hypothesis="The regression has not converged after 60 epochs.")
        assert refined["status"] == "succeeded"
        assert refined["decision"] in ("accepted", "rejected")

        scores = await agent.call("read_validation", task_id=task_id, run="run0", view="scores")
        low, value, high = (scores["scores"]["metrics"]["macro_auc"][key] for key in ("low", "value", "high"))
        assert low <= value <= high

        seen = await agent.call("read_validation", task_id=task_id, view="runs")
        assert [run["run"] for run in seen["runs"]] == ["run0", "smoke1", "run1"]
        final = await agent.finalize(task_id, seen["incumbent"])
        assert final["status"] == "evaluated", final
        assert final["guarantee"] == "L0" and "could read the vault" in final["guarantee_meaning"]
        again = await agent.call("finalize", task_id=task_id, run=seen["incumbent"])
        assert again["result"] == final["result"]

    report = Path(final["result"]["report"])
    assert report.is_file()
    from clinloop.report.verify import verify

    verification = verify(report.parent)
    assert verification.ok, [check for check in verification.checks if not check.ok]
    stored = json.loads((report.parent / "report.json").read_text(encoding="utf-8"))
    assert stored["guarantee"]["level"] == "L0"
    recorded = [row["detail"] for row in stored["ledger"] if row["event"] == "guarantee"]
    assert [(detail["level"], detail["connection"]) for detail in recorded] == [("L0", "stdio")]
    primary = next(metric for metric in stored["final"] if metric["name"] == "macro_auc")
    assert primary["refined"]["low"] <= primary["refined"]["value"] <= primary["refined"]["high"]
    # The report looked for shortcuts; of features, those of the test images are gone.
    assert "facts of files, pictures and attributes" in stored["suspects_note"]
    task = report.parent.parent
    assert (task / "runs" / "run0" / "predicted" / "embeddings.npy").exists()
    assert not list((task / "final").rglob("embeddings.npy")) and not list((task / "final").rglob("embeddings.txt"))
