"""`clinloop task confirm|decline|approve|choose|note|pause|resume|stop|extend`, as a clinician without the page uses them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clinloop import runs, tasks
from clinloop.cli import app
from clinloop.errors import BadInput, NotNow
from clinloop.services import Services
from clinloop.spec import TaskSpec
from clinloop.store.rows import RunRow

QUESTIONS = ["May a melanoma be missed?", "Which [bold]lesions[/bold]?"]
Cli = Callable[..., str]


@pytest.fixture
def cli(state: Path, services: Services) -> Cli:
    """Run a command as Dr. Weber; a refusal is raised."""
    del services

    def run(*arguments: str, stdin: str | None = None) -> str:
        by = [] if arguments[1] in ("list", "show") else ["--by", "Dr. Weber"]
        outcome = CliRunner().invoke(
            app,
            [*arguments[:2], *by, *arguments[2:], "--state", str(state)],
            input=stdin,
            env={"COLUMNS": "300"},
            catch_exceptions=False,
        )
        assert outcome.exit_code == 0, outcome.output
        return outcome.output

    return run


def create(services: Services, **spec: Any) -> str:
    values = {"objective": "Tell three kinds of moles apart.", "budget": "demo", "acceptance": "paper", **spec}
    request = "Tell these three kinds of moles apart for me, please."
    made = tasks.create(
        services, dataset_name="moles", request=request, spec=TaskSpec.model_validate(values), template="linear"
    )
    return made.id


def a_run(services: Services, task: str, *, ends: bool = True) -> RunRow:
    run, _ = services.store.reserve_run(
        task_id=task, mode="full", request_id="r", revision="r1", tree_sha256="t", hypothesis="better", inputs=[]
    )
    if ends:
        services.store.settle_run(
            task,
            run.name,
            "succeeded",
            end_reason="completed",
            message="",
            score=0.8,
            scores={"metrics": {}},
            decision="accepted",
        )
    return run


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    def launch(services: Services, task_id: str, what: str) -> None:
        found.append(what)

    monkeypatch.setattr(runs, "_launch", launch)
    return found


def test_a_contract_is_shown_and_confirmed_with_answers_and_changes(services: Services, cli: Cli) -> None:
    task = create(
        services, confirm_spec="required", open_questions=QUESTIONS, assumptions=["All \x1b[31mmoles\x1b[0m."]
    )
    assert "waits for the clinician to confirm its contract" in cli("task", "list")

    shown = cli(
        "task", "confirm", task, "--answer", "2=All.", "--set", 'risk_preference="sensitivity_first"',
        "--set", "budget=quick", "--yes",
    )  # fmt: skip

    assert "Request: Tell these three kinds of moles apart" in shown
    assert "1. All moles." in shown and f"2. {QUESTIONS[1]}" in shown  # neither escapes nor markup of the agent
    assert f"Confirmed; {task} is open." in shown
    spec = services.store.task(task).spec
    assert [(item.question, item.answer) for item in spec.answers] == [(QUESTIONS[1], "All.")]
    assert (spec.risk_preference, spec.budget) == ("sensitivity_first", "quick")
    assert "Dr. Weber (clinician) has confirmed the contract" in cli("task", "show", task)


def test_what_is_wrong_with_an_answer_or_a_change_is_said(services: Services, cli: Cli) -> None:
    task = create(services, confirm_spec="required", open_questions=QUESTIONS)
    for arguments, words in (
        (["--answer", "3=Yes."], "there are 2 open questions"),
        (["--answer", "Yes."], "NUMBER=ANSWER"),
        (["--set", "budget"], "FIELD=JSON"),
        (["--set", "budget=huge"], "budget"),
    ):
        with pytest.raises(BadInput, match=words):
            cli("task", "confirm", task, "--yes", *arguments)
    with pytest.raises(BadInput, match="--yes"):  # nobody can be asked here
        cli("task", "confirm", task)
    assert services.store.task(task).status == "awaiting_confirmation"


def test_at_a_terminal_each_question_is_asked(services: Services, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    task = create(services, confirm_spec="required", open_questions=QUESTIONS)
    monkeypatch.setattr("clinloop.cli_clinician._require_terminal", lambda: None)
    assert "May a melanoma be missed?" in cli("task", "confirm", task, stdin="Never.\n\ny\n")
    spec = services.store.task(task).spec
    assert [item.answer for item in spec.answers] == ["Never."] and spec.open_questions == (QUESTIONS[1],)


def test_the_contract_can_be_changed_in_an_editor(
    services: Services, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = create(services, confirm_spec="required")
    editor = tmp_path / "editor"
    editor.write_text(
        f"#!{sys.executable}\nimport json, sys\nfile = sys.argv[1]\nspec = json.load(open(file))\n"
        "spec['assumptions'] = ['All moles.']\nopen(file, 'w').write(json.dumps(spec))\n"
    )
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("VISUAL", raising=False)
    cli("task", "confirm", task, "--edit", "--yes")
    assert services.store.task(task).spec.assumptions == ("All moles.",)
    assert "changed fields: assumptions." in services.store.notes(task)[0].text


def test_a_contract_is_declined_with_a_reason(services: Services, cli: Cli) -> None:
    task = create(services, confirm_spec="required")
    cli("task", "decline", task, "--why", "Look at melanoma alone.")
    assert services.store.task(task).status == "declined"


def test_the_test_set_is_opened_or_not(services: Services, cli: Cli, launched: list[str]) -> None:
    task = create(services, confirm_finalize="required")
    a_run(services, task)
    with pytest.raises(NotNow, match="waits for nobody"):
        cli("task", "approve", task, "--yes")
    services.store.ask_finalize(task, "run0")
    with pytest.raises(NotNow, match="yes to opening"):
        cli("task", "confirm", task, "--yes")
    cli("task", "decline", task, "--why", "Try once more.")
    assert (services.store.task(task).status, launched) == ("open", [])
    services.store.ask_finalize(task, "run0")
    assert "run0" in cli("task", "approve", task, "--yes")
    assert services.store.task(task).status == "evaluating" and launched == ["finalize"]


def test_a_task_is_steered(services: Services, cli: Cli) -> None:
    task = create(services)
    cli("task", "note", task, "Look at small lesions.")
    cli("task", "pause", task, "--why", "I am reading.")
    assert "has paused task" in cli("task", "list")
    cli("task", "resume", task)
    assert "10 of 10 runs left" in cli("task", "extend", task, "--runs", "2", "--why", "It is nearly there.")
    with pytest.raises(NotNow, match="nothing to stop"):
        cli("task", "stop", task)
    a_run(services, task, ends=False)
    assert "9 of 10" in cli("task", "list")
    cli("task", "stop", task, "--why", "It overfits.")
    assert services.store.run(task, "run0").stop_requested
    assert [note.text.split()[0] for note in services.store.notes(task)] == ["Look", "has", "lets", "has", "has"]


def test_a_run_is_chosen(services: Services, cli: Cli) -> None:
    task = create(services)
    a_run(services, task)
    cli("task", "choose", task, "run0", "--why", "It finds more.")
    assert services.store.task(task).chosen_run == "run0"


def test_a_name_that_could_pretend_to_be_another_is_refused(services: Services, cli: Cli) -> None:
    task = create(services)
    with pytest.raises(BadInput, match="visible characters"):
        cli("task", "note", task, "Hello.", "--by", "Dr.\u202eWeber")
