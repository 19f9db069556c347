"""What template tests share: a drawn dataset as a run sees it, and one training and prediction with a fake server that answers submissions."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clinloop import templates
from clinloop.resources import resource

SIZES = ((90, 72), (80, 80), (72, 100))
"""Width and height of the pictures in turn."""


class Truth(NamedTuple):
    """What is drawn in one picture."""

    mask: np.ndarray[Any, Any]
    """Bool (height, width)."""
    boxes: list[tuple[int, float, float, float, float]]
    """(target, x, y, width, height) in pixels."""


def draw(folder: Path, *, images: int, seed: int = 0, supervision: str = "mask") -> dict[str, Truth]:
    """Write noisy grey pictures, half of which hold a dark blob, with cases.csv, masks and boxes; return the truth of the validation cases.

    A third is validation. One training case in eight has its image label only, whatever the others have.
    """
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    truths: dict[str, Truth] = {}
    rows: list[tuple[str, ...]] = []
    boxed: list[dict[str, Any]] = []
    drawn: list[dict[str, Any]] = []
    for index in range(images):
        width, height = SIZES[index % len(SIZES)]
        across, down = np.meshgrid(np.arange(width), np.arange(height))
        pixels = 140 + 30 * np.sin(across / width * 5 + rng.uniform(0, 6)) + rng.normal(0, 14, (height, width))
        mask = np.zeros((height, width), dtype=bool)
        if is_positive := index % 2 == 1:
            a, b = rng.uniform(9, 16, 2)
            x, y = rng.uniform(a, width - a), rng.uniform(b, height - b)
            mask = ((across - x) / a) ** 2 + ((down - y) / b) ** 2 < 1
            pixels[mask] -= rng.uniform(45, 70)
        case_id = f"case{rng.integers(16**6):06x}{index:03d}"
        boxes: list[tuple[int, float, float, float, float]] = []
        if is_positive:
            (top, bottom), (left, right) = np.flatnonzero(mask.any(1))[[0, -1]], np.flatnonzero(mask.any(0))[[0, -1]]
            boxes = [(0, float(left), float(top), float(right - left + 1), float(bottom - top + 1))]
        grey = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        grey.convert("RGB").save(folder / f"images/{case_id}.{('jpg', 'png')[index % 2]}")
        label = "blob" if is_positive else "no blob"
        if index % 3 == 0:
            truths[case_id] = Truth(mask, boxes)
            rows.append((case_id, "val", case_id, "", ""))
            continue
        known = "image" if index % 8 == 1 else supervision
        rows.append((case_id, "train", case_id, label, known))
        if known == "mask":
            Image.fromarray(mask).save(folder / f"masks/{case_id}.png")
        if known in ("mask", "box"):
            boxed.append({"id": case_id, "file_name": f"{case_id}.jpg", "width": width, "height": height})
            drawn += [
                {"id": len(drawn) + 1, "image_id": case_id, "category_id": target + 1, "bbox": box}
                for target, *box in boxes
            ]
    table = {"images": boxed, "annotations": drawn, "categories": [{"id": 1, "name": "blob"}]}
    (folder / "boxes.json").write_text(json.dumps(table), encoding="utf-8")
    with (folder / "cases.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case_id", "split", "group", "label", "supervision"))
        writer.writerows(rows)
    return truths


def masks_in(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the masks of a predictions file: bool (height, width) by case."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for item in json.loads(path.read_text(encoding="utf-8")):
        values = np.repeat(np.arange(len(item["counts"])) % 2 == 1, item["counts"])
        found[item["image_id"]] = values.reshape(item["size"], order="F")
    return found


def mean_dice(path: Path, truths: dict[str, Truth]) -> float:
    """Return the mean over cases of 2 |A and B| / (|A| + |B|); 1 where both are empty. Every case must be there, of its image's size."""
    found = masks_in(path)
    assert set(found) == set(truths)
    values: list[float] = []
    for case_id, truth in truths.items():
        assert found[case_id].shape == truth.mask.shape
        total = int(found[case_id].sum() + truth.mask.sum())
        values.append(2 * int((found[case_id] & truth.mask).sum()) / total if total else 1.0)
    return float(np.mean(values))


class Run:
    """One training and prediction of a workspace, as a supervisor would do it but without isolation."""

    def __init__(
        self, folder: Path, template: str, task_type: str, data: Path, python: str, *, target: str = "blob"
    ) -> None:
        self.folder, self._data, self._python, self._task_type = folder, data, python, task_type
        self._target = target
        self.workspace, self.out = folder / "workspace", folder / "out"
        for name in ("workspace", "out", "session/answers", "weights"):
            (folder / name).mkdir(parents=True)
        chosen = next(each for each in templates.all_templates() if each.name == template)
        for name, source in chosen.sources("lite").items():
            (self.workspace / name).parent.mkdir(exist_ok=True)
            (self.workspace / name).write_bytes(source.read_bytes())

    def edit(self, step: dict[str, Any]) -> None:
        """Make the edits of one step of a trajectory."""
        for edit in step["edits"]:
            path = self.workspace / edit["path"]
            text = edit["text"] if edit["operation"] == "create" else path.read_text(encoding="utf-8")
            path.write_text(text.replace(edit["old"], edit["new"]) if "old" in edit else text, encoding="utf-8")

    def train(
        self, score: Callable[[Path], float], *, mode: str = "smoke", seconds: float = 120.0, gpus: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run train.py and answer its submissions with `score`."""
        facts = {
            "mode": mode,
            "phase": "train",
            "task_type": self._task_type,
            "classes": [f"no {self._target}", self._target],
            "targets": [self._target],
            "seed": 0,
            "deadline_unix": time.time() + seconds,
            "primary_metric": "",
            "validations_cap": 30,
            "gpus": gpus,
            "cpus": 2,
        }
        (self.folder / "session/session.json").write_text(json.dumps(facts), encoding="utf-8")
        with (self.folder / "log.txt").open("w+", encoding="utf-8") as log:
            process = self._start("train.py", stdout=log, stderr=subprocess.STDOUT)
            best, number = -1.0, 1
            suffix = ".csv" if self._task_type == "classification" else ".json"
            while process.poll() is None:
                if (submission := self.out / f"validation/{number:04d}{suffix}").exists():
                    value = score(submission)
                    answer = self.folder / "session/answers/partial"
                    answer.write_text(json.dumps({"score": value, "best": value > best, "left": 30 - number}))
                    answer.replace(answer.with_name(f"{number:04d}.json"))
                    best, number = max(best, value), number + 1
                time.sleep(0.02)
            log.seek(0)
            return subprocess.CompletedProcess("train.py", process.returncode, log.read())

    def predict(self) -> subprocess.CompletedProcess[str]:
        """Predict the validation cases in another process that sees no data and no session."""
        images = self.folder / "predict/images"
        images.mkdir(parents=True)
        with (self._data / "cases.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
        (images.parent / "cases.csv").write_text("\n".join(["case_id", *(row["case_id"] for row in rows)]) + "\n")
        for row in rows:
            source = next((self._data / "images").glob(f"{row['case_id']}.*"))
            (images / source.name).symlink_to(source)
        out = self.folder / "predictions.json"
        argv = ("--images", str(images), "--checkpoint", str(self.out / "checkpoint"), "--out", str(out))
        process = self._start("predict.py", *argv, data=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text, _ = process.communicate()
        return subprocess.CompletedProcess("predict.py", process.returncode, text)

    def history(self) -> list[dict[str, Any]]:
        """Return the lines that train.py logged."""
        return [json.loads(line) for line in (self.out / "history.jsonl").read_text(encoding="utf-8").splitlines()]

    def scores(self) -> list[float]:
        """Return the scores in the order of the submissions."""
        return [line["score"] for line in self.history() if line["event"] == "validation"]

    def _start(self, *argv: str, data: bool = True, **streams: Any) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(resource("sandbox_images") / "runtime"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "CLINLOOP_OUT": str(self.out),
            "CLINLOOP_SESSION": str(self.folder / "session" if data else self.folder / "nowhere"),
            "CLINLOOP_DATA": str(self._data if data else self.folder / "nowhere"),
            "CLINLOOP_WEIGHTS": str(self.folder / "weights"),
            "CLINLOOP_INPUTS": str(self.folder / "inputs"),
            **({"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]} if "OMP_NUM_THREADS" in os.environ else {}),
        }
        return subprocess.Popen([self._python, *argv], cwd=self.workspace, env=environment, text=True, **streams)
