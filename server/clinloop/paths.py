"""Where everything lies in the state folder: the only place that knows file names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREDICTIONS = "predictions"
"""The file that predict.py writes into its /out: CSV in a classification, else JSON."""
EMBEDDINGS = ("embeddings.npy", "embeddings.txt")
"""What predict.py may leave beside it: features as (N, D) floats, and the case id of each row."""


@dataclass(frozen=True)
class RunFolder:
    """STATE/tasks/<task_id>/runs/<name>/"""

    root: Path

    @property
    def code(self) -> Path:
        """The revision, as the sandbox sees it at /workspace."""
        return self.root / "code"

    @property
    def out(self) -> Path:
        """What training writes at /out."""
        return self.root / "out"

    @property
    def session(self) -> Path:
        """What the sandbox sees at /session: session.json and answers/."""
        return self.root / "session"

    @property
    def checkpoint(self) -> Path:
        """The one file that training leaves and predict.py reads."""
        return self.out / "checkpoint"

    @property
    def predicted(self) -> Path:
        """What predict.py writes at /out on validation images."""
        return self.root / "predicted"

    @property
    def predictions(self) -> Path:
        """Predictions of predict.py on validation images."""
        return self.predicted / PREDICTIONS

    @property
    def embeddings(self) -> tuple[Path, Path]:
        """Features of the validation images and their case ids, where predict.py wrote any."""
        features, case_ids = EMBEDDINGS
        return self.predicted / features, self.predicted / case_ids

    @property
    def validations(self) -> Path:
        """JSON lines of the validation submissions inside training: n, seconds, score."""
        return self.root / "validations.jsonl"

    def read_validations(self) -> list[dict[str, Any]]:
        """Return the validation submissions so far; a line that is still being written is left for later."""
        try:
            lines = self.validations.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("}")]

    @property
    def lock(self) -> Path:
        """Held by the supervisor as long as it lives."""
        return self.root / "supervisor.lock"

    def log(self, phase: str) -> Path:
        """Standard output and error of a phase (train or predict)."""
        return self.root / f"log-{phase}.txt"


@dataclass(frozen=True)
class TaskFolder:
    """STATE/tasks/<task_id>/"""

    root: Path

    @property
    def workspace(self) -> Path:
        """The files that the agent edits."""
        return self.root / "workspace"

    @property
    def revisions(self) -> Path:
        """Store of all revisions."""
        return self.root / "revisions.git"

    @property
    def data(self) -> Path:
        """What differs from the dataset's view: cases.csv of the task's classes, the validation images alone, val_truth.csv."""
        return self.root / "data"

    @property
    def final(self) -> Path:
        """Frozen copies and test predictions; the test view while it is open."""
        return self.root / "final"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report"

    @property
    def model(self) -> Path:
        """The deliverable model."""
        return self.root / "model"

    def run(self, name: str) -> RunFolder:
        """Return the folder of a run."""
        return RunFolder(self.root / "runs" / name)


@dataclass(frozen=True)
class StateFolder:
    """STATE/"""

    root: Path

    @property
    def key(self) -> Path:
        """Secret of this instance, from which case ids are derived."""
        return self.root / "key"

    @property
    def images(self) -> Path:
        """What the custodian has added to sandbox images: <name>/requirements.lock and the like; looked at before what clinloop ships."""
        return self.root / "images"

    @property
    def http(self) -> Path:
        """Where each server that listens over HTTP notes its address: <pid>.json."""
        return self.root / "http"

    def task(self, task_id: str) -> TaskFolder:
        """Return the folder of a task."""
        return TaskFolder(self.root / "tasks" / task_id)
