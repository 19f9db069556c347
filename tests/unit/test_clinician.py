"""What a clinician may do to a task, below page and command line: each act is recorded with who did it, and agents cannot do it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from clinloop import clinician, evaluation, life, runs, tasks
from clinloop.errors import BadInput, Forbidden, NotNow
from clinloop.principal import LOCAL_AGENT, Principal
from clinloop.services import Services
from clinloop.spec import PRESETS, TaskSpec
from clinloop.store.rows import TaskRow

REQUEST = "Tell these three kinds of moles apart for me, please."
QUESTION = "May a melanoma be missed?"
WEBER = Principal("Dr. Weber", frozenset(["clinician"]))
BY = "Dr. Weber (clinician)"
CUSTODIAN = Principal("Kim", frozenset(["custodian"]))


def create(services: Services, **spec: Any) -> TaskRow:
    values = {
        "objective": "Tell three kinds of moles apart.",
        "budget": "demo",
        "acceptance": "paper",
        "open_questions": [QUESTION],
        **spec,
    }
    return tasks.create(
        services, dataset_name="moles", request=REQUEST, spec=TaskSpec.model_validate(values), template="linear"
    )


@pytest.fixture
def weber(services: Services) -> Services:
    return services.for_principal(WEBER)


@pytest.fixture
def waiting(services: Services) -> TaskRow:
    return create(services, confirm_spec="required")


@pytest.fixture
def scored(services: Services) -> Callable[..., str]:
    """Reserve and settle a run of a task without running anything."""

    def carry(task_id: str, *, decision: str = "accepted", score: float = 0.8) -> str:
        n = len(services.store.runs(task_id))
        run, _ = services.store.reserve_run(
            task_id=task_id,
            mode="full",
            request_id=f"r{n}",
            revision="r1",
            tree_sha256=f"tree {n}",
            hypothesis="a sharper image should help",
            inputs=[],
        )
        services.store.settle_run(
            task_id,
            run.name,
            "succeeded",
            end_reason="completed",
            message="",
            score=score,
            scores={"metrics": {}},
            decision=decision,
        )
        return run.name

    return carry


def events(services: Services, task_id: str) -> list[str]:
    return [row.event for row in services.store.ledger(f"task:{task_id}")]


# the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("questions", [[QUESTION], []])
def test_a_task_that_needs_a_confirmation_waits_also_without_open_questions(
    services: Services, questions: list[str]
) -> None:
    task = create(services, confirm_spec="required", open_questions=questions)

    assert task.status == "awaiting_confirmation"
    assert not services.state.task(task.id).workspace.exists()
    with pytest.raises(NotNow, match=r"waits for the clinician to confirm its contract.*read_validation"):
        runs.start(services, task.id, mode="full")
    with pytest.raises(NotNow, match="waits for the clinician"):
        evaluation.start(services, task.id, "run0")
    with pytest.raises(NotNow, match="waits for the clinician"):
        tasks.require_workspace(services, task.id)


def test_the_setting_makes_every_task_wait(services: Services) -> None:
    changed = Services(services.settings.model_copy(update={"confirm_spec": "required"}), True)
    assert create(changed).status == "awaiting_confirmation"


def test_a_confirmation_makes_answers_and_changes_the_contract(weber: Services, waiting: TaskRow) -> None:
    task = clinician.confirm_spec(
        weber,
        waiting.id,
        answers={QUESTION: " Never. "},
        changes={"emphasised_classes": [{"class_name": "melanoma", "why": "it kills"}]},
    )

    assert task.status == "open"
    assert weber.state.task(task.id).workspace.is_dir()
    assert [(item.question, item.answer) for item in task.spec.answers] == [(QUESTION, "Never.")]
    assert task.spec.open_questions == ()
    first, second = (row.detail for row in weber.store.ledger(f"task:{task.id}") if row.event == "contract")
    assert (first["spec_sha256"], second["spec_sha256"]) == (waiting.spec.sha256(), task.spec.sha256())
    assert second["replaces"] == waiting.spec.sha256()
    assert (second["confirmed_by"], second["changed"]) == (BY, ["emphasised_classes", "guards"])
    assert second["request"] == REQUEST


def test_the_same_init_task_finds_the_task_that_was_confirmed_and_changed(
    services: Services, weber: Services, waiting: TaskRow
) -> None:
    clinician.confirm_spec(weber, waiting.id, changes={"risk_preference": "sensitivity_first"})
    again = create(services, confirm_spec="required")
    assert (again.id, again.status) == (waiting.id, "open")
    assert again.spec.risk_preference == "sensitivity_first"


def test_a_changed_budget_is_granted_with_the_confirmation(weber: Services, waiting: TaskRow) -> None:
    clinician.confirm_spec(weber, waiting.id, changes={"budget": "quick"})

    preset = PRESETS["quick"]
    left = weber.store.balance(waiting.id)
    assert (left["run"], left["smoke"], left["error_view"]) == (preset.runs, preset.smokes, preset.error_views)
    assert weber.store.granted_runs(waiting.id) == preset.runs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"primary_metric": "auc_unicorn"}, r"primary_metric.*confirm again"),
        ({"budget": "huge"}, r"budget.*'paper'"),
        ({"answers": []}, "answers.*cannot be changed here"),
        ({"task_type": "detection"}, "task_type.*cannot be changed"),
        ({"colour": "red"}, "colour.*valid are objective"),
    ],
)
def test_a_wrong_change_is_refused_and_the_task_waits_on(
    weber: Services, waiting: TaskRow, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        clinician.confirm_spec(weber, waiting.id, changes=changes)
    assert weber.task(waiting.id).status == "awaiting_confirmation"
    assert events(weber, waiting.id).count("contract") == 1


def test_an_answer_to_a_question_that_was_not_asked_is_refused(weber: Services, waiting: TaskRow) -> None:
    with pytest.raises(BadInput, match="were not asked"):
        clinician.confirm_spec(weber, waiting.id, answers={"Who?": "Me."})


def test_a_contract_is_confirmed_once(weber: Services, waiting: TaskRow) -> None:
    clinician.confirm_spec(weber, waiting.id)
    with pytest.raises(NotNow, match="does not wait for its contract"):
        clinician.confirm_spec(weber, waiting.id)
    with pytest.raises(NotNow, match="does not wait"):
        clinician.decline_spec(weber, waiting.id, "Too late, but no.")


def test_an_agent_cannot_answer_for_the_server(services: Services) -> None:
    with pytest.raises(BadInput, match="only the clinician gives them"):
        create(services, answers=[{"question": QUESTION, "answer": "Yes."}])


def test_a_declined_contract_ends_the_task_and_says_why(weber: Services, waiting: TaskRow) -> None:
    task = clinician.decline_spec(weber, waiting.id, "It should look at melanoma alone.")

    assert task.status == "declined" and task.ended_at
    with pytest.raises(NotNow, match=r"Dr\. Weber \(clinician\) has declined.*melanoma alone.*init_task"):
        tasks.require_workspace(weber, task.id)
    assert events(weber, task.id)[-1] == "declined"


# opening the test set ----------------------------------------------------------------------------------------------


@pytest.fixture
def ready(services: Services, scored: Callable[..., str]) -> TaskRow:
    task = create(services, confirm_finalize="required")
    scored(task.id)
    return task


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The evaluations for which a supervisor was launched; none is."""
    found: list[str] = []

    def launch(services: Services, task_id: str, what: str) -> None:
        found.append(f"{task_id}/{what}")

    monkeypatch.setattr(runs, "_launch", launch)
    return found


def test_the_test_set_stays_closed_until_the_clinician_says_yes(
    weber: Services, ready: TaskRow, launched: list[str]
) -> None:
    for _ in range(2):
        evaluation.start(weber, ready.id, "run0")
    assert weber.task(ready.id).status == "awaiting_confirmation"
    assert launched == [] and events(weber, ready.id).count("asked") == 1
    with pytest.raises(BadInput, match=r"asked about.*run0"):
        evaluation.start(weber, ready.id, "run7")
    with pytest.raises(NotNow, match=r"waits for the clinician's yes.*run0"):
        runs.start(weber, ready.id, mode="full", hypothesis="It is worth trying once more.")

    task = clinician.answer_finalize(weber, ready.id, approved=True)

    assert (task.status, task.final_run) == ("evaluating", "run0")
    assert launched == [f"{ready.id}/finalize"]
    approved, started = weber.store.ledger(f"task:{ready.id}")[-2:]
    assert (approved.event, approved.run, approved.detail["by"]) == ("finalize_approved", "run0", BY)
    assert (started.event, started.run) == ("evaluation_started", "run0")


def test_of_eight_answers_and_eight_calls_of_finalize_at_once_one_answer_counts(
    weber: Services, ready: TaskRow, launched: list[str]
) -> None:
    evaluation.start(weber, ready.id, "run0")

    def act(number: int) -> str:
        own = Services(weber.settings, True, principal=WEBER if number % 2 else LOCAL_AGENT)
        try:
            if number % 2:
                clinician.answer_finalize(own, ready.id, approved=number % 4 == 1, why="I say so.")
            else:
                evaluation.start(own, ready.id, "run0")
        except NotNow:
            return "late"
        return "done"

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(act, range(16)))

    found = events(weber, ready.id)
    answers = [name for name in found if name in ("finalize_approved", "finalize_declined")]
    assert len(answers) == found.count("asked") - (weber.task(ready.id).status == "awaiting_confirmation")
    assert found.count("evaluation_started") == answers.count("finalize_approved") <= 1
    assert (weber.task(ready.id).status == "evaluating") == bool(answers.count("finalize_approved"))


def test_a_no_gives_the_task_back_with_the_reason(weber: Services, ready: TaskRow, launched: list[str]) -> None:
    evaluation.start(weber, ready.id, "run0")
    with pytest.raises(BadInput, match="Write 1 to"):
        clinician.answer_finalize(weber, ready.id, approved=False)

    task = clinician.answer_finalize(weber, ready.id, approved=False, why="Try once more for melanoma.")

    assert (task.status, launched) == ("open", [])
    assert weber.store.waiting_notes(ready.id)[-1].line == (
        f"{BY} does not want the test set opened yet for run0: Try once more for melanoma."
    )
    evaluation.start(weber, ready.id, "run0")  # asks again
    assert weber.task(ready.id).status == "awaiting_confirmation"


def test_no_call_of_the_store_gets_past_the_clinician(services: Services, ready: TaskRow, launched: list[str]) -> None:
    store = services.store
    with pytest.raises(NotNow, match="only after the clinician has agreed"):
        store.begin_evaluation(ready.id, "run0")
    store.ask_finalize(ready.id, "run0")
    with pytest.raises(NotNow, match="clinician's yes"):
        store.begin_evaluation(ready.id, "run0")
    with pytest.raises(NotNow, match="not being evaluated"):
        store.unseal(ready.id, {})
    assert launched == [] and "evaluation_started" not in events(services, ready.id)


def test_a_yes_is_good_for_the_run_that_was_asked_about_alone(
    weber: Services, ready: TaskRow, scored: Callable[..., str], launched: list[str]
) -> None:
    evaluation.start(weber, ready.id, "run0")
    clinician.answer_finalize(weber, ready.id, approved=True)
    weber.store.reopen_task(ready.id, "predict.py is not reproducible")  # the rehearsal failed
    assert scored(ready.id) == "run1"

    evaluation.start(weber, ready.id, "run1")

    assert weber.task(ready.id).status == "awaiting_confirmation"
    question = weber.store.open_question(ready.id)
    assert question is not None and question.asked == {"run": "run1"}


def test_what_is_not_the_incumbent_cannot_be_asked_about(
    services: Services, ready: TaskRow, scored: Callable[..., str]
) -> None:
    scored(ready.id)
    with pytest.raises(NotNow, match="not the incumbent"):
        services.store.ask_finalize(ready.id, "run0")


# steering ----------------------------------------------------------------------------------------------------------


def test_what_a_person_does_is_told_to_the_agent_in_order(weber: Services, scored: Callable[..., str]) -> None:
    task = create(weber).id
    scored(task)
    scored(task, decision="rejected")
    clinician.write_note(weber, task, "Look at small lesions.")
    clinician.set_paused(weber, task, True, "I am reading the curves.")
    clinician.set_paused(weber, task, True, "Twice is once.")
    with pytest.raises(NotNow, match=r"Dr\. Weber \(clinician\) has paused task .*reading the curves.*read_validation"):
        runs.start(weber, task, mode="smoke")
    clinician.set_paused(weber, task, False)
    clinician.extend_budget(weber, task, 2, "It is nearly there.")
    clinician.choose_run(weber, task, "run1", "It finds more melanomas.")

    assert [note.line for note in weber.store.waiting_notes(task)] == [
        f"{BY}: Look at small lesions.",
        f"{BY} has paused the task, so no run can start: I am reading the curves.",
        f"{BY} lets the task go on.",
        f"{BY} has extended the budget by 2 runs: It is nearly there.",
        f"{BY} has made run1 the incumbent: It finds more melanomas.",
    ]
    incumbent = weber.store.incumbent(task)
    assert incumbent is not None and incumbent.name == "run1"
    assert weber.store.granted_runs(task) == PRESETS["demo"].runs + 2
    assert weber.store.balance(task)["run"] == PRESETS["demo"].runs + 2 - 2
    assert [name for name in events(weber, task) if name not in ("guarantee", "reserved", "settled")][5:] == [
        "note",
        "paused",
        "resumed_by_person",
        "granted",
        "chosen",
    ]


def test_a_run_without_a_score_cannot_be_chosen(weber: Services) -> None:
    task = create(weber).id
    weber.store.reserve_run(
        task_id=task, mode="full", request_id="r", revision="r1", tree_sha256="t", hypothesis="baseline", inputs=[]
    )
    with pytest.raises(BadInput, match="no score"):
        clinician.choose_run(weber, task, "run0")


@pytest.mark.parametrize("number", [0, 101, -3])
def test_a_budget_is_extended_by_a_sensible_number(weber: Services, number: int) -> None:
    with pytest.raises(BadInput, match="1 to 100"):
        clinician.extend_budget(weber, create(weber).id, number, "More.")


def test_a_budget_is_not_extended_after_finalize(weber: Services, ready: TaskRow, launched: list[str]) -> None:
    evaluation.start(weber, ready.id, "run0")
    clinician.answer_finalize(weber, ready.id, approved=True)
    with pytest.raises(NotNow, match="before finalize"):
        clinician.extend_budget(weber, ready.id, 1, "One more.")


def test_a_larger_budget_does_not_change_the_level_of_the_run_that_is_active(
    weber: Services, scored: Callable[..., str]
) -> None:
    task = create(weber, acceptance="guarded")
    scored(task.id)
    run, _ = weber.store.reserve_run(
        task_id=task.id, mode="full", request_id="r", revision="r1", tree_sha256="t", hypothesis="better", inputs=[]
    )
    before = life.look_of(weber.store, task, run)
    clinician.extend_budget(weber, task.id, 20, "It looks good on the page.")
    assert life.look_of(weber.store, task, run) == before
    weber.store.settle_run(task.id, run.name, "failed", end_reason="crash", message="", detail={"spends": 0.0})
    after, _ = weber.store.reserve_run(
        task_id=task.id, mode="full", request_id="s", revision="r1", tree_sha256="u", hypothesis="better", inputs=[]
    )
    assert life.look_of(weber.store, task, after).at_most == before.at_most + 20 - 1


def test_who_extends_a_budget_after_the_level_is_spent_is_told_that_nothing_can_be_accepted(
    weber: Services, scored: Callable[..., str]
) -> None:
    task = create(weber, acceptance="guarded").id
    scored(task)
    assert clinician.level_note(weber, task) == ""
    run, _ = weber.store.reserve_run(
        task_id=task, mode="full", request_id="r", revision="r1", tree_sha256="t", hypothesis="better", inputs=[]
    )
    weber.store.settle_run(
        task,
        run.name,
        "succeeded",
        end_reason="completed",
        message="",
        score=0.7,
        decision="rejected",
        detail={"spends": 0.05},
    )
    assert "can accept none of the further runs" in clinician.level_note(weber, task)


ACTS: dict[str, Callable[[Services, str], object]] = {
    "confirm": clinician.confirm_spec,
    "decline": lambda services, task: clinician.decline_spec(services, task, "No."),
    "approve": lambda services, task: clinician.answer_finalize(services, task, approved=True),
    "choose": lambda services, task: clinician.choose_run(services, task, "run0"),
    "note": lambda services, task: clinician.write_note(services, task, "Hello."),
    "pause": lambda services, task: clinician.set_paused(services, task, True),
    "stop": lambda services, task: clinician.stop_run(services, task, "run0"),
    "extend": lambda services, task: clinician.extend_budget(services, task, 1, "More."),
}
OF_THE_CLINICIAN = ("confirm", "decline", "approve", "choose")


@pytest.mark.parametrize("act", ACTS)
def test_an_agent_can_do_none_of_it(services: Services, waiting: TaskRow, act: str) -> None:
    before = services.store.head(f"task:{waiting.id}")
    for agent in (LOCAL_AGENT, Principal("robot", frozenset(["agent"]))):
        with pytest.raises(Forbidden, match="your role: agent"):
            ACTS[act](services.for_principal(agent), waiting.id)
    assert services.store.head(f"task:{waiting.id}") == before


@pytest.mark.parametrize("act", OF_THE_CLINICIAN)
def test_a_custodian_does_not_decide_for_the_clinician(services: Services, waiting: TaskRow, act: str) -> None:
    with pytest.raises(Forbidden, match="Only a clinician"):
        ACTS[act](services.for_principal(CUSTODIAN), waiting.id)


def test_a_custodian_may_steer(services: Services) -> None:
    task = create(services).id
    clinician.write_note(services.for_principal(CUSTODIAN), task, "The disk is full tonight.")
    assert services.store.notes(task)[0].line == "Kim (custodian): The disk is full tonight."


def test_a_note_has_a_length(weber: Services) -> None:
    task = create(weber).id
    for text in ("", "  ", "x" * 2001):
        with pytest.raises(BadInput, match="1 to 2000"):
            clinician.write_note(weber, task, text)
    clinician.write_note(weber, task, "x" * 2000)
