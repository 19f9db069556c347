"""A delivered model as an algorithm container folder: its inference.py takes one image and answers as the platform wants it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from clinloop import export
from clinloop.errors import BadInput
from clinloop.files import sha256_file
from clinloop.resources import resource
from clinloop.services import Services
from clinloop.settings import Settings
from clinloop.spec import TaskSpec

PREDICT = """
import argparse
from pathlib import Path
import numpy as np
from PIL import Image
from clinloop_runtime import open_session, predict_cases, write_detections, write_masks, write_predictions
parser = argparse.ArgumentParser()
for name in ("--images", "--checkpoint", "--out"):
    parser.add_argument(name, type=Path, required=True)
args = parser.parse_args()
assert args.checkpoint.read_text() == "weights"
session = open_session()
cases = predict_cases(args.images)
assert all(case.attributes == {"age": ""} for case, _ in cases)
ids = [case.case_id for case, _ in cases]
pixels = [np.asarray(Image.open(path).convert("RGB")) for _, path in cases]
if session.task_type == "detection":
    write_detections(args.out, ids, [[(0, 2, 3, 4, 5, 0.75)] for _ in ids])
elif session.task_type == "segmentation":
    write_masks(args.out, ids, [image[..., 0] > 100 for image in pixels])
else:
    bright = [float(image.mean()) / 255 for image in pixels]
    write_predictions(args.out, ids, session.classes, [[share, 1 - share] for share in bright])
"""
"""Brightness is the probability of the first class; bright pixels are the mask."""


class Lab:
    """A state folder with one evaluated task; its model needs no torch."""

    def __init__(self, root: Path, task_type: str) -> None:
        self.services = Services(Settings(state=root / "state", cache=root / "cache"))
        store, self.task = self.services.store, f"moles-{task_type[:3]}"
        spec = TaskSpec.model_validate({"objective": "Tell melanoma from nevus.", "task_type": task_type})
        store.create_task(
            task_id=self.task,
            dataset="moles",
            request="Tell melanoma from nevus.",
            spec=spec,
            template="linear",
            seed=0,
            settings={},
            init_key="k",
        )
        store.open_task(self.task)
        self.model = self.services.state.task(self.task).model
        self.model.mkdir(parents=True)
        (self.model / "predict.py").write_text(PREDICT)
        (self.model / "checkpoint").write_text("weights")
        (self.model / "requirements.lock").write_text("numpy==2.4.6\n")
        points = {"MEL": {"threshold": 0.4, "rule": "youden"}} if task_type == "classification" else {}
        facts = {"run": "run0", "classes": ["MEL", "NV"], "targets": ["mole"], "operating_points": points}
        (self.model / "operating_points.json").write_text(json.dumps(facts))
        shutil.copytree(
            resource("sandbox_images") / "runtime" / "clinloop_runtime",
            self.model / "clinloop_runtime",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        files = {str(p.relative_to(self.model)): sha256_file(p) for p in self.model.rglob("*") if p.is_file()}
        (self.model / "MANIFEST.json").write_text(json.dumps(files))
        store.begin_evaluation(self.task, "run0")
        store.unseal(self.task, {})
        store.record(f"task:{self.task}", "scored", {"model": files})

    def end(self) -> None:
        self.services.store.end_evaluation(self.task, "evaluated", {}, {})

    def export(self, target: Path, **slugs: str) -> Path:
        return export.grand_challenge(self.services, self.task, target, **{"input_slug": "dermoscopy", **slugs})


@pytest.fixture(autouse=True)
def dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    known = SimpleNamespace(attributes=["age"], record=SimpleNamespace(image_rules={"stored": "8-bit RGB"}))
    monkeypatch.setattr(export.Dataset, "load", lambda *_: known)


def lab(root: Path, task_type: str) -> Lab:
    made = Lab(root, task_type)
    made.end()
    return made


def infer(folder: Path, image: Path | list[Path], out: Path) -> subprocess.CompletedProcess[str]:
    """Run the container's entry point on an image as the platform would, in a plain folder."""
    inputs = out.with_name("input") / "images" / "dermoscopy"
    inputs.mkdir(parents=True)
    for path in image if isinstance(image, list) else [image]:
        shutil.copy(path, inputs)
    return subprocess.run(
        [sys.executable, folder / "inference.py"],
        env=os.environ | {"CLINLOOP_INPUT": str(inputs.parents[1]), "CLINLOOP_OUTPUT": str(out)},
        capture_output=True,
        text=True,
        check=False,
    )


def answer(folder: Path, image: Path, out: Path, slug: str) -> dict[str, Any]:
    done = infer(folder, image, out)
    assert done.returncode == 0, done.stderr
    return json.loads((out / f"{slug}.json").read_text())


def grey(path: Path, value: int) -> Path:
    Image.new("RGB", (8, 6), (value,) * 3).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_a_classification_answers_probabilities_and_the_decision_at_its_threshold(tmp_path: Path, suffix: str) -> None:
    folder = lab(tmp_path, "classification").export(tmp_path / "gc")
    found = answer(folder, grey(tmp_path / f"image.{suffix}", 102), tmp_path / "out", "class-probabilities")
    assert found["probabilities"] == pytest.approx({"MEL": 0.4, "NV": 0.6})
    assert found["positive"] == {"MEL": True}


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_metaimage_is_read_with_all_of_its_bits(tmp_path: Path, depth: type[Any]) -> None:
    pixels = np.zeros((6, 8), dtype=depth)
    pixels[:3] = 255 if depth is np.uint8 else 4000
    sitk.WriteImage(sitk.GetImageFromArray(pixels[None]), tmp_path / "image.mha")
    folder = lab(tmp_path, "classification").export(tmp_path / "gc")
    found = answer(folder, tmp_path / "image.mha", tmp_path / "out", "class-probabilities")
    assert found["probabilities"]["MEL"] == pytest.approx(0.5)


def test_a_detection_answers_boxes_with_corners_in_millimetres(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((20, 30), dtype=np.uint8))
    image.SetSpacing((0.5, 0.25))
    image.SetOrigin((10.0, 20.0))
    sitk.WriteImage(image, tmp_path / "image.mha")
    folder = lab(tmp_path, "detection").export(tmp_path / "gc", output_slug="wrist-boxes")
    found = answer(folder, tmp_path / "image.mha", tmp_path / "out", "wrist-boxes")
    assert found["type"] == "Multiple 2D bounding boxes"
    (box,) = found["boxes"]
    assert (box["name"], box["probability"]) == ("mole", 0.75)
    corners = [image.TransformContinuousIndexToPhysicalPoint(at) for at in ((2, 3), (6, 3), (6, 8), (2, 8))]
    assert box["corners"] == [[*corner, 0.5] for corner in corners]


@pytest.mark.parametrize("suffix", ["mha", "png"])
def test_a_segmentation_answers_a_mask_of_the_input_where_the_input_lies(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((6, 9), dtype=np.uint8)
    pixels[1:4, 2:8] = 200
    if suffix == "mha":
        image = sitk.GetImageFromArray(pixels)
        image.SetSpacing((0.5, 0.25))
        sitk.WriteImage(image, tmp_path / "image.mha")
    else:
        Image.fromarray(pixels).save(tmp_path / "image.png")
    folder = lab(tmp_path, "segmentation").export(tmp_path / "gc")
    found = answer(folder, tmp_path / f"image.{suffix}", tmp_path / "out", "segmentation")
    assert found == {"height": 6, "width": 9, "target_pixels": 18}
    (written,) = (tmp_path / "out" / "images" / "segmentation").iterdir()
    mask = sitk.ReadImage(written)
    assert (sitk.GetArrayFromImage(mask) == (pixels > 100)).all()
    if suffix == "mha":
        assert mask.GetSpacing() == (0.5, 0.25)


def test_a_job_without_one_image_is_refused_in_words(tmp_path: Path) -> None:
    folder = lab(tmp_path, "classification").export(tmp_path / "gc")
    two = [grey(tmp_path / f"{n}.png", 9) for n in range(2)]
    done = infer(folder, two, tmp_path / "out")
    assert done.returncode == 1
    assert "must hold one image" in done.stderr and "it holds 2" in done.stderr


def test_the_container_has_the_locked_packages_and_a_user_without_rights(tmp_path: Path) -> None:
    made = lab(tmp_path, "classification")
    folder = made.export(tmp_path / "gc")
    steps = (folder / "Dockerfile").read_text()
    assert steps.index("\nUSER user") < steps.index('\nENTRYPOINT ["python", "inference.py"]')
    assert "--require-hashes -r /tmp/model.lock" in steps
    for line in steps.splitlines():
        if line.startswith("COPY"):
            assert all((folder / name).exists() for name in line.split()[1:-1] if not name.startswith("--"))
    assert sha256_file(folder / "model" / "checkpoint") == sha256_file(made.model / "checkpoint")
    assert f"clinloop-{made.task}" in (folder / "save.sh").read_text()
    assert os.access(folder / "test_run.sh", os.X_OK)
    readme = (folder / "README.md").read_text()
    assert "`dermoscopy`" in readme and "`class-probabilities`" in readme and "stored: 8-bit RGB" in readme


def test_a_model_that_was_changed_after_delivery_is_not_exported(tmp_path: Path) -> None:
    made = lab(tmp_path, "classification")
    (made.model / "checkpoint").write_text("others")
    with pytest.raises(BadInput, match="not what was delivered"):
        made.export(tmp_path / "gc")
    assert not (tmp_path / "gc").exists()


def test_what_cannot_be_exported_is_refused_in_words(tmp_path: Path) -> None:
    made = Lab(tmp_path, "classification")
    with pytest.raises(BadInput, match="has no model yet"):
        made.export(tmp_path / "gc")
    made.end()
    with pytest.raises(BadInput, match="is no slug"):
        made.export(tmp_path / "gc", input_slug="../x")
    (tmp_path / "gc").mkdir()
    (tmp_path / "gc" / "notes.txt").touch()
    with pytest.raises(BadInput, match="not empty"):
        made.export(tmp_path / "gc")
