"""A model that the rule rejected and the clinician chose: what the report shows of it, and what verify demands for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clinloop.report import stages
from clinloop.report.choices import Choice, Measure, Point, Scale, TradeoffPicture, course_of
from clinloop.report.conduct import facts_of
from clinloop.report.data import ReportData
from clinloop.report.evidence import Evidence
from clinloop.report.figures import trajectory_svg
from clinloop.report.html import draw_figures, render_html, summary_lines
from clinloop.report.people import people
from clinloop.report.verify import verify

from .conftest import Ledger, write_task

TASK = "task:t-7f3a"
REJECTED, ACCEPTED = 8, 9
"""A run of the fixture that the rule rejected, and the one that it accepted last."""
WORDS = "Against run9: Finds 6 more of 100 cases of MEL. Breaks the guard AUC of NV: 0.05 worse than run9, margin 0.02."


def choosing(
    data: ReportData, run: int = REJECTED, *, is_recorded: bool = True, then_accepted: bool = False
) -> ReportData:
    """Return a report whose refined model is one that a clinician chose; its ledger is whole and signed in any case."""
    head = next(at for at, row in enumerate(data.ledger) if row.event == "unsealing")
    book = Ledger(list(data.ledger[:head]))
    if is_recorded:
        detail: dict[str, Any] = {
            "by": "Dr. Weber (clinician)",
            "why": "Naevi <matter>.",
            "instead_of": "run9",
            "words": WORDS,
        }
        book.append(TASK, "chosen", run=f"run{run}", **detail)
    if then_accepted:
        book.append(TASK, "settled", run="run11", status="succeeded", score=0.8695, decision="accepted")
    for row in data.ledger[head:]:
        kept: dict[str, Any] = dict(row.detail)
        book.append(TASK, row.event, **kept)
    task = [row for row in book.rows if row.scope == TASK]
    choices = course_of(task).choices
    value = data.runs[run].primary or 0.0
    values = {
        "ledger": tuple(book.rows),
        "ledger_head": book.rows[-1].hash,
        "people": people(task),
        "choices": choices,
        "tradeoff": picture(),
        "incumbent": run,
        "runs": tuple(
            item.model_copy(update={"chosen": f"run{item.number}" in {choice.run for choice in choices}})
            for item in data.runs
        ),
        "validation_to_test": data.validation_to_test.model_copy(
            update={"validation": value, "drop": value - (data.validation_to_test.test or 0.0)}
        ),
    }
    plain = data.model_copy(update=values)
    return plain.model_copy(update={"scorecard": stages.score(facts_of(plain))})


def picture() -> TradeoffPicture:
    def at(value: float) -> Measure:
        return Measure(value=value, low=value - 0.02, high=value + 0.02)

    return TradeoffPicture(
        x=Scale(label="Guard: AUC of NV", limit=0.88),
        y=Scale(label="Macro AUC"),
        points=(
            Point(run="run8", x=at(0.85), y=at(0.86), role="incumbent", words="It is <new>."),
            Point(run="run9", x=at(0.9), y=at(0.87), role="rival", words="It breaks nothing."),
            Point(run="run0", x=at(0.8), y=at(0.78), role="other", is_baseline=True),
        ),
    )


def failed(data: ReportData, evidence: Evidence, folder: Path) -> dict[str, str]:
    verification = verify(write_task(data, evidence, folder) / "report")
    return {check.name: check.detail for check in verification.checks if not check.ok}


def test_a_model_that_a_signed_choice_names_passes_every_check(
    scored_data: ReportData, evidence: Evidence, tmp_path: Path
) -> None:
    chosen = choosing(scored_data)
    assert failed(chosen, evidence, tmp_path / "task") == {}
    found = {check.name: check.detail for check in verify(tmp_path / "task" / "report").checks}
    assert found["choice of the model"] == "run 8, chosen by the clinician"
    assert found["choices of the clinician"] == "run8 by Dr. Weber (clinician)"


def test_a_model_that_the_rule_rejected_and_no_choice_names_is_found(
    scored_data: ReportData, evidence: Evidence, tmp_path: Path
) -> None:
    forged = failed(choosing(scored_data, is_recorded=False), evidence, tmp_path / "task")
    assert forged == {
        "choice of the model": "run 8 is called refined, but was not accepted, and no choice in the ledger names it"
    }


def test_an_accepted_model_that_a_choice_had_replaced_is_found(
    scored_data: ReportData, evidence: Evidence, tmp_path: Path
) -> None:
    chosen = choosing(scored_data)
    value = scored_data.validation_to_test
    forged = failed(
        chosen.model_copy(update={"incumbent": ACCEPTED, "validation_to_test": value}), evidence, tmp_path / "task"
    )
    assert forged["choice of the model"] == "run 9 is called refined, but by the ledger it is run8 that counted"


@pytest.mark.parametrize(
    "change",
    [
        {"choices": ()},
        {"choices": (Choice(run="run8", at="2026-11-20T14:00:00+00:00", by="nobody"),)},
    ],
)
def test_a_choice_that_is_left_out_or_told_otherwise_is_found(
    change: dict[str, tuple[Choice, ...]], scored_data: ReportData, evidence: Evidence, tmp_path: Path
) -> None:
    forged = failed(choosing(scored_data).model_copy(update=change), evidence, tmp_path / "task")
    assert forged["choices of the clinician"] == "the choices are not those in the ledger"


def test_a_run_that_is_marked_as_chosen_and_was_not_is_found(
    scored_data: ReportData, evidence: Evidence, tmp_path: Path
) -> None:
    runs = tuple(run.model_copy(update={"chosen": run.number == 3}) for run in scored_data.runs)
    forged = failed(scored_data.model_copy(update={"runs": runs}), evidence, tmp_path / "task")
    assert forged["choices of the clinician"] == "run3 is said to be chosen, the ledger says otherwise"


def test_a_run_that_began_before_a_choice_does_not_replace_it_and_a_later_one_does() -> None:
    book = Ledger()
    for name in ("run0", "run1"):
        book.append(TASK, "reserved", run=name)
        book.append(TASK, "settled", run=name, decision="accepted" if name == "run0" else "rejected")
    book.append(TASK, "reserved", run="run2")
    book.append(TASK, "chosen", run="run1", by="Dr. Weber", why="")
    book.append(TASK, "settled", run="run2", decision="accepted")
    course = course_of(book.rows)
    assert (course.before["run2"], course.after["run2"], course.last) == ("run1", "run1", "run1")
    book.append(TASK, "reserved", run="run3")
    book.append(TASK, "settled", run="run3", decision="accepted")
    assert course_of(book.rows).last == "run3"


def test_the_page_shows_the_picture_the_words_and_who_chose(data: ReportData, evidence: Evidence) -> None:
    chosen = choosing(data)
    figures = draw_figures(chosen, evidence)
    page = render_html(chosen, figures)
    assert "Dr. Weber (clinician) chose run8 instead of run9" in page
    assert "because: “Naevi &lt;matter&gt;.”" in page and "It is &lt;new&gt;." in page
    assert WORDS in page
    assert 'aria-labelledby="tradeoff-title tradeoff-desc"' in page
    assert "chosen by the clinician" in figures["trajectory"]
    assert "The clinician chose run 8, whatever the rule said." in page
    assert "chosen by the clinician" not in trajectory_svg(data.runs, data.primary_title)
    assert "Trade-offs" not in render_html(data, {})


def test_a_kept_baseline_is_said_to_be_the_clinicians_choice(data: ReportData) -> None:
    assert "The clinician chose it, so it is the initial model" in summary_lines(choosing(data, 0))[1]
