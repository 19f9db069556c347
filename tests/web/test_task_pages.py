"""The pages of tasks in this process: who may do what, forms that keep what was typed, hostile text, many tasks."""

from __future__ import annotations

import re
import secrets
from html import unescape
from typing import Any

import pytest

from clinloop import tasks
from clinloop.datasets.dataset import Dataset
from clinloop.spec import TaskSpec, freeze

from .conftest import SPEC, Visitor, Web

EMPHASIS = [{"class_name": "melanoma", "why": "a missed melanoma can kill"}]


def add_tasks(web: Web, count: int, status: str, request: str = "Tell these moles apart, number") -> list[str]:
    """Put tasks into the store that wait for nobody's work."""
    dataset = Dataset.load(web.services.settings.state, "moles")
    spec = freeze(TaskSpec.model_validate(SPEC), tasks.spec_facts(dataset))
    made: list[str] = []
    for index in range(count):
        task, _ = web.services.store.create_task(
            task_id=f"moles-{secrets.token_hex(3)}",
            dataset="moles",
            request=f"{request} {index}.",
            spec=spec,
            template="linear",
            seed=0,
            settings=web.services.launch_settings,
            init_key=secrets.token_hex(8),
            owner="codex",
            confirms=status == "awaiting_confirmation",
        )
        if status == "open":
            web.services.store.open_task(task.id)
        if status == "declined":
            web.services.store.decline_spec(task.id, by="Dr. Weber", why="Not meant.")
        made.append(task.id)
    return made


def form(page: str) -> dict[str, str]:
    """Return the fields of a page's forms as a browser would send them."""
    fields: dict[str, str] = {}
    for tag in re.findall(r"<input[^>]*>", page):
        known = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        if known.get("type") in ("checkbox", "radio") and " checked" not in tag:
            continue
        if "name" in known:
            fields[known["name"]] = unescape(known.get("value", ""))
    for name, text in re.findall(r'<textarea[^>]* name="([^"]*)"[^>]*>\n?(.*?)</textarea>', page, re.DOTALL):
        fields[name] = unescape(text)
    for name, body in re.findall(r'<select[^>]* name="([^"]*)"[^>]*>(.*?)</select>', page, re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', body)
        fields[name] = unescape(chosen.group(1)) if chosen else ""
    return fields


def opened(visitor: Visitor, path: str) -> str:
    answer = visitor.get(path)
    assert answer.status_code == 200, (path, answer.text)
    return answer.text


def test_what_waits_for_the_clinician_comes_first_among_a_hundred_tasks(web: Web) -> None:
    waiting = add_tasks(web, 3, "awaiting_confirmation")
    running = add_tasks(web, 40, "open")
    add_tasks(web, 1, "awaiting_confirmation", "A declined one, number")
    page = opened(web.clinician, "/")
    said = re.sub(r"<[^>]*>", " ", page.replace('<span class="for-others">a clinician</span>', ""))
    assert "4 tasks wait for you . 40 under way, 0 done." in " ".join(said.split())
    assert page.index(waiting[0]) < page.index(running[0])
    assert all(task in page for task in running)


def test_the_list_is_filtered_searched_and_paged(web: Web) -> None:
    for task in add_tasks(web, 57, "awaiting_confirmation", "An ended one, number"):
        web.services.store.decline_spec(task, by="Dr. Weber", why="Not meant.")
    waiting = add_tasks(web, 2, "awaiting_confirmation", "Something else, number")
    doctor = web.clinician
    assert opened(doctor, "/?show=waiting").count("An ended one") == 0
    assert opened(doctor, "/?show=done").count('<th scope="row"') == 30
    assert opened(doctor, "/?show=done&page=2").count('<th scope="row"') == 27
    assert opened(doctor, "/?show=done&page=99").count('<th scope="row"') == 27
    found = opened(doctor, "/?q=SOMETHING+1.")
    assert waiting[1] in found and waiting[0] not in found
    assert "No task fits" in opened(doctor, "/?q=%3Cscript%3Enothing")
    for odd in ("/?page=x", "/?page=-1", "/?page=²", "/?show=everything"):
        opened(doctor, odd)


def test_a_contract_is_edited_on_the_page_and_becomes_what_the_clinician_typed(web: Web) -> None:
    questions = ["May a keratosis be called a nevus?"]
    task = web.codex.begin(confirm_spec="required", open_questions=questions, emphasised_classes=EMPHASIS)
    doctor = web.clinician
    fields = form(opened(doctor, f"/tasks/{task}/confirm"))
    fields |= {
        "answer_0": "No.",
        "objective": "Find every melanoma among these moles.",
        "risk_preference": "sensitivity_first",
    }
    fields |= {
        "rule": "sensitivity",
        "rule_number": "95%",
        "primary_metric": "auc_melanoma",
        "assumptions": "One.\n\nTwo.",
    }
    fields |= {"emphasis_2": "yes", "emphasis_why_2": "it is common", "margin_0": "0,01", "act": "confirm"}
    assert doctor.post(f"/tasks/{task}/confirm", **fields).headers["location"] == f"/tasks/{task}"
    spec = web.services.store.task(task).spec
    assert (spec.answers[0].answer, spec.open_questions) == ("No.", ())
    assert spec.objective == "Find every melanoma among these moles."
    assert (spec.operating_point, spec.primary_metric) == ("sensitivity>=0.95", "auc_melanoma")
    assert spec.assumptions == ("One.", "Two.")
    assert [item.class_name for item in spec.emphasised_classes] == ["melanoma", "nevus"]
    assert {guard.metric: guard.margin for guard in spec.guards} == {"auc_melanoma": 0.01, "auc_nevus": 0.02}
    assert "auc_nevus" in spec.reported_metrics
    assert web.services.store.task(task).status == "open"


@pytest.mark.parametrize(
    ("field", "typed", "said"),
    [
        ("objective", "short", "at least 10 characters"),
        ("margin_0", "much", "number from 0 to 1"),
        ("emphasis_why_1", "", "why melanoma is ticked"),
        ("rule_number", "2", "share between 0 and 1"),
        ("primary_metric", "<b>no_such</b>", "Unknown metric"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_that_was_typed_is_lost(web: Web, field: str, typed: str, said: str) -> None:
    task = web.codex.begin(confirm_spec="required", open_questions=["Which?"], emphasised_classes=EMPHASIS)
    doctor = web.clinician
    fields = form(opened(doctor, f"/tasks/{task}/confirm"))
    fields |= {
        "rule": "sensitivity",
        "rule_number": "0.9",
        "answer_0": "This <one> & that.",
        "act": "confirm",
        field: typed,
    }
    answer = doctor.post(f"/tasks/{task}/confirm", **fields)
    assert answer.status_code == 400
    again = form(answer.text)
    kept = {name: text for name, text in fields.items() if name not in ("act", "csrf", "primary_metric")}
    assert {name: again[name] for name in kept} == kept
    assert re.search(rf'id="{field}-error".*?{said}', answer.text, re.DOTALL), answer.text
    assert "<b>no_such" not in answer.text
    assert web.services.store.task(task).status == "awaiting_confirmation"


def test_only_a_clinician_decides_and_a_custodian_may_steer(web: Web) -> None:
    task, custodian = web.codex.begin(confirm_spec="required"), web.custodian
    for path in ("confirm", "approve", "choose"):
        assert custodian.get(f"/tasks/{task}/{path}").status_code == 403
        assert custodian.post(f"/tasks/{task}/{path}", act="confirm", run="run0").status_code == 403
        assert web.codex.get(f"/tasks/{task}/{path}").status_code == 403
    assert web.services.store.task(task).status == "awaiting_confirmation"
    assert custodian.post(f"/tasks/{task}/steer", act="note", text="A disk is full.").status_code == 303
    assert [note.text for note in web.services.store.notes(task)] == ["A disk is full."]


def test_a_form_of_another_session_changes_nothing(web: Web) -> None:
    task = web.codex.begin()
    doctor = web.clinician
    answer = doctor.post(f"/tasks/{task}/steer", act="pause", csrf=web.custodian.csrf)
    assert answer.status_code == 403
    assert web.services.store.task(task).status == "open"


def test_what_a_steering_form_got_wrong_is_said_at_its_field(web: Web) -> None:
    task = web.codex.begin()
    doctor = web.clinician
    answer = doctor.post(f"/tasks/{task}/steer", act="extend", number="1000", extend_why="Because I <say> so.")
    assert answer.status_code == 400 and "from 1 to 100" in answer.text
    assert form(answer.text)["extend_why"] == "Because I <say> so."
    assert "Write 1 to" in doctor.post(f"/tasks/{task}/steer", act="note", text=" ").text
    assert doctor.post(f"/tasks/{task}/steer", act="erase").status_code == 400


def test_pages_of_what_does_not_exist_or_does_not_wait_say_so(web: Web) -> None:
    task = web.codex.begin()
    doctor = web.clinician
    for path in ("/tasks/none", "/tasks/none/live", f"/tasks/{task}/runs/run9", f"/tasks/{task}/runs/run9/changes"):
        assert doctor.get(path).status_code == 404, path
    for path in ("confirm", "approve", "report", "report/page", "report/check", "files/report/report.html"):
        assert doctor.get(f"/tasks/{task}/{path}").status_code == 409, path


HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(1)">\u202e{{ 7*7 }}'


def test_words_of_agents_and_requests_are_text_on_every_page(web: Web) -> None:
    spec: dict[str, Any] = SPEC | {
        "objective": f"Objective {HOSTILE}",
        "assumptions": [HOSTILE],
        "open_questions": [HOSTILE],
    }
    spec |= {"confirm_spec": "required", "emphasised_classes": [{"class_name": "melanoma", "why": HOSTILE}]}
    reply = web.codex.call("init_task", dataset="moles", request=f"Please {HOSTILE}", spec=spec, template="linear")
    task = reply["task_id"]
    doctor = web.clinician
    doctor.post(f"/tasks/{task}/steer", act="note", text=HOSTILE)
    for path in ("/", f"/?q={task}", f"/tasks/{task}", f"/tasks/{task}/confirm", f"/tasks/{task}/steer"):
        page = opened(doctor, path)
        assert "<script>alert" not in page and "<img" not in page and "\u202e" not in page, path
        assert "49" not in re.sub(r"[0-9a-f]{10,}|moles-\w+", "", page), path
        assert not re.search(r'<[^>]+ (style|on\w+)="', page), path
