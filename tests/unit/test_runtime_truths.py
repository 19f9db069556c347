"""Boxes and masks in the runtime: what training code reads of them, and the files in which predictions leave."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("data/masks", "out", "session/answers"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("data", "out", "session"):
        monkeypatch.setenv(f"CLINLOOP_{name.upper()}", str(tmp_path / name))
    (tmp_path / "data/cases.csv").write_text(
        "case_id,split,group,label,supervision,age\na1,train,g1,wrist,box,30\na2,train,g1,none,image,\nb1,val,g2,,,50\n",
        encoding="utf-8",
    )
    return tmp_path


def session(runtime: ModuleType, box: Path, task_type: str):
    facts = {
        "mode": "full",
        "phase": "train",
        "task_type": task_type,
        "classes": ["none", "wrist"],
        "targets": ["fracture"],
    }
    facts |= {"deadline_unix": time.time() + 0.2, "validations_cap": 3}
    (box / "session/session.json").write_text(json.dumps(facts), encoding="utf-8")
    return runtime.open_session()


def test_boxes_of_training_cases_are_read_and_an_image_without_one_has_none(runtime: ModuleType, box: Path) -> None:
    table = {
        "images": [{"id": "a1", "file_name": "a1.png"}, {"id": "a3", "file_name": "a3.png"}],
        "annotations": [{"id": 1, "image_id": "a1", "category_id": 1, "bbox": [1, 2.5, 3, 4]}],
        "categories": [{"id": 1, "name": "fracture"}],
    }
    opened = session(runtime, box, "detection")
    assert opened.boxes() == {}
    (box / "data/boxes.json").write_text(json.dumps(table), encoding="utf-8")
    assert opened.boxes() == {"a1": [(0, 1, 2.5, 3, 4)], "a3": []}
    assert [case.supervision for case in opened.train_cases()] == ["box", "image"]
    assert opened.train_cases()[0].attributes == {"age": "30"}


def test_a_mask_is_a_file_or_not_there(runtime: ModuleType, box: Path) -> None:
    (box / "data/masks/a1.png").write_bytes(b"")
    opened = session(runtime, box, "segmentation")
    assert opened.mask_path("a1") == box / "data/masks/a1.png"
    assert opened.mask_path("a2") is None


def test_a_detection_is_submitted_as_coco_results(runtime: ModuleType, box: Path) -> None:
    opened = session(runtime, box, "detection")
    assert opened.validate(["b1", "b2"], [[(0, 1.0, 2.0, 3.0, 4.0, 0.5)], []]).problem == "no answer in time"
    sent = json.loads((box / "out/validation/0001.json").read_text(encoding="utf-8"))
    assert sent == [{"image_id": "b1", "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]
    assert runtime.open_session().validations_left == 2, "a second process of the run goes on counting"


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([(0, 1, 1, 0, 4, 0.5)], "width > 0"),
        ([(0, 1, 1, 3, 4, 1.5)], "score in"),
        ([(0, float("nan"), 1, 3, 4, 0.5)], "no box"),
        ([(0, 1, 1, 3, 4, 0.5)] * 101, "keep the 100"),
    ],
)
def test_a_detection_that_is_none_is_a_bug_that_is_named(
    runtime: ModuleType, box: Path, boxes: list[tuple[float, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        runtime.write_detections(box / "out/predictions.json", ["b1"], [boxes])
    assert not (box / "out/predictions.json").exists()


@pytest.mark.parametrize("mask", [np.zeros((3, 2)), np.ones((3, 2)), np.array([[0, 1, 0], [1, 0, 0]]), np.eye(5)])
def test_a_mask_leaves_as_run_lengths_down_the_columns(runtime: ModuleType, box: Path, mask: np.ndarray) -> None:
    runtime.write_masks(box / "out/p.json", ["b1"], [mask])
    (found,) = json.loads((box / "out/p.json").read_text(encoding="utf-8"))
    runs = np.repeat(np.arange(len(found["counts"])) % 2, found["counts"])
    assert found["size"] == list(mask.shape)
    assert np.array_equal(runs.reshape(mask.shape, order="F"), mask)
    with pytest.raises(ValueError, match="shape"):
        runtime.write_masks(box / "out/p.json", ["b1"], [mask[0]])
