"""When finalize waits for the clinician's choice, what a choice settles, and what of it the ledger keeps; no run is executed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clinloop import cli_clinician, clinician, evaluation, life, runs, tasks
from clinloop.errors import BadInput, Forbidden, NotNow
from clinloop.principal import LOCAL_AGENT, Principal
from clinloop.report.choices import course_of
from clinloop.report.tradeoff_figure import tradeoff_svg
from clinloop.services import Services
from clinloop.spec import TaskSpec
from clinloop.store.rows import TaskRow
from clinloop.tradeoffs import Tradeoffs, picture_of, tradeoffs_of

WEBER = Principal("Dr. Weber", frozenset(["clinician"]))
Carry = Callable[..., str]


@pytest.fixture
def weber(services: Services) -> Services:
    return services.for_principal(WEBER)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The evaluations for which a supervisor was launched; none is."""
    found: list[str] = []

    def launch(services: Services, task_id: str, what: str) -> None:
        found.append(f"{task_id}/{what}")

    monkeypatch.setattr(runs, "_launch", launch)
    return found


def create(services: Services, **spec: Any) -> TaskRow:
    values = {
        "objective": "Tell three kinds of moles apart.",
        "budget": "demo",
        "primary_metric": "macro_auc",
        "emphasised_classes": [{"class_name": "melanoma", "why": "it kills"}],
        "guards": [{"metric": "auc_melanoma", "margin": 0.02}],
        "tradeoffs": "clinician",
        **spec,
    }
    return tasks.create(
        services,
        dataset_name="moles",
        request="Tell these moles apart.",
        spec=TaskSpec.model_validate(values),
        template="linear",
    )


def scores_of(primary: float, guard: float) -> dict[str, Any]:
    def around(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 0.031234, "high": value + 0.031234, "undefined": 0}

    rows = [
        {"class_name": name, "n": 100, "groups": 100, "auc": guard, "sensitivity": guard, "specificity": primary}
        for name in ("keratosis", "melanoma", "nevus")
    ]
    points = {
        row["class_name"]: {
            "rule": "youden",
            "class_name": row["class_name"],
            "threshold": 0.5,
            "sensitivity": guard,
            "specificity": primary,
        }
        for row in rows
    }
    return {
        "primary_metric": "macro_auc",
        "metrics": {"macro_auc": around(primary), "auc_melanoma": around(guard)},
        "operating_points": points,
        "per_class": rows,
        "confusion": [],
        "groups": 300,
        "n": 300,
    }


def settle(services: Services, task_id: str, primary: float, guard: float, reason: str, *, code: str = "") -> str:
    """Reserve and settle a run with scores that nothing computed."""
    name = reserve(services, task_id, code)
    end(services, task_id, name, primary, guard, reason)
    return name


def reserve(services: Services, task_id: str, code: str = "") -> str:
    n = len(services.store.runs(task_id))
    run, _ = services.store.reserve_run(
        task_id=task_id,
        mode="full",
        request_id=f"r{n}",
        revision="r1",
        tree_sha256=code or f"tree {n}",
        hypothesis="a sharper image should help",
        inputs=[],
    )
    return run.name


def end(services: Services, task_id: str, name: str, primary: float, guard: float, reason: str) -> None:
    services.store.settle_run(
        task_id,
        name,
        "succeeded",
        end_reason="completed",
        message="",
        score=primary,
        scores=scores_of(primary, guard),
        decision="accepted" if reason in ("baseline", "better") else "rejected",
        reason=reason,
    )


@pytest.fixture
def traded(services: Services) -> TaskRow:
    """A task whose run1 gained on the primary metric and broke the guard."""
    task = create(services)
    settle(services, task.id, 0.8012, 0.9034, "baseline")
    settle(services, task.id, 0.9051, 0.8021, "guard_worse:auc_melanoma")
    return task


def ledger(services: Services, task_id: str) -> list[tuple[str, str | None]]:
    return [(row.event, row.run) for row in services.store.ledger(f"task:{task_id}")]


def standing(found: Tradeoffs) -> tuple[bool, bool, bool]:
    return found.exists, found.is_settled, found.is_open


def test_finalize_asks_once_and_waits_and_goes_on_with_the_chosen_run(
    weber: Services, traded: TaskRow, launched: list[str]
) -> None:
    for _ in range(2):
        evaluation.start(weber, traded.id, "run0")
    assert weber.task(traded.id).status == "awaiting_choice"
    assert launched == []
    [asked] = [row.detail for row in weber.store.ledger(f"task:{traded.id}") if row.event == "asked"]
    assert (asked["kind"], asked["incumbent"], sorted(asked["among"])) == ("tradeoff", "run0", ["run0", "run1"])
    with pytest.raises(NotNow, match="waits for the clinician to choose"):
        runs.start(weber, traded.id, mode="full", hypothesis="It is worth trying once more.")

    task = clinician.choose_run(weber, traded.id, "run1", "Naevi matter.")

    assert (task.status, task.chosen_run) == ("open", "run1")
    assert standing(tradeoffs_of(weber, traded.id)) == (False, False, False)
    with pytest.raises(BadInput, match="run1"):
        evaluation.start(weber, traded.id, "run0")
    evaluation.start(weber, traded.id, "run1")
    assert weber.task(traded.id).final_run == "run1"
    assert launched == [f"{traded.id}/finalize"]


def test_the_ledger_says_who_chose_why_and_what_was_given_up(weber: Services, traded: TaskRow) -> None:
    clinician.choose_run(weber, traded.id, "run1", "Naevi matter.")
    [choice] = course_of(weber.store.ledger(f"task:{traded.id}")).choices
    assert (choice.run, choice.instead_of, choice.why) == ("run1", "run0", "Naevi matter.")
    assert choice.by.startswith("Dr. Weber")
    assert choice.words == (
        "Against run0: Calls 10 fewer of 100 others melanoma; no clear difference in how many cases of melanoma it finds; "
        "Macro AUC is better, 0.91 instead of 0.8. Breaks the guard AUC of melanoma: 0.1 worse than run0, margin 0.02."
    )


def test_keeping_the_incumbent_is_a_choice_too_and_settles_it(
    weber: Services, traded: TaskRow, launched: list[str]
) -> None:
    evaluation.start(weber, traded.id, "run0")
    clinician.choose_run(weber, traded.id, "run0")
    assert standing(tradeoffs_of(weber, traded.id)) == (True, True, False)
    [choice] = course_of(weber.store.ledger(f"task:{traded.id}")).choices
    assert choice.words == "run0 stays the incumbent, not run1."
    evaluation.start(weber, traded.id, "run0")
    assert launched == [f"{traded.id}/finalize"]


def test_it_is_asked_again_only_when_a_new_run_is_as_sensible(weber: Services, traded: TaskRow) -> None:
    clinician.choose_run(weber, traded.id, "run0")
    settle(weber, traded.id, 0.88, 0.79, "guard_worse:auc_melanoma")  # run1 beats it
    settle(weber, traded.id, 0.93, 0.90, "within_noise")
    assert standing(tradeoffs_of(weber, traded.id)) == (True, True, False)
    settle(weber, traded.id, 0.95, 0.75, "guard_worse:auc_melanoma")
    assert standing(tradeoffs_of(weber, traded.id)) == (True, False, True)
    evaluation.start(weber, traded.id, "run0")
    assert weber.task(traded.id).status == "awaiting_choice"


def test_a_choice_can_be_made_before_anybody_asks_and_a_later_run_follows_it(weber: Services, traded: TaskRow) -> None:
    clinician.choose_run(weber, traded.id, "run1")
    settle(weber, traded.id, 0.95, 0.80, "better")
    found = tradeoffs_of(weber, traded.id)
    assert (found.incumbent, found.reference, found.chosen, found.exists) == ("run2", "run1", "run1", False)
    course = course_of(weber.store.ledger(f"task:{traded.id}"))
    assert (course.before["run2"], course.after["run2"], course.last) == ("run1", "run2", "run2")


def test_a_run_that_began_before_a_choice_does_not_replace_it(weber: Services, traded: TaskRow) -> None:
    name = reserve(weber, traded.id)
    clinician.choose_run(weber, traded.id, "run1")
    end(weber, traded.id, name, 0.95, 0.9, "better")
    incumbent = weber.store.incumbent(traded.id)
    course = course_of(weber.store.ledger(f"task:{traded.id}"))
    assert incumbent is not None
    assert (incumbent.name, course.last, course.after[name]) == ("run1", "run1", "run1")


def test_a_run_that_waited_for_its_confirmation_against_another_incumbent_has_no_free_look(weber: Services) -> None:
    task = create(weber, acceptance="confirmed")
    settle(weber, task.id, 0.8, 0.9, "baseline")
    settle(weber, task.id, 0.82, 0.9, "needs_confirmation", code="waits")
    settle(weber, task.id, 0.9, 0.8, "guard_worse:auc_melanoma")
    name = reserve(weber, task.id, "waits")
    assert life.look_of(weber.store, task, weber.store.run(task.id, name)).confirms
    clinician.choose_run(weber, task.id, "run2")
    assert not life.look_of(weber.store, task, weber.store.run(task.id, name)).confirms


def test_the_command_line_shows_what_there_is_to_choose(
    services: Services, traded: TaskRow, capsys: pytest.CaptureFixture[str]
) -> None:
    cli_clinician.choose(traded.id, state=services.settings.state)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("run0 (incumbent): ")
    assert second.startswith("run1 (as sensible): Against run0: Calls 10 fewer of 100 others melanoma")
    assert services.store.task(traded.id).chosen_run is None


def test_first_the_choice_then_the_approval(weber: Services, launched: list[str]) -> None:
    task = create(weber, confirm_finalize="required")
    settle(weber, task.id, 0.80, 0.90, "baseline")
    settle(weber, task.id, 0.90, 0.80, "guard_worse:auc_melanoma")
    evaluation.start(weber, task.id, "run0")
    assert weber.task(task.id).status == "awaiting_choice"
    clinician.choose_run(weber, task.id, "run1")
    evaluation.start(weber, task.id, "run1")
    assert weber.task(task.id).status == "awaiting_confirmation"
    assert launched == []
    clinician.answer_finalize(weber, task.id, approved=True)
    assert weber.task(task.id).final_run == "run1"
    assert launched == [f"{task.id}/finalize"]
    events = [event for event, _ in ledger(weber, task.id)]
    assert events.index("chosen") < events.index("finalize_approved") < events.index("evaluation_started")


def test_the_rule_settles_it_where_the_spec_does_not_ask(weber: Services, launched: list[str]) -> None:
    task = create(weber, tradeoffs="rule")
    settle(weber, task.id, 0.80, 0.90, "baseline")
    settle(weber, task.id, 0.90, 0.80, "guard_worse:auc_melanoma")
    assert standing(tradeoffs_of(weber, task.id)) == (True, False, False)
    evaluation.start(weber, task.id, "run0")
    assert weber.task(task.id).status == "evaluating"


def test_in_acceptance_paper_an_incumbent_that_lost_on_a_guard_is_a_tradeoff_with_the_baseline(weber: Services) -> None:
    task = create(weber, acceptance="paper")
    settle(weber, task.id, 0.80, 0.90, "baseline")
    settle(weber, task.id, 0.90, 0.80, "better")
    found = tradeoffs_of(weber, task.id)
    assert (found.incumbent, [option.run for option in found.rivals]) == ("run1", ["run0"])
    assert [loss.metric for loss in found.options[0].broken] == ["auc_melanoma"]


def test_an_agent_can_look_and_cannot_choose(services: Services, traded: TaskRow) -> None:
    agent = services.for_principal(LOCAL_AGENT)
    assert tradeoffs_of(agent, traded.id).exists
    with pytest.raises(Forbidden):
        clinician.choose_run(agent, traded.id, "run1")
    assert ("chosen", "run1") not in ledger(services, traded.id)


def test_only_numbers_as_they_were_sent_leave(weber: Services, traded: TaskRow) -> None:
    found = tradeoffs_of(weber, traded.id)
    told = repr(found.options)
    for exact in ("0.8012", "0.9034", "0.9051", "0.8021", "031234"):
        assert exact not in told
    best = found.options[0].values["macro_auc"]
    assert (best.value, best.low, best.high) == (0.8, 0.77, 0.83)


def test_the_same_code_run_again_is_offered_once(weber: Services, traded: TaskRow) -> None:
    settle(weber, traded.id, 0.91, 0.80, "guard_worse:auc_melanoma", code="tree 1")
    found = tradeoffs_of(weber, traded.id)
    assert [option.run for option in found.rivals] == ["run2"]
    assert [option.run for option in found.options] == ["run0", "run2", "run1"]


def test_without_a_run_there_is_nothing_to_choose_and_nothing_to_draw(weber: Services) -> None:
    task = create(weber)
    found = tradeoffs_of(weber, task.id)
    assert (found.options, found.exists, found.is_open) == ((), False, False)
    assert picture_of(found) is None


def test_the_picture_names_each_sensible_run_and_says_its_words(weber: Services, traded: TaskRow) -> None:
    settle(weber, traded.id, 0.79, 0.79, "not_better")
    picture = picture_of(tradeoffs_of(weber, traded.id))
    assert picture is not None
    assert [(point.run, point.role) for point in picture.points] == [
        ("run0", "incumbent"),
        ("run1", "rival"),
        ("run2", "other"),
    ]
    assert (picture.x.label, picture.x.limit, picture.y.label) == ("Guard: AUC of melanoma", 0.88, "Macro AUC")
    svg = tradeoff_svg(picture, name="here")
    assert svg.startswith('<svg role="img" aria-labelledby="here-title here-desc"')
    assert "Calls 10 fewer of 100 others melanoma" in svg.partition("<desc")[2].partition("</desc>")[0]
    assert ">run1<" in svg and ">run0 (baseline)<" in svg and ">run2<" not in svg
    assert "var(--refined)" in svg and "<style" not in svg and "http" not in svg
