"""Trade-offs through the real MCP client: a run gains and breaks a guard, the clinician chooses, and the report says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clinloop import clinician, ingestion
from clinloop.report.verify import Verification, verify
from clinloop.services import Services

from .conftest import REQUEST, Agent

pytestmark = pytest.mark.anyio

SPEC = {
    "objective": "Find naevi, and lose no melanoma over it.",
    "primary_metric": "auc_nevus",
    "emphasised_classes": [{"class_name": "melanoma", "why": "a missed melanoma can kill"}],
    "guards": [{"metric": "auc_melanoma", "margin": 0.02}],
    "acceptance": "guarded",
    "budget": "demo",
    "risk_preference": "sensitivity_first",
}
_ROW = "    rows.append(exponentials / exponentials.sum())\n"
_TRADED = """    grey = np.asarray(Image.open(path).convert("L"), dtype=np.float64)
    is_rough = 1 / (1 + np.exp(15 - grey.std()))
    told = {"melanoma": 1 / 3, "nevus": is_rough * 2 / 3, "keratosis": (1 - is_rough) * 2 / 3}
    rows.append(np.array([told[name] for name in model["classes"]]))
"""
"""Naevi are rough, which thumbnails do not show; this code looks at it, and cannot tell melanomas from anything."""


@pytest.fixture
def services(services: Services, tmp_path: Path) -> Services:
    """Services with the dataset `rough`: melanomas are darker, and naevi are rougher than keratoses."""
    generator = np.random.default_rng(0)
    for name, mean, noise in (("melanoma", 122, 14), ("nevus", 150, 45), ("keratosis", 150, 14)):
        (tmp_path / "rough" / name).mkdir(parents=True)
        for index in range(100):
            pixels = mean + generator.normal(0, 12) + generator.normal(0, noise, (24, 24, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(tmp_path / "rough" / name / f"{index:03d}.png")
    ingestion.add(services, tmp_path / "rough", "rough", cache_px=(16,))
    return services


async def traded(agent: Agent, **spec: Any) -> str:
    """Begin a task and run the baseline, and then code that gains on naevi and loses on melanomas."""
    task = await agent.call("init_task", dataset="rough", request=REQUEST, spec=SPEC | spec, template="linear")
    task_id = task["task_id"]
    assert (await agent.run(task_id))["decision"] == "accepted"
    await agent.call("edit_workspace", task_id=task_id, operation="replace", path="predict.py", old=_ROW, new=_TRADED)
    gained = await agent.run(task_id, hypothesis="Naevi are rough; look at that.")
    assert gained["reason"] == "guard_worse:auc_melanoma", gained
    return task_id


async def test_a_clinician_chooses_among_runs_and_the_report_says_what_was_given_up(
    agent: Agent, services: Services
) -> None:
    task_id = await traded(agent, tradeoffs="clinician")
    seen = await agent.call("read_validation", task_id=task_id, view="tradeoffs")
    baseline, rival = seen["tradeoffs"]["options"]
    assert (baseline["run"], baseline["is_incumbent"], rival["run"], rival["is_rival"]) == ("run0", True, "run1", True)
    assert [broken["metric"] for broken in rival["broken"]] == ["auc_melanoma"]
    assert "fewer of 100 cases of melanoma" in rival["words"] and "AUC of nevus is better" in rival["words"]
    assert "Breaks the guard AUC of melanoma" in rival["words"]
    assert "finalize" in seen["next_step"] and f"clinloop task choose {task_id} RUN" in seen["next_step"]
    # Nothing finer than what view "scores" shows.
    scores = await agent.call("read_validation", task_id=task_id, run="run1", view="scores")
    for name, measured in rival["metrics"].items():
        assert measured == {key: scores["scores"]["metrics"][name][key] for key in ("value", "low", "high")}
    assert "Trade-off: run1 and the incumbent run0" in scores["next_step"]

    waiting = await agent.finalize(task_id, "run0")
    assert waiting["status"] == "awaiting_choice" and "It is between run0 and run1" in waiting["next_step"]
    again = await agent.call("finalize", task_id=task_id, run="run0", wait=0)
    assert again["status"] == "awaiting_choice"
    seen = await agent.call("read_validation", task_id=task_id, wait=0)
    assert "waits for the clinician to choose" in seen["next_step"] and "between run0 and run1" in seen["next_step"]

    clinician.choose_run(services, task_id, "run1", "Naevi are what we asked for.")
    seen = await agent.call("read_validation", task_id=task_id, view="tradeoffs")
    assert (seen["incumbent"], seen["tradeoffs"]["chosen"]) == ("run1", "run1")
    assert any("run1" in said and "Naevi are what we asked for." in said for said in seen["clinician"])
    assert "run1" in await agent.refused("finalize", task_id=task_id, run="run0")
    final = await agent.finalize(task_id, "run1")
    assert final["status"] == "evaluated", final

    report = Path(final["result"]["report"]).parent
    verification = verify(report)
    assert verification.ok, [check for check in verification.checks if not check.ok]
    assert {"choice of the model": "run 1, chosen by the clinician"}.items() <= details(verification).items()
    stored = json.loads((report / "report.json").read_text(encoding="utf-8"))
    [choice] = stored["choices"]
    assert (choice["run"], choice["instead_of"], choice["why"]) == ("run1", "run0", "Naevi are what we asked for.")
    assert "Breaks the guard AUC of melanoma" in choice["words"]
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "chose run1 instead of run0" in page and 'aria-labelledby="tradeoff-title tradeoff-desc"' in page
    assert_tampering_is_found(report)


def details(verification: Verification) -> dict[str, str]:
    return {check.name: check.detail for check in verification.checks}


def assert_tampering_is_found(report: Path) -> None:
    """Change the report in three ways that would make the model look accepted, or the choice another's."""
    file = report / "report.json"
    honest = file.read_text(encoding="utf-8")

    def failed_after(change: Callable[[dict[str, Any]], object]) -> set[str]:
        stored = json.loads(honest)
        change(stored)
        file.write_text(json.dumps(stored), encoding="utf-8")
        return {check.name for check in verify(report).checks if not check.ok}

    assert "choices of the clinician" in failed_after(lambda stored: stored["choices"][0].update(by="nobody"))
    assert "choices of the clinician" in failed_after(lambda stored: stored.update(choices=[]))
    assert "choices of the clinician" in failed_after(lambda stored: stored["runs"][1].update(chosen=False))
    assert "choice of the model" in failed_after(lambda stored: stored.update(incumbent=0))
    without = failed_after(
        lambda stored: stored.update(ledger=[row for row in stored["ledger"] if row["event"] != "chosen"])
    )
    assert {"ledger of the task", "choice of the model"} <= without
    file.write_text(honest, encoding="utf-8")


async def test_the_rule_settles_a_tradeoff_where_nobody_asked_to_choose(agent: Agent, services: Services) -> None:
    task_id = await traded(agent)
    seen = await agent.call("read_validation", task_id=task_id, wait=0)
    assert "The acceptance rule settles it for run0" in seen["next_step"]
    seen = await agent.call("read_validation", task_id=task_id, view="tradeoffs")
    assert seen["tradeoffs"]["exists"] and "run0 stays the incumbent" in seen["next_step"]
    final = await agent.call("finalize", task_id=task_id, run="run0", wait=0)
    assert final["status"] == "evaluating", final
    assert services.store.task(task_id).final_run == "run0"
    await agent.finalize(task_id, "run0")
