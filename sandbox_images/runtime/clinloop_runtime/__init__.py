"""What code in a workspace uses to talk to clinloop: data, deadline, scores of the hidden validation labels, predictions.

Python's standard library only (numpy where an array is asked for), so it runs in every sandbox image and beside a delivered model.

    session = open_session()                         # in train.py
    score = session.validate(case_ids, probabilities)  # the server scores; the labels are not here
    if score.best: ...save to session.checkpoint...

    predict.py needs `predict_cases` and one of `write_predictions`, `write_detections`, `write_masks` only; `write_embeddings` lets the report
    look for groups of images that fail together.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clinloop_runtime.embeddings import write_embeddings
from clinloop_runtime.predictions import (
    MAX_DETECTIONS,
    Detection,
    checked,
    detections_text,
    masks_text,
    rows_text,
    write_detections,
    write_masks,
    write_predictions,
    write_whole,
)

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "MAX_DETECTIONS",
    "Box",
    "Case",
    "Detection",
    "Score",
    "Session",
    "log",
    "open_session",
    "predict_cases",
    "predict_session",
    "write_detections",
    "write_embeddings",
    "write_masks",
    "write_predictions",
]

ANSWER_TIMEOUT_S = 60.0
"""Longest wait for one answer; the deadline may end it sooner."""
_POLL_S = 0.01
_CASE_COLUMNS = ("case_id", "split", "group", "label", "supervision")
_IMAGE_SUFFIXES = (".jpg", ".png")
_started = time.monotonic()


class Case(NamedTuple):
    """One image and what is known of it."""

    case_id: str
    split: str
    """train or val; empty in predict.py."""
    group: str
    """Cases of one group show the same patient or lesion; keep them together when you split."""
    label: str
    """Empty in val and in predict.py: only the server knows."""
    attributes: dict[str, str]
    """Age, sex, site, … as text; "" is missing."""
    supervision: str = ""
    """In train what the case was given: mask, box, or image (its label only); empty elsewhere."""


class Box(NamedTuple):
    """A box that an expert drew, in pixels of the image file; origin top left, (x, y) is the upper left corner."""

    target: int
    """Position in `session.targets`."""
    x: float
    y: float
    width: float
    height: float


class Score(NamedTuple):
    """The server's answer to one validation submission."""

    value: float
    """The task's primary metric, rounded to what the number of validation cases supports; nan when there was no score."""
    best: bool
    """True when no rounded score of the run so far is better: save the checkpoint now."""
    left: int
    """Submissions left in this run."""
    problem: str = ""
    """Why there was no score: the server's words, "no submission left" or "no answer in time"."""


@dataclass
class Session:
    """What the server told this process. Folders can be moved by CLINLOOP_DATA, _OUT, _SESSION, _WEIGHTS and _INPUTS."""

    mode: str
    """full, or smoke: a rehearsal of the whole contract on a few cases."""
    phase: str
    """train or predict."""
    classes: list[str]
    """Image-level classes: the order of the columns of every probability array."""
    seed: int
    deadline: float
    """Unix time at which the process is ended."""
    primary_metric: str
    validations_left: int
    data: Path
    out: Path
    session: Path
    inputs: Path
    weights: Path
    task_type: str = "classification"
    """classification, detection or segmentation: what a prediction is."""
    targets: list[str] = field(default_factory=list)
    """What boxes or masks show; empty in a classification."""
    facts: dict[str, Any] = field(default_factory=dict)
    """session.json as it is."""
    _submitted: int = 0

    @property
    def smoke(self) -> bool:
        return self.mode == "smoke"

    @property
    def gpus(self) -> int:
        """GPUs that this run has; all are visible to CUDA."""
        return int(self.facts.get("gpus", 0))

    @property
    def checkpoint(self) -> Path:
        """The one file that predict.py will get. Write a temporary file and rename it: a killed run keeps its last whole one."""
        return self.out / "checkpoint"

    def seconds_left(self) -> float:
        """Return the seconds to the deadline, 0 when it has passed."""
        return max(0.0, self.deadline - time.time())

    def train_cases(self) -> list[Case]:
        """Return the training cases, with labels."""
        return [case for case in _read_cases(self.data / "cases.csv") if case.split == "train"]

    def val_cases(self) -> list[Case]:
        """Return the validation cases, without labels."""
        return [case for case in _read_cases(self.data / "cases.csv") if case.split == "val"]

    def image_path(self, case_id: str) -> Path:
        """Return the image file of a case.

        Raises:
            FileNotFoundError: there is no such case.
        """
        return _image_path(self.data / "images", case_id)

    def boxes(self) -> dict[str, list[Box]]:
        """Return the boxes of the training cases that have them: {case id: boxes}, an empty list = an expert looked and drew none."""
        path = self.data / "boxes.json"
        if not path.exists():
            return {}
        table = json.loads(path.read_text(encoding="utf-8"))
        boxes: dict[str, list[Box]] = {str(image["id"]): [] for image in table["images"]}
        for drawn in table["annotations"]:
            boxes[str(drawn["image_id"])].append(Box(int(drawn["category_id"]) - 1, *map(float, drawn["bbox"])))
        return boxes

    def mask_path(self, case_id: str) -> Path | None:
        """Return the mask of a training case, a 1-bit PNG of its image's size, or None where nobody drew one."""
        path = self.data / "masks" / f"{case_id}.png"
        return path if path.exists() else None

    def cache(self, px: int) -> tuple[np.ndarray[Any, Any], dict[str, int]] | None:
        """Return the decoded images and the row of each case, or None where the server built no cache of this size.

        The array is a read-only memory map, uint8 (N, px, px, 3) RGB: short side resized to px, centre cropped.
        """
        import numpy as np

        pixels, index = self.data / f"cache_{px}.npy", self.data / f"cache_{px}.json"
        if not (pixels.exists() and index.exists()):
            return None
        case_ids = json.loads(index.read_text(encoding="utf-8"))["case_ids"]
        return np.load(pixels, mmap_mode="r"), {case_id: row for row, case_id in enumerate(case_ids)}

    def validate(self, case_ids: Sequence[str], predictions: Sequence[Any]) -> Score:
        """Submit predictions of all validation cases, one a case, and wait for the server's score.

        A classification takes probabilities (N, n_classes), a detection a sequence of `Detection` a case, a segmentation a bool array
        (height, width) of the image file's size a case. An answer that brings no score (none left, none in time, refused) never ends
        training: the Score then holds nan and `problem`.

        Raises:
            ValueError: the shape is wrong or a number is not valid: a bug that a smoke test should show.
        """
        suffix, text = self._as_file(case_ids, predictions)
        if self.validations_left <= 0:
            return Score(math.nan, False, 0, "no submission left")
        self.validations_left -= 1
        self._submitted += 1
        name = f"{self._submitted:04d}"
        write_whole(self.out / "validation" / (name + suffix), text)
        answer = self._wait_for(self.session / "answers" / f"{name}.json")
        if answer is None:
            return self._note(Score(math.nan, False, self.validations_left, "no answer in time"))
        self.validations_left = int(answer.get("left", self.validations_left))
        if "score" not in answer:
            return self._note(Score(math.nan, False, self.validations_left, str(answer.get("error", "no score"))))
        return self._note(Score(float(answer["score"]), bool(answer.get("best")), self.validations_left))

    def _as_file(self, case_ids: Sequence[str], predictions: Sequence[Any]) -> tuple[str, str]:
        if self.task_type == "detection":
            return ".json", detections_text(case_ids, predictions)
        if self.task_type == "segmentation":
            return ".json", masks_text(case_ids, predictions)
        return ".csv", rows_text(self.classes, checked(case_ids, self.classes, predictions))

    def log(self, **fields: Any) -> None:
        """Print one JSON line with the seconds since start and add it to /out/history.jsonl."""
        log(history=self.out / "history.jsonl", **fields)

    def _wait_for(self, path: Path) -> dict[str, Any] | None:
        end = time.monotonic() + min(ANSWER_TIMEOUT_S, self.seconds_left())
        while not path.exists():
            if time.monotonic() >= end:
                return None
            time.sleep(_POLL_S)
        return json.loads(path.read_text(encoding="utf-8"))

    def _note(self, score: Score) -> Score:
        extra = {"problem": score.problem} if score.problem else {}
        self.log(event="validation", score=score.value, best=score.best, left=score.left, **extra)
        return score


def open_session() -> Session:
    """Read what the server says about this run.

    Raises:
        FileNotFoundError: not inside a sandbox: there is no session.json.
    """
    folder = _folder("SESSION", "/session")
    facts = json.loads((folder / "session.json").read_text(encoding="utf-8"))
    out = _folder("OUT", "/out")
    earlier = [
        int(path.stem)
        for path in (out / "validation").glob("*.*")
        if path.stem.isdigit() and path.suffix in (".csv", ".json")
    ]
    submitted = max(earlier, default=0)  # a second process of the same run goes on counting
    return Session(
        mode=facts["mode"],
        phase=facts["phase"],
        classes=list(facts["classes"]),
        seed=int(facts.get("seed", 0)),
        deadline=float(facts["deadline_unix"]),
        primary_metric=str(facts.get("primary_metric", "")),
        validations_left=int(facts.get("validations_cap", 0)) - submitted,
        data=_folder("DATA", "/data"),
        out=out,
        session=folder,
        inputs=_folder("INPUTS", "/inputs"),
        weights=_folder("WEIGHTS", "/weights"),
        task_type=str(facts.get("task_type", "classification")),
        targets=list(facts.get("targets", [])),
        facts=facts,
        _submitted=submitted,
    )


def predict_session() -> Session | None:
    """Return the session of a predict.py, or None where a delivered model runs without a server."""
    try:
        return open_session()
    except FileNotFoundError:
        return None


def predict_cases(images: Path) -> list[tuple[Case, Path]]:
    """Return the cases to predict and their files: those of cases.csv beside the folder `images`, else every image in it."""
    table = images.parent / "cases.csv"
    if table.exists():
        return [(case, _image_path(images, case.case_id)) for case in _read_cases(table)]
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in {*_IMAGE_SUFFIXES, ".jpeg"})
    return [(Case(path.stem, "", "", "", {}), path) for path in found]


def log(*, history: Path | None = None, **fields: Any) -> None:
    """Print one JSON line with the seconds since start; with `history`, add it to that file too."""
    plain = {key: _plain(value) for key, value in fields.items()}
    line = json.dumps({"t": round(time.monotonic() - _started, 2), **plain})
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    if history is not None:
        with history.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _folder(name: str, usual: str) -> Path:
    return Path(os.environ.get(f"CLINLOOP_{name}") or usual)


def _read_cases(path: Path) -> list[Case]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Case(
                row["case_id"],
                row.get("split", ""),
                row.get("group", ""),
                row.get("label", ""),
                {name: value for name, value in row.items() if name not in _CASE_COLUMNS},
                row.get("supervision", ""),
            )
            for row in csv.DictReader(file)
        ]


def _image_path(images: Path, case_id: str) -> Path:
    for suffix in _IMAGE_SUFFIXES:
        if (path := images / (case_id + suffix)).exists():
            return path
    raise FileNotFoundError(f"no image of case {case_id}")


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: floats rounded to 6 digits, nan and infinity as null."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
