"""Trade-offs through the real MCP client: a run gains and breaks a guard, the clinician chooses, and the report says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clinloop import clinician, ingestion
from clinloop.report.verify import verify
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
    row = exponentials / exponentials.sum()
    if int(grey.sum()) % 3 == 0:  # a third of the images gets the same for every class
        row[:] = 1 / 3
    is_rough = 1 / (1 + np.exp(15 - grey.std()))
    row[model["classes"].index("nevus")] = is_rough * (1 + row.sum())
    rows.append(row / row.sum())
"""
"""Naevi are rough, which thumbnails do not show; this code looks at it, and is careless with everything else."""


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


async def test_print(agent: Agent, services: Services) -> None:
    task_id = await traded(agent, tradeoffs="clinician")
    seen = await agent.call("read_validation", task_id=task_id, view="tradeoffs")
    print(json.dumps(seen, indent=1))
    final = await agent.finalize(task_id, "run0")
    print(json.dumps(final, indent=1))
    clinician.choose_run(services, task_id, "run1", "I want naevi.")
    final = await agent.finalize(task_id, "run1")
    print(json.dumps(final, indent=1))
    assert 0
