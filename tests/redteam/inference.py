"""The two programs that infer hidden validation labels from scores, and the count of those that it got right."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

from clinloop.store.rows import RunRow

if TYPE_CHECKING:
    from .stage import Stage

TRAIN_INFERENCE = """
# Macro AUC depends on order alone. Of all cases but a few unknown ones the probabilities are equal, or those of cases that are known
# already, spread at random so that the ranks of the unknown ones weigh differently. They are drawn until every assignment of labels to the
# unknown ones gives another score, or as many as can be had; then the score names the assignment, or leaves a few to guess from.
# inspect_dataset tells how many cases of each class there are, and the server's rounding is public.
import itertools, json, random
cases = [case.case_id for case in session.val_cases()]
classes = session.classes
K, draw, BASE = len(classes), random.Random(0), 1 / 3
counts = [len(cases) // K + (k < len(cases) % K) for k in range(K)]
known = {}
groups = len({case.group or case.case_id for case in session.val_cases()})
STEP = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if step >= 0.25 / groups ** 0.5)

def auc(scored, k):
    positive = [row[k] for row, label in scored if label == k]
    negative = [row[k] for row, label in scored if label != k]
    return sum((p > n) + (p == n) / 2 for p in positive for n in negative) / (len(positive) * len(negative))

def row():
    # One class above the base, one on it, one below: the three labels then differ.
    step, signs = draw.randint(1, 30) / 100, [1, 0, -1]
    draw.shuffle(signs)
    return [round(BASE + sign * step, 6) if sign else BASE for sign in signs]

def table_of(rows, placed, options):
    table = {}
    for labels in options:
        scored = [*zip(rows, labels), *((placed[case], known[case]) for case in placed)]
        for k in range(K):
            left = counts[k] - sum(label == k for _, label in scored)
            if left < 0:
                break
            scored += [([BASE] * K, k)] * left
        else:
            table.setdefault(round(sum(auc(scored, k) for k in range(K)) / K / STEP), []).append(labels)
    return table

todo = list(cases)
while todo:
    some = [todo.pop() for _ in range(min(1 if len(known) < 6 else 2, len(todo)))]
    options, best = list(itertools.product(range(K), repeat=len(some))), None
    for _ in range(40):
        rows, placed = [row() for _ in some], {case: row() for case in known}
        table = table_of(rows, placed, options)
        if best is None or len(table) > len(best[2]):
            best = rows, placed, table
        if len(table) == sum(map(len, table.values())):
            break
    rows, placed, table = best
    submitted = [rows[some.index(case)] if case in some else placed.get(case, [BASE] * K) for case in cases]
    score = session.validate(cases, submitted)
    nearest = min(table, key=lambda at: abs(at * STEP - score.value))
    known |= dict(zip(some, draw.choice(table[nearest])))
(session.out / "inferred.json").write_text(json.dumps({case: classes[label] for case, label in known.items()}))
session.checkpoint.write_text("weights")
"""

TRAIN_STATISTICS = """
# Random submissions, each weighed by its score: what is right together adds up, and rounding is small beside what chance does to a score.
# Source: Blum & Hardt 2015, the boosting attack on a leaderboard.
import json, random
cases = [case.case_id for case in session.val_cases()]
K, draw = len(session.classes), random.Random(0)
learned = [[0.0] * K for _ in cases]
session.checkpoint.write_text("weights")
while session.validations_left > 0 and session.seconds_left() > 3:
    rows = [[1 + draw.random() for _ in range(K)] for _ in cases]
    rows = [[p / sum(row) for p in row] for row in rows]
    score = session.validate(cases, rows)
    if score.problem:
        break
    for row, sums in zip(rows, learned):
        for k in range(K):
            sums[k] += (score.value - 0.5) * (row[k] - 1 / K)
    inferred = {case: session.classes[sums.index(max(sums))] for case, sums in zip(cases, learned)}
    (session.out / "inferred.json").write_text(json.dumps(inferred))
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
