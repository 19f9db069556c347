"""The whole loop on boxes, masks and a confounder: what a run sees of the truth, how it is scored, and a report that verifies."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from mcp import Client
from PIL import Image
from pyrage.x25519 import Identity

from clinloop import ingestion, templates
from clinloop.app import build
from clinloop.report.verify import verify
from clinloop.resources import resource
from clinloop.services import Services
from clinloop.settings import Limits, load_settings

from .conftest import ERAS, Agent

pytestmark = pytest.mark.anyio

SIDE, IMAGES = 40, 60
CODE = """
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image
import clinloop_runtime as clinloop

def bright(path, level):
    return np.asarray(Image.open(path).convert("L")) > level

def boxes(path, level):
    mask = bright(path, level)
    if not mask.any():
        return []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [(0, columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1, 0.9)]

FIND = {"detection": boxes, "segmentation": bright}
WRITE = {"detection": clinloop.write_detections, "segmentation": clinloop.write_masks}
"""
TRAIN = """
from common import *

LEVEL = 250
session = clinloop.open_session()
train, val = session.train_cases(), session.val_cases()
known = session.boxes() if session.task_type == "detection" else {c.case_id: 1 for c in train if session.mask_path(c.case_id)}
assert session.targets == [{"detection": "dot", "segmentation": "target"}[session.task_type]] and set(known) == {case.case_id for case in train}, (session.targets, len(known))
assert not any(case.case_id in known or session.mask_path(case.case_id) or case.label or case.supervision for case in val)
session.checkpoint.write_text(json.dumps([session.task_type, LEVEL]))
print(session.validate([c.case_id for c in val], [FIND[session.task_type](session.image_path(c.case_id), LEVEL) for c in val]))
"""
TEMPLATE = """
title = "Bright dots"
task_types = ["detection", "segmentation"]
image = "minimal"
files = ["common.py", "train.py", "predict.py"]
"""
PREDICT = """
import argparse
from common import *

parser = argparse.ArgumentParser()
for name in ("--images", "--checkpoint", "--out"):
    parser.add_argument(name, type=Path)
args = parser.parse_args()
kind, level = json.loads(args.checkpoint.read_text())
found = clinloop.predict_cases(args.images)
WRITE[kind](args.out, [case.case_id for case, _ in found], [FIND[kind](path, level) for _, path in found])
"""


def draw_dots(root: Path, kind: str) -> Path:
    """Write grey images, two in three with one bright rectangle, as YOLO boxes or as mask files."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels" if kind == "detection" else "masks"):
        (root / name).mkdir(parents=True)
    (root / "data.yaml").write_text("path: .\ntrain: images\nnames: [dot]\n", encoding="utf-8")
    for index in range(IMAGES):
        pixels, mask = rng.integers(40, 140, (SIDE, SIDE)).astype(np.uint8), np.zeros((SIDE, SIDE), dtype=np.uint8)
        line = ""
        if index % 3:
            width, height = rng.integers(6, 16, 2)
            x, y = rng.integers(0, SIDE - width), rng.integers(0, SIDE - height)
            pixels[y : y + height, x : x + width] = rng.integers(190, 255)
            mask[y : y + height, x : x + width] = 255
            line = f"0 {(x + width / 2) / SIDE} {(y + height / 2) / SIDE} {width / SIDE} {height / SIDE}\n"
        Image.fromarray(pixels).save(root / f"images/dot{index:03d}.png")
        if kind == "detection":
            (root / f"labels/dot{index:03d}.txt").write_text(line, encoding="utf-8")
        else:
            Image.fromarray(mask).save(root / f"masks/dot{index:03d}.png")
    return root


@pytest.fixture
async def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Agent]:
    template = tmp_path / "templates" / "dots"
    template.mkdir(parents=True)
    for name, text in {"common.py": CODE, "train.py": TRAIN, "predict.py": PREDICT, "template.toml": TEMPLATE}.items():
        (template / name).write_text(text, encoding="utf-8")
    (template.parent / "linear").symlink_to(resource("task_templates") / "linear")

    def folder_of_templates(name: str) -> Path:
        assert name == "task_templates"
        return template.parent

    monkeypatch.setattr(templates, "resource", folder_of_templates)
    limits = Limits(memory_bytes=2 << 30, out_bytes=64 << 20, predict_seconds=60)
    settings = load_settings(tmp_path / "state", sandbox="none", image="minimal", limits=limits)
    services = Services(settings, accept_no_isolation=True)
    async with Client(build(services), mode=ERAS[0]) as client:
        found = Agent(client)
        found.services = services  # type: ignore[attr-defined]
        yield found


async def begin(agent: Agent, folder: Path, kind: str, *, seal: tuple[str, ...] = (), **spec: Any) -> str:
    ingestion.add(agent.services, folder, "dots", cache_px=(16,), seal=seal)  # type: ignore[attr-defined]
    given = {"objective": "Mark the bright dots.", "task_type": kind, "budget": "demo", "acceptance": "paper"} | spec
    task = await agent.call("init_task", dataset="dots", request="Mark the bright dots for me.", spec=given)
    return task["task_id"]


@pytest.mark.parametrize(("kind", "primary"), [("detection", "ap50"), ("segmentation", "dice")])
async def test_an_agent_takes_boxes_or_masks_to_a_report_that_verifies(
    agent: Agent, tmp_path: Path, kind: str, primary: str
) -> None:
    task_id = await begin(agent, draw_dots(tmp_path / "dots", kind), kind)
    baseline = await agent.run(task_id)
    log = await agent.call("read_validation", task_id=task_id, run="run0", view="log")
    assert baseline["status"] == "succeeded", log["log"]
    assert "Score(value=" in log["log"] and "problem=''" in log["log"]
    await agent.call(
        "edit_workspace", task_id=task_id, operation="replace", path="train.py", old="LEVEL = 250", new="LEVEL = 165"
    )
    assert (await agent.run(task_id, mode="smoke"))["status"] == "succeeded"
    refined = await agent.run(task_id, hypothesis="The dots are darker than the threshold.")
    assert (refined["decision"], refined["score"]) == ("accepted", 1.0)
    assert baseline["score"] < 0.3

    picture = await agent.raw("read_validation", task_id=task_id, run="run0", view="errors")
    assert picture.content[0].type == "image"
    final = await agent.finalize(task_id, "run1")
    assert final["status"] == "evaluated", final
    metrics = {metric["name"]: metric for metric in final["result"]["metrics"]}
    assert metrics[primary]["refined"]["value"] == 1.0 and metrics[primary]["p"] < 0.05
    report = Path(final["result"]["report"])
    verification = verify(report.parent)
    assert verification.ok, [check for check in verification.checks if not check.ok]
    assert {path.name for path in (report.parent / "evidence").iterdir()} == {
        "truth.csv",
        "initial.json",
        "refined.json",
    }
    page = report.read_text(encoding="utf-8")
    gallery = json.loads((report.parent / "report.json").read_text(encoding="utf-8"))["gallery"]
    assert (
        page.count('src="data:image/jpeg;base64,') == len(gallery["items"]) == gallery["gained"] + gallery["lost"] > 0
    )
    stored = json.loads((report.parent / "report.json").read_text(encoding="utf-8"))
    assert [check["agreeing"] == check["n"] > 0 for check in stored["integrity"]["canaries"]] == [True, True]
    analysis = stored["analysis"]
    target = {"detection": "dot", "segmentation": "target"}[kind]
    assert [one["names"] for one in analysis["confusion"]] == [[f"no {target}", target]] * 2
    assert {curve["kind"] for curve in analysis["curves"]} == (
        {"froc", "precision_recall", "roc"} if kind == "detection" else set()
    )
    assert set(analysis["adjusted_p"]) == set(metrics)


async def test_sealed_masks_are_scored_when_the_key_opens_them(agent: Agent, tmp_path: Path) -> None:
    identity, state = Identity.generate(), tmp_path / "state"
    task_id = await begin(
        agent, draw_dots(tmp_path / "dots", "segmentation"), "segmentation", seal=(str(identity.to_public()),)
    )
    (state / "settings.json").write_text('{"image": "minimal"}', encoding="utf-8")  # for the command line
    await agent.run(task_id)
    await agent.call(
        "edit_workspace", task_id=task_id, operation="replace", path="train.py", old="LEVEL = 250", new="LEVEL = 165"
    )
    assert (await agent.run(task_id, hypothesis="The dots are darker than the threshold."))["decision"] == "accepted"
    assert (await agent.finalize(task_id, "run1"))["status"] == "awaiting_unseal"

    options = ["--identity", "-", "--state", state, "--sandbox", "none", "--i-accept-no-isolation"]
    command = [sys.executable, "-m", "clinloop", "unseal", task_id, *map(str, options)]
    opened = await anyio.to_thread.run_sync(
        lambda: subprocess.run(command, input=f"{identity}\n", capture_output=True, text=True, check=False, timeout=300)
    )
    assert opened.returncode == 0, opened.stderr
    final = await agent.finalize(task_id, "run1")
    assert final["status"] == "evaluated", final
    metrics = {metric["name"]: metric for metric in final["result"]["metrics"]}
    assert metrics["dice"]["refined"]["value"] == 1.0


async def test_predictions_that_are_no_boxes_fail_the_run_with_what_is_wrong(agent: Agent, tmp_path: Path) -> None:
    task_id = await begin(agent, draw_dots(tmp_path / "dots", "detection"), "detection")
    await agent.call(
        "edit_workspace",
        task_id=task_id,
        operation="replace",
        path="predict.py",
        old="WRITE[kind](args.out,",
        new="args.out.write_text('[' * 100_000)\nprint(",
    )
    ended = await agent.run(task_id, mode="smoke")
    assert (ended["status"], ended["reason"]) == ("failed", "invalid_predictions"), ended
    assert "predictions" in ended["message"]


async def test_a_declared_confounder_is_scored_guarded_and_reported(agent: Agent, tmp_path: Path) -> None:
    folder, rng = tmp_path / "films", np.random.default_rng(1)
    (folder / "images").mkdir(parents=True)
    with (folder / "films.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "label", "patient_id", "drain", "ward"))
        for index in range(240):  # enough that validation has cases of every kind, however it is drawn
            ill = index % 2
            drain = int(rng.random() < (0.75 if ill else 0.25))
            pixels = rng.normal(90 + 12 * ill + 40 * drain, 30, (24, 24, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"images/film{index:03d}.png")
            table.writerow(
                (f"images/film{index:03d}.png", ("clear", "ill")[ill], f"p{index:03d}", drain, "AB"[index % 4 // 2])
            )
    ingestion.add(agent.services, folder, "films", cache_px=(16,))  # type: ignore[attr-defined]
    spec = {
        "objective": "Find who is ill, whatever the drain says.",
        "budget": "demo",
        "primary_metric": "conflict_auc_drain",
        "confounders": [{"attribute": "drain", "why": "who has a drain was treated already"}],
    }
    request = "Find who is ill, and do not look at the drain."
    task = await agent.call("init_task", dataset="films", request=request, spec=spec, template="linear")
    assert (task["spec"]["positive_class"], task["spec"]["guards"]) == ("ill", []), (
        "the primary metric watches the drain"
    )
    baseline = await agent.run(task["task_id"])
    assert baseline["status"] == "succeeded", baseline
    scores = (await agent.call("read_validation", task_id=task["task_id"], view="scores"))["scores"]["metrics"]
    assert baseline["score"] == scores["conflict_auc_drain"]["value"] < 0.5, "the baseline follows the drain"
    assert 0 < scores["partial_r_drain"]["value"] <= 1
    final = await agent.finalize(task["task_id"], "run0")
    reported = {metric["name"] for metric in final["result"]["metrics"]}
    assert {"conflict_auc_drain", "partial_r_drain", "raw_r_drain", "fp_share_drain"} <= reported
    report = Path(final["result"]["report"]).parent
    verification = verify(report)
    assert verification.ok, [check for check in verification.checks if not check.ok]
    assert "analysis" in {check.name for check in verification.checks}
    assert "attr:ward" not in (report / "evidence/truth.csv").read_text(encoding="utf-8")
    stored = json.loads((report / "report.json").read_text(encoding="utf-8"))
    undeclared, analysis = stored["undeclared"], stored["analysis"]
    assert {row["attribute"] for row in undeclared["subgroups"]} == {"ward"}
    assert all(not audit["is_declared"] for audit in undeclared["confounders"])
    assert {(row["attribute"], row["value"]) for row in analysis["subgroups"]} == {("drain", "0"), ("drain", "1")}
    assert [(audit["attribute"], audit["is_declared"]) for audit in analysis["confounders"]] == [("drain", True)]
    assert {one["name"] for one in (*analysis["curves"], *analysis["calibration"])} == {"ill"}
    assert [check["metric"] for check in analysis["checks"]] == ["auc_ill", "sensitivity_ill", "specificity_ill"]
