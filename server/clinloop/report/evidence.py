"""Reading the evidence files of a report: who the test cases were and what both models said about them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence


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
