"""The confounded classifier in its real Python environment, on pictures with a faint disease and a plain confounder, with a fake server."""

from __future__ import annotations

import csv
import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score

from clinloop.resources import resource
from clinloop.sandbox.environment import ensure_environment
from clinloop.sandbox.recipes import find_recipe
from clinloop.settings import load_settings

from .drawn import Run, draw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TEMPLATE = resource("task_templates") / "confounded_classification"
STEPS: list[dict[str, Any]] = tomllib.loads((TEMPLATE / "trajectory/pneumothorax.toml").read_text(encoding="utf-8"))[
    "step"
]
CREATED = {edit["path"]: edit["text"] for step in STEPS for edit in step["edits"] if edit["operation"] == "create"}


@pytest.fixture(scope="module")
def python() -> str:
    recipe = find_recipe("cpu", (resource("sandbox_images"),))
    return ensure_environment(recipe, load_settings().cache, report=lambda line: None).python


class Drawn:
    """Pictures of which half hold a blob; a bright line goes with 80 % of the blobs and 20 % of the others, as attribute `drain`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        truths = draw(folder, images=180)
        self.blob = {case_id: bool(truth.boxes) for case_id, truth in truths.items()}
        self.drain: dict[str, bool] = {}
        rng = np.random.default_rng(1)
        with (folder / "cases.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            blob = self.blob[row["case_id"]] if row["split"] == "val" else row["label"] == "blob"
            there = bool(rng.random() < (0.8 if blob else 0.2))
            self.drain[row["case_id"]] = there
            row["drain"] = f"{rng.uniform(0.8, 1) if there else rng.uniform(0, 0.2):.3f}"
            if there:
                path = next((folder / "images").glob(f"{row['case_id']}.*"))
                with Image.open(path) as picture:
                    picture.load()
                ImageDraw.Draw(picture).line((0, 20, 50, 40), fill=(255, 255, 255), width=4)
                picture.save(path)
        with (folder / "cases.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def score(self, path: Path) -> float:
        """Return the AUC over the validation cases of a predictions file."""
        found = probabilities(path)
        assert set(found) == set(self.blob)
        return float(roc_auc_score([self.blob[case_id] for case_id in found], list(found.values())))


def probabilities(path: Path) -> dict[str, float]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["case_id"]: float(row["p_blob"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return Drawn(tmp_path_factory.mktemp("drawn") / "data")


@pytest.fixture
def run(tmp_path: Path, drawn: Drawn, python: str) -> Run:
    return Run(tmp_path / "run", "confounded_classification", "classification", drawn.folder, python)


def test_a_smoke_test_goes_through_everything_and_predict_agrees_with_the_best_submission(
    run: Run, drawn: Drawn
) -> None:
    trained = run.train(drawn.score)
    assert trained.returncode == 0, trained.stdout
    predicted = run.predict()
    assert predicted.returncode == 0, predicted.stdout

    start, *_, end = run.history()
    assert (start["event"], end["event"]) == ("start", "end")
    assert (start["train"], start["masks"]) == (120, 105)  # some cases have their label only, and are used all the same
    best = int(np.argmax(run.scores())) + 1
    submitted = probabilities(run.out / f"validation/{best:04d}.csv")
    found = probabilities(run.folder / "predictions.json")
    assert found == pytest.approx(submitted, abs=1e-3)


def test_a_full_run_uses_its_time_and_learns(run: Run, drawn: Drawn) -> None:
    trained = run.train(drawn.score, mode="full", seconds=40)
    assert trained.returncode == 0, trained.stdout
    assert run.history()[-1]["event"] == "end"
    assert 20 < run.history()[-1]["t"] < 40
    assert max(run.scores()) > 0.65


def test_two_processes_train_one_network_and_one_of_them_validates_and_saves(run: Run, drawn: Drawn) -> None:
    trained = run.train(drawn.score, gpus=2)  # of which there are none: the processes meet over gloo, on the CPU
    assert trained.returncode == 0, trained.stdout
    assert [line["event"] for line in run.history()].count("start") == 1
    assert run.history()[0]["processes"] == 2
    predicted = run.predict()
    assert predicted.returncode == 0, predicted.stdout


@pytest.mark.parametrize("steps", [[0], [1], [2], [3], [0, 1, 2, 3]], ids=str)
def test_every_step_of_the_trajectory_passes_a_smoke_test_alone_and_all_together(
    run: Run, drawn: Drawn, steps: list[int]
) -> None:
    for number in steps:
        run.edit(STEPS[number])
    trained = run.train(drawn.score)
    assert trained.returncode == 0, trained.stdout
    probes = [line["confounder_auc"] for line in run.history() if line["event"] == "probe"]
    assert len(probes) == (1 in steps)
    assert all(0 <= found <= 1 for found in probes)
    assert run.predict().returncode == 0


def compute(python: str, tmp_path: Path, name: str, code: str) -> Any:
    """Run code beside a module that the trajectory creates, in the environment of templates; return the JSON that it prints."""
    (tmp_path / name).write_text(CREATED[name], encoding="utf-8")
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


CASES = """
import json, numpy as np
from collections import Counter, namedtuple
Case = namedtuple("Case", "label attributes")
cases = [Case(label, {"drain": drain}) for label, drain, n in
         (("p", "0.9", 12), ("p", "0.1", 3), ("n", "0.8", 5), ("n", "0", 80), ("n", "", 40)) for _ in range(n)]
"""


def test_batches_hold_as_many_of_each_cell_and_none_whose_confounder_is_unknown(python: str, tmp_path: Path) -> None:
    code = f"""{CASES}
from cells import draw, find
rng = np.random.default_rng(0)
rows = np.concatenate([draw(find(cases), 64, rng) for _ in range(20)])
print(json.dumps(Counter(f"{{cases[r].label}} {{cases[r].attributes['drain']}}" for r in rows)))
"""
    assert compute(python, tmp_path, "cells.py", code) == {"p 0.9": 320, "p 0.1": 320, "n 0.8": 320, "n 0": 320}


def test_the_reversed_head_learns_the_confounder_while_the_features_unlearn_it(python: str, tmp_path: Path) -> None:
    code = """
import json, torch
from reversal import Adversary
torch.manual_seed(0)
features, drain = torch.randn(64, 8, requires_grad=True), (torch.arange(64) % 2).float()
drain[3] = torch.nan  # not known
head = Adversary(8)
loss = head.loss(features, drain, progress=1.0)
loss.backward()
with torch.no_grad():
    after_head = [p - 0.1 * p.grad for p in head.parameters()]
    moved = head.loss(features - 1.0 * features.grad, drain, 1.0)
    unknown = features.grad[3].abs().sum()
    for p, q in zip(head.parameters(), after_head):
        p.copy_(q)
    learned = head.loss(features, drain, 1.0)
print(json.dumps([float(loss), float(moved), float(learned), float(unknown)]))
"""
    before, moved, learned, unknown = compute(python, tmp_path, "reversal.py", code)
    assert moved > before  # a step along the gradient that the features get makes the head worse
    assert learned < before
    assert unknown == 0


def test_a_fresh_probe_finds_a_confounder_that_is_there_and_none_that_is_not(python: str, tmp_path: Path) -> None:
    code = """
import json, numpy as np
from reversal import probe
rng = np.random.default_rng(0)
drain = (rng.random(400) < 0.3).astype(float)
noise = rng.normal(size=(400, 12))
planted = noise + 1.5 * drain[:, None] * (np.arange(12) == 4)
drain[7] = np.nan
half = [slice(0, 200), slice(200, 400)]
print(json.dumps([probe(x[half[0]], drain[half[0]], x[half[1]], drain[half[1]]) for x in (planted, noise)]))
"""
    planted, none = compute(python, tmp_path, "reversal.py", code)
    assert planted > 0.75
    assert 0.4 < none < 0.6
