"""`clinloop task confirm|decline|approve|choose|note|pause|resume|stop|extend`: what a clinician says to a task, without the page."""

from __future__ import annotations

import json
import os
import pwd
import sys
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from clinloop.errors import BadInput, NotNow
from clinloop.principal import ROLES, Principal
from clinloop.services import Services
from clinloop.store.rows import QuestionRow, TaskRow
from clinloop.terminal import StateOption, out, services_of, table
from clinloop.untrusted import clean

ByOption = Annotated[
    str, typer.Option("--by", help="Who you are, as ledger, report and agent name you. Default: your login name.")
]
WhyOption = Annotated[str, typer.Option("--why", help="The reason; it is recorded and the agent reads it.")]
WhyNeeded = Annotated[
    str, typer.Option("--why", help="The reason; it is recorded and the agent reads it.", prompt=True)
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
TaskArgument = Annotated[str, typer.Argument(help="Task, as `clinloop task list` names it.")]
_LISTS = ("assumptions", "open_questions", "answers")


def confirm(
    task_id: TaskArgument,
    answer: Annotated[
        list[str] | None,
        typer.Option(help="Answer to an open question by its number, e.g. --answer '1=Never.' Repeatable."),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value of a field, as JSON, e.g. --set 'budget=\"paper\"'. Repeatable."),
    ] = None,
    edits: Annotated[bool, typer.Option("--edit", help="Change the contract in your editor ($EDITOR) first.")] = False,
    yes: YesOption = False,
    by: ByOption = "",
    state: StateOption = None,
) -> None:
    """Read a task's contract, answer its open questions, change what is wrong, and confirm it; then it can run."""
    services = _person(state, by)
    task = services.task(task_id)
    _asked(services, task, "spec")
    _show_contract(task)
    answers = _answers(task, answer or [])
    changes = dict(_change(text) for text in change or [])
    if edits:
        changes |= _edit(task)
    if not yes:
        _require_terminal()
        for question in task.spec.open_questions:
            if question not in answers:
                answers[question] = typer.prompt(
                    f"{clean(question)}\n(Enter = no answer)", default="", show_default=False
                )
        _ask(f"Confirm the contract of {task.id}?")
    from clinloop import clinician

    confirmed = clinician.confirm_spec(services, task_id, answers=answers, changes=changes)
    _say(f"Confirmed; {task_id} is {confirmed.status}. Its agent is told. Contract: {confirmed.spec.sha256()}")


def decline(task_id: TaskArgument, why: WhyNeeded, by: ByOption = "", state: StateOption = None) -> None:
    """Say no to what a task waits for: to its contract, which ends the task, or to opening its test set, which gives it back to the agent."""
    from clinloop import clinician

    services = _person(state, by)
    asked = services.store.open_question(services.task(task_id).id)
    if asked is not None and asked.kind == "finalize":
        clinician.answer_finalize(services, task_id, approved=False, why=why)
        _say(f"{task_id} goes back to its agent; the test set stays closed.")
    else:
        clinician.decline_spec(services, task_id, why)
        _say(f"Declined; {task_id} has ended. Its agent is told why.")


def approve(
    task_id: TaskArgument, why: WhyOption = "", yes: YesOption = False, by: ByOption = "", state: StateOption = None
) -> None:
    """Agree to open the test set of a task, once, for the run that its agent has asked for."""
    from clinloop import clinician

    services = _person(state, by)
    task = services.task(task_id)
    name = str(_asked(services, task, "finalize").asked["run"])
    run = services.store.run(task_id, name)
    _say(f"{name}: {task.spec.primary_metric} {run.score} on validation. {clean(run.hypothesis, cap=300)}")
    if not yes:
        _ask(f"Open the test set of {task_id} for {name}? It is opened once, and that ends the task.")
    clinician.answer_finalize(services, task_id, approved=True, why=why)
    _say(f"{task_id} is being evaluated with {name}.")


def choose(
    task_id: TaskArgument,
    run: Annotated[
        str,
        typer.Argument(
            help="Run that becomes the incumbent, e.g. run3. Default: none; what there is to choose is shown."
        ),
    ] = "",
    why: WhyOption = "",
    by: ByOption = "",
    state: StateOption = None,
) -> None:
    """Make a run the incumbent, whatever the acceptance rule said of it; without a run, show what each gives and takes."""
    from clinloop import clinician
    from clinloop.tradeoffs import tradeoffs_of

    services = _person(state, by)
    if run:
        clinician.choose_run(services, task_id, run, why)
        _say(f"{run} is the incumbent of {task_id}.")
        return
    found = tradeoffs_of(services, task_id)
    for option in found.answers:
        standing = "incumbent" if option.is_incumbent else "as sensible" if option.is_rival else "no run beats it"
        _say(f"{option.run} ({standing}): {option.words}")
    if not found.answers:
        _say(f"{task_id} has no run with scores yet, so there is nothing to choose from.")


def note(
    task_id: TaskArgument,
    text: Annotated[str, typer.Argument(help="Your words, at most 2000 characters.")],
    by: ByOption = "",
    state: StateOption = None,
) -> None:
    """Tell the agent something; its next reply carries it as your words."""
    from clinloop import clinician

    clinician.write_note(_person(state, by), task_id, text)
    _say(f"The agent of {task_id} reads it with its next reply.")


def pause(task_id: TaskArgument, why: WhyOption = "", by: ByOption = "", state: StateOption = None) -> None:
    """Let no further run of a task start; a run that is active goes on."""
    from clinloop import clinician

    clinician.set_paused(_person(state, by), task_id, True, why)
    _say(f"{task_id} is paused; clinloop task resume {task_id} lets it go on.")


def resume(task_id: TaskArgument, why: WhyOption = "", by: ByOption = "", state: StateOption = None) -> None:
    """Let runs of a paused task start again."""
    from clinloop import clinician

    clinician.set_paused(_person(state, by), task_id, False, why)
    _say(f"{task_id} goes on.")


def stop(
    task_id: TaskArgument,
    run: Annotated[str, typer.Argument(help="Run to stop. Default: the active one.")] = "",
    why: WhyOption = "",
    by: ByOption = "",
    state: StateOption = None,
) -> None:
    """Stop the active run of a task; it stays recorded and charged."""
    from clinloop import clinician

    services = _person(state, by)
    active = [found.name for found in services.store.runs(services.task(task_id).id) if found.is_active]
    if not run and not active:
        raise NotNow(f"No run of {task_id} is active, so there is nothing to stop.")
    stopped = clinician.stop_run(services, task_id, run or active[0], why)
    _say(f"{stopped.name} of {task_id} is being stopped.")


def extend(
    task_id: TaskArgument,
    runs: Annotated[int, typer.Option("--runs", help="Further charged runs.", min=1)],
    why: WhyNeeded,
    by: ByOption = "",
    state: StateOption = None,
) -> None:
    """Grant a task further charged runs."""
    from clinloop import clinician

    services = _person(state, by)
    clinician.extend_budget(services, task_id, runs, why)
    left, granted = services.store.balance(task_id)["run"], services.store.granted_runs(task_id)
    _say(f"{task_id} has {left} of {granted} runs left.")
    if warning := clinician.level_note(services, task_id):
        _say(warning)


def _person(state: Path | None, by: str) -> Services:
    """Return the services as a person at the command line uses them."""
    name = by.strip() or pwd.getpwuid(os.getuid()).pw_name
    if clean(name) != name or len(name) > 80:
        raise BadInput("--by: give a name of at most 80 visible characters.")
    return services_of(state).for_principal(Principal(name, frozenset(ROLES)))


def _asked(services: Services, task: TaskRow, kind: str) -> QuestionRow:
    """Return the question of a kind that a task waits for an answer to."""
    asked = services.store.open_question(task.id)
    if asked is None or asked.kind != kind:
        waits = services.store.waits_for_person(task.id) or f"Task {task.id} is {task.status} and waits for nobody."
        raise NotNow(f"{waits} `clinloop task show {task.id}` shows what it is about.")
    return asked


def _show_contract(task: TaskRow) -> None:
    _say(f"Request: {clean(task.request, cap=4000)}")
    rows = table("field", "value", title=f"Contract of {task.id}")
    for name, value in task.spec.model_dump(mode="json").items():
        if name not in _LISTS:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            rows.add_row(_plain(name), _plain(clean(shown, cap=2000)))
    out().print(rows)
    for title, items in (("Assumed", task.spec.assumptions), ("Open questions", task.spec.open_questions)):
        _say(f"{title}:" if items else f"{title}: none")
        for number, item in enumerate(items, start=1):
            _say(f"  {number}. {clean(item)}")


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)  # brackets in it are no markup


def _answers(task: TaskRow, given: list[str]) -> dict[str, str]:
    """Return answers by question from those by number."""
    questions = task.spec.open_questions
    found: dict[str, str] = {}
    for text in given:
        number, sign, answer = text.partition("=")
        if not sign or not number.strip().isdecimal() or not 1 <= int(number) <= len(questions):
            raise BadInput(f"--answer {text!r}: give NUMBER=ANSWER; there are {len(questions)} open questions, from 1.")
        found[questions[int(number) - 1]] = answer
    return found


def _change(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise BadInput(f"--set {text!r}: give FIELD=JSON, e.g. --set 'budget=\"paper\"'.")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value  # a word without quotes


def _edit(task: TaskRow) -> dict[str, Any]:
    """Let the person change the contract as JSON in an editor; return the fields that differ."""
    before = {name: value for name, value in task.spec.model_dump(mode="json").items() if name not in _LISTS[1:]}
    edited = click.edit(json.dumps(before, indent=1, ensure_ascii=False), extension=".json")
    if edited is None:
        return {}
    try:
        after = json.loads(edited)
    except ValueError as error:
        raise BadInput(f"What you saved is no JSON ({error}); nothing was confirmed.") from error
    if not isinstance(after, dict) or set(before) - set(after):
        raise BadInput("What you saved lacks fields of the contract; nothing was confirmed.")
    return {name: value for name, value in after.items() if name not in before or before[name] != value}


def _require_terminal() -> None:
    if not sys.stdin.isatty():
        raise BadInput("Nobody can be asked here; give --yes, and --answer for the open questions.")


def _ask(question: str) -> None:
    _require_terminal()
    if not typer.confirm(question):
        raise BadInput("Nothing was done.")


def _say(text: str) -> None:
    out().print(text, markup=False, highlight=False, soft_wrap=True)


COMMANDS = {
    confirm: "Example: clinloop task confirm isic-3f9a2c --answer '1=Never.' --yes",
    decline: "Example: clinloop task decline isic-3f9a2c --why 'Look at melanoma alone.'",
    approve: "Example: clinloop task approve isic-3f9a2c",
    choose: "Example: clinloop task choose isic-3f9a2c run3 --why 'It finds more melanomas.'",
    note: "Example: clinloop task note isic-3f9a2c 'Look at small lesions.'",
    pause: "Example: clinloop task pause isic-3f9a2c --why 'I am reading the curves.'",
    resume: "Example: clinloop task resume isic-3f9a2c",
    stop: "Example: clinloop task stop isic-3f9a2c --why 'It overfits.'",
    extend: "Example: clinloop task extend isic-3f9a2c --runs 3 --why 'It is nearly there.'",
}
"""The commands, each with its example."""
