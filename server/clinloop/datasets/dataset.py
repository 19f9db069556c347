"""What is stored of a dataset, for everybody who reads it. Light: csv, json and pydantic only."""

from __future__ import annotations

import fcntl
import random
import re
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from clinloop.datasets.case import TaskType
from clinloop.datasets.table import CaseRow, read_cases
from clinloop.errors import BadInput, NotNow, unknown

if TYPE_CHECKING:
    from clinloop.datasets.findings import Audit

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MTIME = 946_684_800
"""Modification time of every file that a sandbox sees: 2000-01-01."""


class SplitRule(BaseModel):
    """How the dataset was split."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    test: Literal["official"] | float
    """The publisher's test set, or the fraction of cases that was set aside."""
    val: float
    """Fraction of the cases that are not test."""
    seed: int
    """Seed that was given; the one in use also depends on the secret key of the instance."""
    digest: str
    """SHA-256 over all (case_id, split)."""


class Annotation(BaseModel):
    """An attribute that a model predicted; nothing in it depends on a test case."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    column: str
    """Name of the attribute."""
    task: str
    """Task whose final model predicted it."""
    run: str
    """Run of that task."""
    class_name: str
    """Class whose probability it is."""
    checkpoint_sha256: str
    """Of the model."""
    overlap: str
    """How much of train and validation the model has seen, in words."""
    is_clean: bool
    """Whether everything could be compared and nothing is shared."""


class DatasetRecord(BaseModel):
    """dataset.json: what an agent may know of a dataset without looking at its cases."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    created_at: str
    """UTC, ISO 8601."""
    task_type: TaskType
    classes: list[str]
    """In canonical order; predictions have one column each in this order."""
    targets: list[str] = []
    """What boxes or masks show, in canonical order: the target index counts in it."""
    keep_boxes: float = 1.0
    """Share of the training cases whose boxes or masks were kept; the others have their image label only."""
    counts: dict[str, dict[str, int]]
    """Cases of train and of val per class."""
    group_kind: str
    """What a group is: patient, lesion, …; "image" = only siblings and near-duplicates are grouped."""
    attributes: list[str]
    """Attribute columns of cases.csv."""
    layout: str
    layout_reason: str
    image_rules: dict[str, str]
    """How images were turned into what is stored."""
    max_px: int
    """No stored image has a longer side."""
    cache_px: list[int]
    """Sizes of the decoded caches."""
    split: SplitRule
    commitment: str
    """Salted Merkle root over (case_id, split, group, label, boxes, SHA-256 of the stored image and mask) of all cases."""
    annotations: list[Annotation] = []
    """Attributes that models predicted, each with its source."""


class Dataset:
    """A stored dataset; the attributes of its record, its folders and its train and validation cases."""

    def __init__(self, folder: Path, record: DatasetRecord) -> None:
        self.folder = folder
        self.record = record

    @classmethod
    def load(cls, state: Path, name: str) -> Dataset:
        """Return a dataset; a nested name ("isic/2019") is the folder name that `stored_name` gives it.

        Raises:
            Unknown: there is none of this name; the text lists those there are.
        """
        folder = datasets_folder(state) / stored_name(name) if is_name(name) else None
        try:
            text = (folder / "dataset.json").read_text(encoding="utf-8") if folder else None
        except OSError:
            text = None
        if folder is None or text is None:
            raise unknown("dataset", name, cls.list_names(state))
        return cls(folder, DatasetRecord.model_validate_json(text))

    @staticmethod
    def list_names(state: Path) -> list[str]:
        """Return the names of all datasets, sorted."""
        return sorted(
            path.parent.name for path in datasets_folder(state).glob("*/dataset.json") if is_name(path.parent.name)
        )

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.record.name

    @property
    def classes(self) -> list[str]:
        """Classes in canonical order."""
        return self.record.classes

    @property
    def task_type(self) -> TaskType:
        """Kind of task that the strongest truth allows; image-level labels allow classification too."""
        return self.record.task_type

    @property
    def targets(self) -> list[str]:
        """What boxes or masks show; empty for a dataset that has none."""
        return self.record.targets

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Cases of train and of val per class."""
        return self.record.counts

    @property
    def attributes(self) -> list[str]:
        """Attribute columns."""
        return self.record.attributes

    @property
    def group_kind(self) -> str:
        """What a group is."""
        return self.record.group_kind

    @property
    def cache_px(self) -> list[int]:
        """Sizes of the decoded caches in view/."""
        return self.record.cache_px

    @property
    def commitment(self) -> str:
        """Salted Merkle root over all cases."""
        return self.record.commitment

    @property
    def view(self) -> Path:
        """What sandboxes see at /data: cases.csv, images/ and caches of train and val; readable by any user below a private folder."""
        return self.folder / "view"

    @property
    def vault(self) -> Path:
        """Where the test cases lie; read through `vault.open_test` by finalize only."""
        return self.folder / "vault"

    @property
    def val_truth(self) -> Path:
        """Server-only CSV `case_id,group,label` of the validation cases."""
        return self.folder / "val_truth.csv"

    def cases(self, split: Literal["train", "val"] | None = None) -> list[CaseRow]:
        """Return the cases of train and val (or one of them) with labels, in the shuffled order of view/cases.csv."""
        return self._cases if split is None else [case for case in self._cases if case.split == split]

    @cached_property
    def _cases(self) -> list[CaseRow]:
        return read_cases(self.folder / "cases.csv", self.folder)

    def image_path(self, case_id: str) -> Path:
        """Return the stored image of a train or validation case.

        Raises:
            Unknown: there is no such case.
        """
        try:
            return self._images[case_id]
        except KeyError:
            raise unknown("case", case_id, list(self._images)[:3], "Case ids are in /data/cases.csv.") from None

    @cached_property
    def _images(self) -> dict[str, Path]:
        return {case.case_id: case.image for case in self._cases}

    def subset(self, split: Literal["train", "val"], n: int, seed: int = 0) -> list[CaseRow]:
        """Return at most n cases of a split, drawn in turn from each class, the same for the same seed."""
        by_class: dict[str, list[CaseRow]] = {name: [] for name in self.classes}
        for case in self.cases(split):
            by_class[case.label].append(case)
        draw = random.Random(seed)  # noqa: S311  # a draw that anybody may repeat
        for members in by_class.values():
            draw.shuffle(members)
        turns = [case for turn in range(n) for members in by_class.values() for case in members[turn : turn + 1]]
        return turns[:n]

    @cached_property
    def audit(self) -> Audit:
        """What the audit found in train and val."""
        from clinloop.datasets.findings import Audit  # late: its models cost a server's start 10 ms

        return Audit.model_validate_json((self.folder / "audit.json").read_text(encoding="utf-8"))

    def audit_lines(self) -> list[str]:
        """Return the audit as plain sentences, most important first."""
        return self.audit.lines()

    def attribute_lines(self) -> list[str]:
        """Return each attribute against the label as plain lines."""
        return self.audit.attribute_lines()

    def summary(self) -> dict[str, object]:
        """Return what an agent needs to know first."""
        record = self.record
        return {
            "name": record.name,
            "task_type": record.task_type,
            "classes": record.classes,
            "counts": record.counts,
            "group_kind": record.group_kind,
            "groups": self.audit.groups.n_groups,
            "attributes": record.attributes,
            "targets": record.targets,
            "supervision": self.audit.supervision,
            "truth": self.audit.truth_lines() if record.targets else [],
            "image_sizes": [f"{item.width}×{item.height}: {item.count}" for item in self.audit.image_sizes[:5]],
            "max_px": record.max_px,
            "cache_px": record.cache_px,
            "layout": record.layout,
            "warnings": self.audit.warnings,
            "commitment": record.commitment,
        }

    def contact_sheet(self, n_per_class: int = 6, seed: int = 0) -> bytes:
        """Return a PNG (longest side at most 1600 px) with n samples of each class, boxes and masks drawn in; from train only."""
        from clinloop.datasets.pictures import contact_sheet

        samples = [case for name in self.classes for case in self._samples(name, n_per_class, seed)]
        return contact_sheet(self.classes, samples, self.counts, n_per_class, self.targets)

    def _samples(self, label: str, n: int, seed: int) -> list[CaseRow]:
        """Return n training cases of a class, and where only some have boxes or masks, at least one of each kind."""
        members = [case for case in self.cases("train") if case.label == label]
        random.Random(seed).shuffle(members)  # noqa: S311  # a draw that anybody may repeat
        drawn = [case for case in members if case.supervision in {"mask", "box"}]
        plain = [case for case in members if case.supervision not in {"mask", "box"}]
        n_plain = min(len(plain), max(n - len(drawn), n // 3))
        return [*drawn[: n - n_plain], *plain[:n_plain]]


def remove(state: Path, name: str) -> None:
    """Remove a dataset with its vault.

    Raises:
        Unknown: there is none of this name.
        NotNow: it is being added or removed by another process.
    """
    dataset = Dataset.load(state, name)
    with lock_name(state, dataset.folder.name):
        doomed = datasets_folder(state) / f".removing-{dataset.folder.name}"
        shutil.rmtree(doomed, ignore_errors=True)
        dataset.folder.rename(doomed)  # at once gone for readers, even if the rest is interrupted
        shutil.rmtree(doomed)


def datasets_folder(state: Path) -> Path:
    """Return the folder of all datasets."""
    return state / "datasets"


def is_name(name: str) -> bool:
    """Tell whether a name (or nested name) can be that of a dataset."""
    return all(NAME.fullmatch(part) for part in name.split("/")) and len(stored_name(name)) <= 64


def stored_name(name: str) -> str:
    """Return the folder name of a nested name: slashes become dots."""
    return name.replace("/", ".")


def check_name(name: str) -> str:
    """Return the stored form of a name.

    Raises:
        BadInput: it is not a name.
    """
    if not is_name(name):
        raise BadInput(
            f"{name[:80]!r} cannot name a dataset: use 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit; for example isic2019."
        )
    return stored_name(name)


@contextmanager
def lock_name(state: Path, name: str, *, wait_s: float = 0.0) -> Generator[None]:
    """Hold the only right to add or remove a dataset of this name; the kernel drops it when the process ends.

    Raises:
        NotNow: another process holds it for longer than `wait_s`.
    """
    folder = datasets_folder(state)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = time.monotonic() + wait_s
    with (folder / f".lock-{name}").open(
        "w", encoding="utf-8"
    ) as file:  # never deleted: a deleted lock file can be held twice
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise NotNow(
                        f"Dataset {name!r} is being added or removed by another process; wait for it and try again."
                    ) from None
                time.sleep(0.1)
        yield
