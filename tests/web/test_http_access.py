"""Who reaches what over HTTP."""

from __future__ import annotations

from .conftest import Web


def test_an_agent_calls_tools_and_people_see_the_page(web: Web) -> None:
    assert web.codex.call("inspect_dataset")["datasets"] == ["moles"]
    task = web.codex.begin()
    assert task in web.clinician.get("/").text
    assert task in web.custodian.get("/").text
    assert "Unknown task_id" in web.claude.refused("read_validation", task_id=task)
    assert web.codex.get("/").status_code == 403
    assert web.nobody().get("/").headers["location"] == "/sign-in"
    assert web.clinician.get("/").status_code == 200
