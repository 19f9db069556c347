"""Each item of the scorecard is decided by its rule: a good task gets 100 points, and every fault its error code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clinloop.report.conduct import Facts, facts_of
from clinloop.report.data import CanaryCheck, LedgerRow, OrderAudit, ReportData, RunSummary
from clinloop.report.html import render_html
from clinloop.report.scorecard import NOT_REACHED, STAGES, Scorecard
from clinloop.report.stages import HANDED_OVER, RULES, score, suspects

WHY = "Weight the classes by inverse frequency, because melanoma is rare here: attempt {}."
WARNING = (
    "Attributes that alone predict the class (macro AUC): site 0.81, age group 0.72. Each may be a confounder that a model learns "
    "instead of the disease; name it as one in the request, and compare the score with and without it."
)
Row = dict[str, Any]


class Task:
    """The facts of one task as plain values, to be broken in one place."""

    def __init__(self) -> None:
        self.spec: dict[str, Any] = {
            "primary_metric": "macro_auc",
            "emphasised_classes": [{"class_name": "MEL", "why": "a missed melanoma can kill"}],
            "guards": [{"metric": "auc_MEL", "margin": 0.02}],
            "confounders": [{"attribute": "site", "why": "melanomas of the back dominate"}],
            "acceptance": "guarded",
            "assumptions": ["All classes matter; age group is not a cause."],
            "open_questions": ["Is a sensitivity of 0.9 enough?"],
        }
        self.warnings = [WARNING]
        self.rows: list[Row] = []
        self.runs: list[dict[str, Any]] = []
        self.canaries = [
            {"model": m, "n": 10, "agreeing": 10, "largest_difference": 0.0} for m in ("initial", "refined")
        ]
        self.order = [{"model": m, "ok": True, "detail": ""} for m in ("initial", "refined")]
        self.add("contract", tier="standard")
        self.add("granted", resource="run", amount=4)
        for number in range(4):
            self.run("smoke", number + 1, f"tree{number}", score=None)
            self.run("run", number, f"tree{number}", score=0.70 + 0.03 * number)
            if number == 1:
                self.add("error_view", resource="error_view", amount=-1)
        self.add("evaluation_started", run="run3")
        self.add("unsealing")
        self.add("scored", model=dict.fromkeys(HANDED_OVER, "0" * 64), values={"macro_auc": [0.7, 0.78]})

    def add(
        self, event: str, *, resource: str | None = None, amount: int = 0, run: str | None = None, **detail: Any
    ) -> Row:
        self.rows.append({"event": event, "resource": resource, "amount": amount, "run": run, "detail": detail})
        return self.rows[-1]

    def run(self, kind: str, number: int, tree: str, *, score: float | None) -> None:
        name = f"{kind}{number}"
        self.add(
            "reserved", resource=kind, amount=-1, run=name, tree_sha256=tree, hypothesis=WHY.format(number), inputs=[]
        )
        self.add(
            "settled",
            run=name,
            status="succeeded",
            end_reason="completed",
            score=score,
            decision="none" if score is None else "accepted",
            seconds=100.0,
        )
        if kind == "run":
            self.runs.append(
                {
                    "number": number,
                    "status": "succeeded",
                    "revision": f"r{number}",
                    "primary": score,
                    "scores": {"auc_MEL": score},
                    "decision": "accepted",
                    "validations": [(10.0, score)],
                    "claimed": score,
                }
            )

    def row(self, event: str, run: str | None = None) -> Row:
        return next(row for row in self.rows if row["event"] == event and run in {None, row["run"]})

    def settle(self, run: str, **facts: Any) -> None:
        self.row("settled", run)["detail"].update(facts)
        summary = self.runs[int(run.removeprefix("run"))]
        if "score" in facts:
            summary["primary"] = facts["score"]

    def drop(self, *events: str) -> None:
        self.rows = [row for row in self.rows if row["event"] not in events]

    def facts(self) -> Facts:
        fixed = {"scope": "task:t", "at": "", "prev": "", "hash": "", "signature": ""}
        return Facts(
            self.spec,
            self.warnings,
            [RunSummary(**run) for run in self.runs],
            [LedgerRow(seq=seq, **row, **fixed) for seq, row in enumerate(self.rows)],
            [CanaryCheck.model_validate(check) for check in self.canaries],
            [OrderAudit.model_validate(check) for check in self.order],
        )

    def card(self) -> Scorecard:
        return score(self.facts())


def missed(card: Scorecard) -> dict[str, float]:
    return {item.error: item.points for item in card.items if item.error}


def test_the_weights_of_a_stage_add_up_to_its_own_and_all_to_100() -> None:
    for stage, (_, weight) in STAGES.items():
        assert sum(rule.weight for rule in RULES if rule.code.startswith(stage)) == weight
    assert sum(weight for _, weight in STAGES.values()) == 100
    assert len({rule.code for rule in RULES}) == len({rule.error for rule in RULES}) == len(RULES)


def test_a_task_without_a_fault_gets_all_points_and_says_its_tier() -> None:
    card = Task().card()
    assert missed(card) == {}
    assert card.total == 100
    assert card.tier == "standard"
    assert card.stage_points() == {stage: weight for stage, (_, weight) in STAGES.items()}


def remove_run(task: Task, *names: str) -> None:
    task.rows = [row for row in task.rows if row["run"] not in names]
    task.runs = [run for run in task.runs if f"run{run['number']}" not in names]


def fail_smokes(task: Task, *names: str) -> None:
    for name in names:
        task.row("settled", name)["detail"]["status"] = "failed"


def same_code_again(task: Task) -> None:
    task.row("reserved", "run3")["detail"]["tree_sha256"] = "tree2"


FAULTS: list[tuple[str, float, Callable[[Task], object]]] = [
    (
        "E-NO-ASSUMPTION",
        0,
        lambda t: t.spec.update(assumptions=[], confounders=[{"attribute": "site and age group", "why": ""}]),
    ),
    ("E-NO-QUESTION", 0, lambda t: t.spec.update(open_questions=[])),
    ("E-NO-EMPHASIS", 0, lambda t: t.spec.update(emphasised_classes=[], operating_point="youden")),
    ("E-SHORTCUT-IGNORED", 2, lambda t: t.spec.update(confounders=[])),
    (
        "E-THIN-HYPOTHESIS",
        5.33,
        lambda t: t.row("reserved", "run2")["detail"].update(
            hypothesis="better better better better better better better"
        ),
    ),
    ("E-THIN-HYPOTHESIS", 5.33, lambda t: t.row("reserved", "run2")["detail"].update(hypothesis=WHY.format(1).upper())),
    ("E-NO-ERROR-VIEW", 0, lambda t: t.drop("error_view")),
    ("E-NO-SMOKE", 0, lambda t: fail_smokes(t, "smoke1")),
    ("E-UNTESTED-CODE", 2.67, lambda t: fail_smokes(t, "smoke3")),
    (
        "E-EARLY-FAILURE",
        2.25,
        lambda t: t.settle("run2", status="failed", end_reason="crash", score=None, decision="none", seconds=3.0),
    ),
    (
        "E-NO-BASELINE",
        0,
        lambda t: t.settle("run0", status="failed", end_reason="deadline", score=None, decision="none"),
    ),
    ("E-NO-SCORE", 6, lambda t: t.settle("run2", status="failed", end_reason="crash", score=None, decision="none")),
    ("E-NO-VALIDATION", 4.5, lambda t: t.runs[1].update(validations=[])),
    ("E-NO-GAIN", 0, lambda t: [t.settle(f"run{n}", decision="rejected") for n in (1, 2, 3)]),
    ("E-NO-GAIN", 3.5, lambda t: t.spec.update(acceptance="paper")),
    ("E-GUARD-BROKEN", 0, lambda t: t.runs[2]["scores"].update(auc_MEL=0.70)),
    ("E-REPEATED-RUN", 2.25, same_code_again),
    ("E-FEW-CANDIDATES", 1, lambda t: remove_run(t, "run2", "run3")),
    ("E-CLAIM-OFF", 3, lambda t: t.runs[1].update(claimed=0.80)),
    (
        "E-PREDICT-FAILED",
        3.75,
        lambda t: t.settle("run2", status="failed", end_reason="predict_crash", score=None, decision="none"),
    ),
    (
        "E-INVALID-PREDICTIONS",
        2.25,
        lambda t: t.settle("run2", status="failed", end_reason="invalid_predictions", score=None, decision="none"),
    ),
    ("E-REHEARSAL-FAILED", 1.5, lambda t: t.add("rehearsal_failed", reason="not reproducible")),
    ("E-CANARY", 1.5, lambda t: t.canaries[1].update(agreeing=5)),
    ("E-ORDER", 1, lambda t: t.order[1].update(ok=False)),
    ("E-NOT-FINALIZED", 0, lambda t: t.drop("evaluation_started", "unsealing", "scored")),
    ("E-OPENED-AGAIN", 0, lambda t: t.add("unsealing")),
    ("E-NO-MODEL", 1.5, lambda t: t.row("scored")["detail"]["model"].pop("checkpoint")),
    ("E-NO-TEST-VALUE", 1, lambda t: t.row("scored")["detail"].update(values={"macro_auc": [0.7, None]})),
]


@pytest.mark.parametrize(
    ("error", "points", "fault"), FAULTS, ids=[f"{n}-{fault[0]}" for n, fault in enumerate(FAULTS)]
)
def test_every_fault_has_its_error_code_and_its_points(
    error: str, points: float, fault: Callable[[Task], object]
) -> None:
    task = Task()
    fault(task)
    card = task.card()
    assert missed(card)[error] == points
    assert card.total == round(sum(item.points for item in card.items), 2) < 100


def test_every_error_code_has_a_fault_that_shows_it() -> None:
    assert {error for error, _, _ in FAULTS} == {rule.error for rule in RULES}


def test_a_run_that_the_server_lost_or_gave_back_costs_no_points() -> None:
    task = Task()
    task.settle("run2", status="lost", end_reason="supervisor_died", score=None, decision="none")
    task.run("run", 4, "tree2", score=0.82)
    assert missed(task.card()) == {}


def test_a_task_that_has_just_begun_gets_points_for_its_contract_alone() -> None:
    task = Task()
    task.rows, task.runs, task.canaries, task.order = task.rows[:2], [], [], []
    card = task.card()
    assert {item.code for item in card.items if item.points} == {"S1.1", "S1.2", "S1.3", "S1.4"}
    assert {item.error for item in card.items} == {"", NOT_REACHED, "E-NOT-FINALIZED"}


def test_questions_that_the_clinician_has_answered_count_as_asked() -> None:
    task = Task()
    task.spec["answers"] = [{"question": task.spec["open_questions"][0], "answer": "It is."}]
    task.spec["open_questions"] = []
    assert missed(task.card()) == {}
    asked = next(item for item in task.card().items if item.code == "S1.2")
    assert asked.evidence == "The contract names 1 open questions, 1 of which the clinician answered."


def test_the_documentation_lists_every_item_with_its_points_and_its_code() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "scorecard.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| S")]
    assert [(row[0], row[1], row[2], row[4]) for row in rows] == [
        (rule.code, rule.title, str(rule.weight), f"`{rule.error}`") for rule in RULES
    ]


def test_the_audits_sentences_name_their_attributes() -> None:
    predicted = "Attribute p drain alone predicts the class with macro AUC 0.81: a model may learn it; declare it as a confounder."
    assert suspects([WARNING, predicted, "Classes are unbalanced."]) == ["site", "age group", "p drain"]


def test_the_page_shows_the_scorecard_with_its_error_codes(data: ReportData) -> None:
    assert data.scorecard is not None
    page = render_html(data, {})
    assert f"Workflow scorecard: {data.scorecard.total:g} of 100" in page
    assert all(item.code in page and item.error in page for item in data.scorecard.items)
    assert "Workflow scorecard" not in render_html(data.model_copy(update={"scorecard": None}), {})


def test_the_scorecard_survives_the_way_through_json(data: ReportData) -> None:
    read = ReportData.model_validate_json(json.dumps(data.model_dump(mode="json")))
    assert read.scorecard == data.scorecard == score(facts_of(read))
