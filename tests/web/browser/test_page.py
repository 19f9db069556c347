"""What a clinician does on the page, in a real browser on a real server."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, StorageState, expect

from .conftest import Person
from .stage import REQUEST, Server, Stage

pytestmark = pytest.mark.slow
expect.set_options(timeout=30_000)


def test_nobody_sees_a_task_before_signing_in_and_a_wrong_token_is_refused(
    chromium: Browser, server: Server, tokens: dict[str, str]
) -> None:
    context = chromium.new_context()
    person = Person(context, server)
    page = person.open("/tasks/moles-000000")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("no valid token")
    person.sign_in(tokens["custodian"])
    expect(page.get_by_role("link", name="Housekeeping")).to_be_visible()
    context.close()


def test_a_live_run_is_watched_to_its_end_without_a_reload(stage: Stage, doctor: Person) -> None:
    task_id = stage.task("Watch this one: tell the three kinds of moles apart.", emphasised_classes=[])
    stage.run(task_id)
    page = doctor.open(f"/tasks/{task_id}")
    page.evaluate("window.notReloaded = true")
    stage.slow_run(task_id)
    expect(page.get_by_text(re.compile(r"\d+ s left of"))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("while the run trained"))).to_be_visible()
    summary = page.locator("summary", has_text="Run 0 (start model)")
    summary.click()
    expect(page.get_by_text("No code was changed.")).to_be_visible()  # fetched when it was opened
    expect(page.locator("summary", has_text=re.compile(r"Run 1 · 0\.\d+"))).to_be_visible(timeout=90_000)
    expect(page.get_by_text("No code was changed.")).to_be_visible()  # still open after the list was replaced
    expect(page.get_by_text("7 of 8")).to_be_hidden()
    expect(page.get_by_text("6 of 8")).to_be_visible()
    assert page.evaluate("window.notReloaded") is True


def test_a_contract_is_answered_edited_and_confirmed_with_the_keyboard_alone(stage: Stage, doctor: Person) -> None:
    task_id = stage.task(confirm_spec="required")
    page = doctor.open("/")
    expect(page.get_by_role("status")).to_contain_text("1 task waits for you")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")

    def go_to(what: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", what):
                return
        raise AssertionError(f"Tab does not reach {what}")

    go_to(f"#act-{task_id}")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Is this what you want?")).to_be_visible()
    go_to("#answer_0")
    page.keyboard.type("No, please tell those two apart.")
    go_to("#margin_0")
    page.keyboard.press("Control+A")
    page.keyboard.type("much")
    go_to("button[value=confirm]")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Nothing was sent yet")
    expect(page.locator("#margin_0")).to_have_value("much")
    expect(page.locator("#margin_0")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#answer_0")).to_have_value("No, please tell those two apart.")
    go_to("#margin_0")
    page.keyboard.press("Control+A")
    page.keyboard.type("0.01")
    go_to("button[value=confirm]")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="What was understood")).to_be_visible()
    spec = stage.services.store.task(task_id).spec
    assert spec.answers[0].answer == "No, please tell those two apart."
    assert spec.guards[0].margin == 0.01 and not spec.open_questions
    assert stage.services.store.task(task_id).status == "open"


def test_a_contract_that_is_not_meant_is_declined_with_a_reason(stage: Stage, doctor: Person) -> None:
    task_id = stage.task("Not this one, it was a misunderstanding.", confirm_spec="required")
    page = doctor.open(f"/tasks/{task_id}/confirm")
    page.get_by_role("textbox", name="Aim").fill("Another aim that I typed before.")
    page.get_by_role("button", name="Decline").click()
    expect(page.get_by_role("textbox", name="Aim")).to_have_value("Another aim that I typed before.")
    page.get_by_label("Or decline it, because").fill("I meant another dataset.")
    page.get_by_role("button", name="Decline").click()
    expect(page.get_by_text("This task was declined.")).to_be_visible()
    assert stage.services.store.task(task_id).status == "declined"


def test_a_run_is_stopped_after_one_more_question_and_a_note_reaches_the_agent(stage: Stage, doctor: Person) -> None:
    task_id = stage.task("Stop this one when it is too slow, please.", emphasised_classes=[])
    stage.run(task_id)
    run = stage.slow_run(task_id)
    page = doctor.open(f"/tasks/{task_id}")
    page.get_by_label("Note").fill("Look at the <b>dark</b> ones first.")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Look at the <b>dark</b> ones first.")).to_be_visible()
    expect(page.get_by_text("Not yet delivered")).to_be_visible()
    stage.services.store.mark_delivered(stage.services.store.waiting_notes(task_id))
    expect(page.get_by_text("Delivered", exact=True)).to_be_visible()
    page.get_by_role("link", name="Stop this run").click()
    expect(page.get_by_role("heading", name="Stop Run 1?")).to_be_visible()
    page.get_by_role("button", name="Stop Run 1").click()
    expect(page.locator("summary", has_text="Run 1").get_by_text("Stopped")).to_be_visible(timeout=60_000)
    assert stage.end(run).status == "stopped"


def test_a_task_is_paused_goes_on_and_gets_more_runs(stage: Stage, doctor: Person) -> None:
    task_id = stage.task("Pause this one for a while, please.")
    page = doctor.open(f"/tasks/{task_id}/steer")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("No new training starts until somebody lets it go on.")).to_be_visible()
    page.get_by_role("link", name="Let it go on").click()
    page.get_by_role("button", name="Let it go on").click()
    expect(page.get_by_text("Agent's turn").first).to_be_visible()
    page = doctor.open(f"/tasks/{task_id}/steer")
    page.get_by_label("How many more").fill("3")
    page.get_by_label("Why", exact=True).fill("It was close.")
    page.get_by_role("button", name="Give more runs").click()
    expect(page.get_by_text("11 of 11")).to_be_visible()


def test_a_trade_off_is_seen_and_a_model_chosen_with_a_reason(stage: Stage, doctor: Person) -> None:
    task_id = stage.traded()
    page = doctor.open(f"/tasks/{task_id}")
    page.get_by_role("link", name="Compare and choose").click()
    expect(page.locator("figure svg")).to_be_visible()
    page.get_by_role("button", name="Choose this model").click()
    expect(page.get_by_role("alert")).to_contain_text("Choose one of the models first")
    page.get_by_role("radio", name="Run 1").check()
    page.get_by_label("Why this one").fill("Naevi matter more in this clinic.")
    page.get_by_role("button", name="Choose this model").click()
    expect(page.get_by_text("Chosen by the clinician").first).to_be_visible()
    assert stage.services.store.task(task_id).chosen_run == "run1"


def test_the_final_test_is_approved_and_its_report_read_and_checked(stage: Stage, doctor: Person) -> None:
    task_id = stage.task("Report on this one: which of these moles is which?", confirm_finalize="required")
    stage.run(task_id)
    stage.services.store.ask_finalize(task_id, "run0")
    page = doctor.open(f"/tasks/{task_id}")
    page.get_by_role("link", name="Look at the model and decide").click()
    page.get_by_role("button", name="Yes, open the test set").click()
    expect(page.get_by_role("alert")).to_contain_text("Tick the box first")
    page.get_by_label("I understand").check()
    page.get_by_role("button", name="Yes, open the test set").click()
    page.get_by_role("link", name="Read the report").click(timeout=120_000)
    inside = page.frame_locator("iframe")
    expect(inside.get_by_text(re.compile("Report on this one")).first).to_be_visible()
    page.get_by_role("link", name="Check it now").click()
    expect(page.get_by_text("The report is whole.")).to_be_visible(timeout=60_000)
    with page.expect_download() as saved:
        page.get_by_role("link", name="report/report.json").click()
    assert saved.value.suggested_filename == "report.json"


def test_who_may_not_decide_sees_what_waits_and_no_button_for_it(
    stage: Stage, chromium: Browser, server: Server, tokens: dict[str, str], doctor: Person
) -> None:
    task_id = stage.task("This waits for a clinician: three kinds of moles.", confirm_spec="required")
    context = chromium.new_context()
    custodian = Person(context, server).sign_in(tokens["custodian"])
    for who, decides in ((doctor, True), (custodian, False)):
        for path, button in (("/", f"#act-{task_id}"), (f"/tasks/{task_id}", "#act")):
            page = who.open(path)
            expect(page.locator(button)).to_be_attached()
            expect(page.locator(button)).to_be_visible(visible=decides)
        expect(page.get_by_text("A clinician does this.")).to_be_visible(visible=not decides)
    context.close()


def test_text_of_the_agent_is_shown_and_never_run(stage: Stage, doctor: Person) -> None:
    page = doctor.open(f"/tasks/{stage.worked_on()}/runs/run2")
    page.locator("summary", has_text="While training").click()
    expect(page.locator("pre.log")).to_contain_text("<script>alert(1)</script>")
    assert page.locator("pre script").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_serious_fault_on_any_page(
    stage: Stage, chromium: Browser, server: Server, session: StorageState, scheme: str, width: int
) -> None:
    tasks = _one_of_each(stage)
    size = {"width": width, "height": 900}
    context = chromium.new_context(viewport=size, color_scheme=scheme, storage_state=session)  # type: ignore[arg-type]
    context.set_default_timeout(30_000)
    person = Person(context, server)
    person.open("/sign-in")
    assert person.faults() == []
    paths = ["/", "/?show=done&q=nothing", f"/tasks/{tasks['worked']}", f"/tasks/{tasks['worked']}/steer"]
    paths += [f"/tasks/{tasks['worked']}/runs/run1", f"/tasks/{tasks['waiting']}", f"/tasks/{tasks['waiting']}/confirm"]
    paths += [
        f"/tasks/{tasks['traded']}/choose",
        f"/tasks/{tasks['asks']}/approve",
        f"/tasks/{tasks['done']}",
        f"/tasks/{tasks['done']}/report",
    ]
    paths += ["/queue", "/datasets", "/datasets/moles", "/datasets/moles/pictures", f"/tasks/{tasks['done']}/ledger"]
    for path in paths:
        page = person.open(path)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        page.wait_for_timeout(200)
        assert person.faults() == [], path
        assert person.sees_no_side_scroll(), path
    context.close()
    assert person.elsewhere == [] and person.complaints == []


def _one_of_each(stage: Stage) -> dict[str, str]:
    """Return tasks in several states, made once."""
    stage.worked_on()
    if "done" not in stage.made:
        stage.made["waiting"] = stage.task("Axe: " + REQUEST, confirm_spec="required")
        stage.made["traded"] = stage.traded("Axe: which of these two models?")
        stage.made["asks"] = stage.task("Axe: final test, please.", confirm_finalize="required")
        stage.run(stage.made["asks"])
        stage.services.store.ask_finalize(stage.made["asks"], "run0")
        stage.made["done"] = stage.task("Axe: a done one.")
        stage.run(stage.made["done"])
        stage.evaluated(stage.made["done"])
    return stage.made
