"""The code that infers hidden validation labels from scores, and the count of those that it got right."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

from clinloop.store.rows import RunRow

if TYPE_CHECKING:
    from .stage import Stage

TRAIN_INFERENCE = """
# Macro AUC of probabilities that are equal for all cases but a few is a function of the labels of those few. Their probabilities are
# drawn until every assignment of labels gives another score; then the score names the assignment. How many cases of each class there
# are is known (inspect_dataset shows it).
import itertools, json, random
cases = [case.case_id for case in session.val_cases()]
classes = session.classes
K, AT_ONCE, draw = len(classes), 2, random.Random(0)
counts = [len(cases) // K + (k < len(cases) % K) for k in range(K)]

def auc(scores, labels, k):
    positive = [s[k] for s, label in zip(scores, labels) if label == k]
    negative = [s[k] for s, label in zip(scores, labels) if label != k]
    return sum((p > n) + (p == n) / 2 for p in positive for n in negative) / (len(positive) * len(negative))

def predicted(rows, labels, rest):
    base = [1 / K] * K
    scores = [*rows, *([base] * sum(rest))]
    every = [*labels, *(k for k in range(K) for _ in range(rest[k]))]
    return round(sum(auc(scores, every, k) for k in range(K)) / K, 4)

def row():
    # The runtime writes six digits; distinct ones keep the order.
    parts = [draw.randint(1, 99) for _ in range(K)]
    return [part / sum(parts) for part in parts]

known = {}
for start in range(0, len(cases), AT_ONCE):
    some = cases[start:start + AT_ONCE]
    options = []
    for labels in itertools.product(range(K), repeat=len(some)):
        rest = [counts[k] - labels.count(k) for k in range(K)]
        if min(rest) >= 0:
            options.append((labels, rest))
    best = None
    for _ in range(60):
        rows = [row() for _ in some]
        table = {}
        for labels, rest in options:
            table.setdefault(predicted(rows, labels, rest), []).append(labels)
        if best is None or len(table) > len(best[1]):
            best = rows, table
        if len(table) == len(options):
            break
    rows, table = best
    every = [rows[some.index(case)] if case in some else [1 / K] * K for case in cases]
    score = session.validate(cases, every)
    nearest = min(table, key=lambda value: abs(value - score.value))
    for case, label in zip(some, table[nearest][0]):
        known[case] = classes[label]
(session.out / "inferred.json").write_text(json.dumps(known))
session.checkpoint.write_text("weights")
"""


def count_right(stage: Stage, run: RunRow) -> tuple[int, int, int]:
    """Return (labels that were inferred rightly, validation cases, submissions used)."""
    folder = stage.folder(run)
    try:
        inferred = json.loads((folder.out / "inferred.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        inferred = {}
    with (stage.lab.services.state.task(run.task_id).data / "val_truth.csv").open(encoding="utf-8", newline="") as file:
        truth = {row["case_id"]: row["label"] for row in csv.DictReader(file)}
    right = sum(inferred.get(case) == label for case, label in truth.items())
    return right, len(truth), len(folder.read_validations())
