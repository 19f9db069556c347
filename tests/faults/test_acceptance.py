"""The looks of a task as runs take them: what each spends stands in the ledger, and a confirming run has another seed."""

from __future__ import annotations

import csv
import json

import pytest

from .lab import Lab, predict_code, train_code

TRAIN = train_code("session.log(seed=session.seed)\nsession.checkpoint.write_text('weights')")


def knowing(lab: Lab, task: str, share: float) -> str:
    """Return a predict.py that knows the class of this share of the validation cases."""
    with (lab.services.state.task(task).data / "val_truth.csv").open(encoding="utf-8", newline="") as file:
        truth = {row["case_id"]: row["label"] for row in csv.DictReader(file)}
    known = dict(list(truth.items())[: round(share * len(truth))])
    return predict_code(
        f"known = {known!r}\n"
        "rows = [[0.8 if known.get(case) == name else 0.1 if case in known else 1 / len(classes) for name in classes] for case in cases]"
    )


def spent(lab: Lab, task: str) -> list[tuple[str | None, int, float, float]]:
    return [
        (row.run, row.detail["look"], row.detail["level"], row.detail["spends"])
        for row in lab.store.ledger(f"task:{task}")
        if row.event == "settled" and "look" in row.detail
    ]


def test_a_run_is_accepted_when_the_same_code_passes_again_with_another_seed(lab: Lab) -> None:
    task = lab.task(TRAIN, acceptance="confirmed")
    assert lab.full(task).reason == "baseline"
    assert lab.full(task).reason == "not_better"  # the same code
    lab.edit(task, "predict.py", knowing(lab, task, 1.0))

    first, second = lab.full(task), lab.full(task)

    assert (first.decision, first.reason) == ("rejected", "needs_confirmation"), first
    assert (second.decision, second.reason) == ("accepted", "better"), second
    assert "a run that confirms needs at most" in second.reason_text
    share = 0.05 / 7
    assert spent(lab, task) == [
        ("run1", 1, pytest.approx(share), pytest.approx(share)),
        ("run2", 2, pytest.approx(share), pytest.approx(share)),
        ("run3", 3, 0.05, 0),
    ]
    history = [lab.services.state.task(task).run(run).out / "history.jsonl" for run in ("run2", "run3")]
    seeds = [json.loads(file.read_text(encoding="utf-8").splitlines()[0])["seed"] for file in history]
    assert seeds[0] != seeds[1]


def test_a_real_gain_gives_its_share_back_and_noise_does_not(lab: Lab) -> None:
    task = lab.task(TRAIN, acceptance="guarded")
    for share in (None, 0.0, 1.0, 0.9):
        if share is not None:
            lab.edit(task, "predict.py", knowing(lab, task, share))
        lab.full(task)

    reasons = [run.reason for run in lab.store.runs(task)]

    assert reasons == ["baseline", "not_better", "better", "not_better"]
    levels = [level for _, _, level, _ in spent(lab, task)]
    assert levels == pytest.approx([0.05 / 7, 0.05 / 7, (0.05 - 0.05 / 7) / 5])


def test_code_hears_rounded_scores_and_saves_the_later_of_equals(lab: Lab) -> None:
    task = lab.task()
    with (lab.services.state.task(task).data / "val_truth.csv").open(encoding="utf-8", newline="") as file:
        truth = {row["case_id"]: row["label"] for row in csv.DictReader(file)}
    code = f"""
truth = {truth!r}
cases = [case.case_id for case in session.val_cases()]
right = [[0.8 if truth[case] == name else 0.1 for name in session.classes] for case in cases]
equal = [[1 / len(session.classes)] * len(session.classes)] * len(cases)
nearly = [equal[0] if number == 0 else row for number, row in enumerate(right)]
scores = [session.validate(cases, rows) for rows in (equal, right, nearly, equal, right)]
assert [(score.value, score.best) for score in scores] == [(0.5, True), (1.0, True), (1.0, True), (0.5, False), (1.0, True)], scores
session.checkpoint.write_text("weights")
"""
    lab.full(task)
    lab.edit(task, "train.py", train_code(code))
    run = lab.full(task)
    assert run.status == "succeeded", lab.services.state.task(task).run(run.name).log("train").read_text()
