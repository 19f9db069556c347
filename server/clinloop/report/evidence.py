"""The evidence files of a report: who the test cases were and what both models said about them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clinloop.errors import BadInput
from clinloop.scoring import truth
from clinloop.scoring.truth import TruthCase
from clinloop.sealing import unseal

if TYPE_CHECKING:
    from pyrage.x25519 import Identity


@dataclass(frozen=True)
class Evidence:
    """The three evidence files of a report, as the bytes that are written and hashed."""

    truth: bytes
    initial: bytes
    refined: bytes
    task_type: str = "classification"

    def files(self) -> dict[str, bytes]:
        """Return the content by file name."""
        return dict(zip(evidence_names(self.task_type), (self.truth, self.initial, self.refined), strict=True))

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 by file name: the `evidence` entry of the ledger's `scored` event."""
        return {name: hashlib.sha256(content).hexdigest() for name, content in self.files().items()}


def evidence_names(task_type: str) -> tuple[str, str, str]:
    """Return the names of the evidence files: the truth, and what the initial and the refined model predicted."""
    suffix = "csv" if task_type == "classification" else "json"
    return "truth.csv", f"initial.{suffix}", f"refined.{suffix}"


def truth_csv(cases: Iterable[TruthCase]) -> bytes:
    """Return evidence/truth.csv for cases under their final ids; a case without a group becomes a group of its own.

    Groups get new names that keep the order in which the bootstrap draws them, so the evidence gives the very same intervals.
    """
    grouped = [case._replace(group=f"g{case.group}" if case.group else f"c{case.case_id}") for case in cases]
    names = {group: f"g{place:06d}" for place, group in enumerate(sorted({case.group for case in grouped}))}
    rows = sorted(grouped, key=lambda case: case.case_id)
    return truth.truth_csv(case._replace(group=names[case.group]) for case in rows)


def read_evidence(folder: Path, task_type: str, identities: Sequence[Identity] = ()) -> Evidence | str:
    """Return the evidence of a report folder, unsealed with the identities where there are any, or why it cannot be read."""
    suffix = ".age" if identities else ""
    try:
        files = [(folder / "evidence" / (name + suffix)).read_bytes() for name in evidence_names(task_type)]
        if identities:
            files = [unseal(content, identities) for content in files]
    except OSError as error:
        return f"evidence/{Path(str(error.filename)).name} cannot be read"
    except BadInput as refusal:
        return str(refusal)
    known, initial, refined = files
    return Evidence(known, initial, refined, task_type)


def read_rows(content: bytes) -> list[dict[str, str]]:
    """Return the rows of a CSV file by column name."""
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))


def confusion(truth: bytes, predictions: bytes, classes: Sequence[str]) -> list[list[int]]:
    """Return cases by true class (rows) and most probable class (columns), in class order."""
    index = {name: position for position, name in enumerate(classes)}
    label = {row["case_id"]: index[row["label"]] for row in read_rows(truth)}
    matrix = [[0] * len(classes) for _ in classes]
    for row in read_rows(predictions):
        values = [float(row[f"p_{name}"]) for name in classes]
        matrix[label[row["case_id"]]][values.index(max(values))] += 1
    return matrix
