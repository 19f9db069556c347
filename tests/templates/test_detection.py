"""The templates that detect, in their real Python environment, with a fake server that answers submissions; and what task 4 owes to image labels."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clinloop.agent import read_trajectory
from clinloop.datasets.ingest import ingest
from clinloop.resources import resource
from clinloop.sandbox.environment import ensure_environment
from clinloop.sandbox.recipes import find_recipe
from clinloop.scoring.detection import evaluator, match
from clinloop.scoring.predictions import Detected
from clinloop.scoring.truth import TruthBox, read_truth
from clinloop.settings import load_settings
from clinloop.standin import grazpedwri

from .drawn import Run, draw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

Boxes = dict[str, list[tuple[int, float, float, float, float]]]
"""(target, x, y, width, height) of the validation cases."""
TEMPLATES = resource("task_templates")


@pytest.fixture(scope="module")
def python() -> str:
    recipe = find_recipe("cpu", (resource("sandbox_images"),))
    return ensure_environment(recipe, load_settings().cache, report=lambda line: None).python


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Boxes]:
    """Folder of a drawn dataset, and the boxes of its validation cases."""
    folder = tmp_path_factory.mktemp("drawn") / "data"
    return folder, {case_id: truth.boxes for case_id, truth in draw(folder, images=180, supervision="box").items()}


def detections(path: Path) -> dict[str, list[Detected]]:
    found: dict[str, list[Detected]] = {}
    for item in json.loads(path.read_text(encoding="utf-8")):
        found.setdefault(item["image_id"], []).append(Detected(item["category_id"] - 1, *item["bbox"], item["score"]))
    return found


def ap50(path: Path, truth: Boxes) -> float:
    """Return the average precision at IoU 0.5 as clinloop scores it."""
    found, case_ids = detections(path), sorted(truth)
    cases = match(
        [[TruthBox(*box) for box in truth[case_id]] for case_id in case_ids],
        [found.get(case_id, []) for case_id in case_ids],
        case_ids=case_ids,
        n_targets=1,
        groups=np.arange(len(case_ids)),
        n_groups=len(case_ids),
        threshold=0.5,
    )
    return float(evaluator(cases, np.ones((len(case_ids), 1)))("ap50", 0)[0])


@pytest.fixture
def score(drawn: tuple[Path, Boxes]) -> Callable[[Path], float]:
    return partial(ap50, truth=drawn[1])


@pytest.mark.parametrize("template", ["detection", "mixed_detection"])
def test_a_smoke_test_goes_through_everything_and_predict_agrees_with_the_best_submission(
    template: str, tmp_path: Path, drawn: tuple[Path, Boxes], score: Callable[[Path], float], python: str
) -> None:
    run = Run(tmp_path / "run", template, "detection", drawn[0], python)

    trained = run.train(score)
    assert trained.returncode == 0, trained.stdout
    predicted = run.predict()
    assert predicted.returncode == 0, predicted.stdout

    history = run.history()
    assert (history[0]["event"], history[-1]["event"]) == ("start", "end")
    assert (history[0]["weights"], history[0]["train"]) == ("random initialisation", 105)
    assert history[0].get("without_boxes") == (15 if template == "mixed_detection" else None)
    best = int(np.argmax(run.scores())) + 1
    submitted, found = (
        detections(path) for path in (run.out / f"validation/{best:04d}.json", run.folder / "predictions.json")
    )
    assert submitted.keys() == found.keys()
    for case_id in found:
        assert len(submitted[case_id]) == len(found[case_id])
        np.testing.assert_allclose(submitted[case_id][0], found[case_id][0], atol=0.05)


def test_a_full_run_uses_its_time_ends_by_itself_and_finds_the_blobs(
    tmp_path: Path, drawn: tuple[Path, Boxes], score: Callable[[Path], float], python: str
) -> None:
    run = Run(tmp_path / "run", "mixed_detection", "detection", drawn[0], python)

    trained = run.train(score, mode="full", seconds=60)

    assert trained.returncode == 0, trained.stdout
    assert run.history()[-1]["event"] == "end"
    assert 30 < run.history()[-1]["t"] < 60
    assert max(run.scores()) > 0.4


def test_two_processes_train_one_detector_and_one_of_them_validates_and_saves(
    tmp_path: Path, drawn: tuple[Path, Boxes], score: Callable[[Path], float], python: str
) -> None:
    run = Run(tmp_path / "run", "detection", "detection", drawn[0], python)

    trained = run.train(score, gpus=2)  # of which there are none: the processes meet over gloo, on the CPU

    assert trained.returncode == 0, trained.stdout
    assert (run.history()[0]["processes"], run.history()[-1]["event"]) == (2, "end")
    assert len(run.scores()) == len(list(run.out.glob("validation/*.json")))


def test_a_network_that_says_what_is_wanted_gives_the_boxes_back_in_pixels_of_the_file(
    tmp_path: Path, drawn: tuple[Path, Boxes], python: str
) -> None:
    run = Run(tmp_path / "run", "detection", "detection", drawn[0], python)
    code = """
import sys
from pathlib import Path
import torch
from PIL import Image
source = Path("train.py").read_text(encoding="utf-8")
exec(source[: source.index("session = open_session()")])

class Oracle(torch.nn.Module):
    def forward(self, x):
        heat, box, _ = wanted(truth, 2, (SIZE[0] // STRIDE, SIZE[1] // STRIDE))
        x, y = centres(*heat.shape[2:], heat.device)
        sides = torch.stack([x - box[:, 0], y - box[:, 1], box[:, 2] - x, box[:, 3] - y], 1)
        return torch.logit(heat.clamp(1e-4, 1 - 1e-4)), sides

drawn = [(0, 30.0, 20.0, 64.0, 40.0), (1, 100.0, 150.0, 22.0, 60.0), (0, 5.0, 180.0, 30.0, 30.0)]
for size in ((200, 240), (90, 400), (400, 100)):
    Image.new("I;16", size).save("film.png")
    inside = [box for box in drawn if box[1] + box[3] <= size[0] and box[2] + box[4] <= size[1]]
    images = decode_all(["film.png"], SIZE)
    truth = as_tensor([inside], images[1])
    found = predict(Oracle(), *images, MEAN, STD)[0]
    sure = sorted(box for box in found if box[5] > 0.9)
    assert len(sure) == len(inside), (size, found)
    for (target, *sides), box in zip(sorted(inside), sure, strict=True):
        assert box[0] == target
        assert max(abs(a - b) for a, b in zip(sides, box[1:5], strict=True)) < 0.01, (size, sides, box)
print("agreed")
"""
    done = subprocess.run(
        [python, "-c", code],
        cwd=run.workspace,
        env={"PYTHONPATH": str(resource("sandbox_images") / "runtime"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "agreed", done.stderr


@pytest.mark.parametrize(("template", "trajectory"), [("detection", "wrist"), ("mixed_detection", "wrist-5pct")])
def test_all_scripted_edits_together_pass_a_smoke_test(
    template: str,
    trajectory: str,
    tmp_path: Path,
    drawn: tuple[Path, Boxes],
    score: Callable[[Path], float],
    python: str,
) -> None:
    teacher = Run(tmp_path / "teacher", template, "detection", drawn[0], python)
    assert teacher.train(score).returncode == 0
    run = Run(tmp_path / "run", template, "detection", drawn[0], python)
    (run.folder / "inputs").mkdir()
    (run.folder / "inputs/run1").symlink_to(teacher.out)
    for step in read_trajectory(template, trajectory):
        run.edit(step.model_dump())

    trained = run.train(score)

    assert trained.returncode == 0, trained.stdout
    predicted = run.predict()
    assert predicted.returncode == 0, predicted.stdout


@pytest.fixture(scope="module")
def wrists(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Boxes]:
    """What a run sees of drawn wrists of which few training cases have boxes, and the boxes of its validation cases."""
    folder = tmp_path_factory.mktemp("wrists")
    grazpedwri.write(folder / "graz", images=600, seed=2)
    ingest(folder / "graz", "wrists", state=folder / "state", key=b"k" * 32)
    stored = folder / "state/datasets/wrists"
    keep_boxes(stored / "view", cases=20)
    truth = read_truth(stored / "val_truth.csv")
    return stored / "view", {case.case_id: [tuple(box) for box in case.boxes or ()] for case in truth}  # type: ignore[misc]


def keep_boxes(view: Path, *, cases: int) -> None:
    """Take the boxes of all but about so many training cases away, by whole patients."""
    with (view / "cases.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    groups = sorted({row["group"] for row in rows if row["split"] == "train"})
    kept: set[str] = set()
    for group in groups:
        if len(kept) < cases:
            kept |= {row["case_id"] for row in rows if row["group"] == group}
    table: dict[str, list[dict[str, Any]]] = json.loads((view / "boxes.json").read_text(encoding="utf-8"))
    table["images"] = [image for image in table["images"] if image["id"] in kept]
    table["annotations"] = [box for box in table["annotations"] if box["image_id"] in kept]
    (view / "boxes.json").write_text(json.dumps(table), encoding="utf-8")
    for row in rows:
        if row["supervision"] == "box" and row["case_id"] not in kept:
            row["supervision"] = "image"
    with (view / "cases.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.long
def test_the_gain_of_the_student_comes_from_the_cases_that_have_an_image_label_only(
    tmp_path: Path, wrists: tuple[Path, Boxes], python: str
) -> None:
    """Teacher on boxes; a student that starts from it with the image-level cases; and the same student without them.

    The schedule counts steps, not seconds, so that a busy machine gives the same comparison.
    """
    data, truth = wrists
    steps = {step.name.split(":")[0]: step for step in read_trajectory("mixed_detection", "wrist-5pct")}

    def best(name: str, *, taught: bool, without: str = "") -> float:
        run = Run(tmp_path / name, "mixed_detection", "detection", data, python, target="fracture")
        if taught:
            (run.folder / "inputs").mkdir()
            (run.folder / "inputs/run1").symlink_to(tmp_path / "teacher/out")
            run.edit(steps["teacher and student"].model_dump())
        train = run.workspace / "train.py"
        text = train.read_text(encoding="utf-8")
        for old, new in (("(time.monotonic() - begun) / train_s", "step / 150"), (without, "")):
            assert old in text
            text = text.replace(old, new) if old else text
        train.write_text(text, encoding="utf-8")
        done = run.train(partial(ap50, truth=truth), mode="full", seconds=1000)
        assert done.returncode == 0, done.stdout
        return max(run.scores())

    teacher = best("teacher", taught=False)
    student = best("student", taught=True)
    control = best("control", taught=True, without="train += weak\n")
    assert student > teacher + 0.05
    assert student > control + 0.05
