"""The YOLO template in its own Python environment, without network, on drawn pictures, with a fake server that answers submissions."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from clinloop.resources import resource
from clinloop.sandbox.environment import ensure_environment
from clinloop.sandbox.recipes import find_recipe
from clinloop.settings import load_settings

from .drawn import SIZES, Run, draw

TEMPLATE = resource("task_templates") / "detection_yolo"


def boxes_in(path: Path) -> dict[str, list[tuple[float, ...]]]:
    """Return the boxes of a predictions file by case, best first: x, y, width, height, score."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for item in json.loads(path.read_text(encoding="utf-8")):
        assert item["category_id"] == 1
        found.setdefault(item["image_id"], []).append((*item["bbox"], item["score"]))
    return {case_id: sorted(boxes, key=lambda box: -box[-1]) for case_id, boxes in found.items()}


@pytest.fixture(scope="module")
def python() -> str:
    recipe = find_recipe("detection", (resource("sandbox_images"),))
    return ensure_environment(recipe, load_settings().cache, report=lambda line: None).python


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_smoke_test_trains_validates_through_the_server_and_predict_agrees(tmp_path: Path, python: str) -> None:
    data = tmp_path / "data"
    truths = draw(data, images=60, supervision="box")
    run = Run(tmp_path / "run", "detection_yolo", "detection", data, python)

    trained = run.train(lambda path: 0.5 + len(boxes_in(path)) / 1000)
    assert trained.returncode == 0, trained.stdout
    predicted = run.predict()
    assert predicted.returncode == 0, predicted.stdout

    history = run.history()
    assert (history[0]["event"], history[-1]["event"]) == ("start", "end")
    assert (history[0]["train"], history[0]["without_boxes"], history[0]["weights"]) == (35, 5, "random initialisation")
    best = int(np.argmax(run.scores())) + 1
    submitted, found = boxes_in(run.out / f"validation/{best:04d}.json"), boxes_in(run.folder / "predictions.json")
    assert set(found) <= set(truths) and submitted.keys() == found.keys()
    width, height = np.max(SIZES, axis=0)
    for case_id, boxes in found.items():
        assert len(boxes) <= 100
        assert all(x >= 0 and x + w <= width + 1 and y >= 0 and y + h <= height + 1 for x, y, w, h, _ in boxes)
        np.testing.assert_allclose(boxes[0], submitted[case_id][0], atol=0.05)
    left = [path.name for path in run.out.rglob("*") if path.is_file() and path.suffix in (".pt", ".yaml")]
    assert not left  # no pickle, and nothing of ultralytics' own book-keeping


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, which takes the network away")
def test_boxes_come_back_to_where_they_were_in_the_file_and_nothing_asks_for_the_network(
    tmp_path: Path, python: str
) -> None:
    check = """
import sys, torch
from PIL import Image
from model import build, letterbox, predict
Image.new("RGB", (200, 100), "white").save("wide.png")
square, place = letterbox("wide.png", 160)
assert square.shape == (160, 160, 3) and (square[:40] == 114).all() and (square[40:120] > 250).all(), place
class Fixed(torch.nn.Module):  # finds one box twice, a weaker one elsewhere, and noise
    def forward(self, x):
        at = torch.tensor([[80.0, 80, 40, 20, 0.9], [81.0, 80, 40, 20, 0.6], [16.0, 48, 16, 16, 0.3], [50.0, 50, 9, 9, 0.0001]])
        return at.T[None].repeat(len(x), 1, 1), None
rows = predict(Fixed(), square[None], [place])[0]
expected = [[0, 75, 37.5, 50, 25, 0.9], [0, 10, 0, 20, 20, 0.3]]
assert torch.allclose(torch.tensor(rows), torch.tensor(expected), atol=1e-4), rows
build("yolov8n", 2)
print("ok")
"""
    environment = {
        "PYTHONPATH": f"{resource('sandbox_images') / 'runtime'}:{TEMPLATE}",
        "YOLO_CONFIG_DIR": str(tmp_path),
    }
    argv = [python, "-c", check]
    isolated = ["unshare", "--net", *argv]
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode != 0:
        isolated = argv  # not allowed here: the first half of the name is checked at least
    done = subprocess.run(isolated, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("ok"), done.stdout + done.stderr


def test_the_licence_is_the_first_thing_that_the_template_says() -> None:
    assert "AGPL-3.0" in (TEMPLATE / "README.md").read_text(encoding="utf-8")[:120]
    assert "AGPL-3.0" in (TEMPLATE / "template.toml").read_text(encoding="utf-8")


def test_ultralytics_is_imported_by_its_own_template_only() -> None:
    for path in TEMPLATE.parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        used = any(module.split(".")[0] == "ultralytics" for module in modules)
        assert not used or path.parent == TEMPLATE, path
