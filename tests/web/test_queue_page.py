"""The page of the queue."""

from __future__ import annotations

from .browser.stage import Stage
from .conftest import Web


def test_the_queue_shows_who_trains_and_who_waits_with_the_words_of_the_request(web: Web) -> None:
    doctor = web.clinician
    assert "Nothing trains and nothing waits" in doctor.get("/queue").text
    store, stage = web.services.store, Stage(web.services)
    tasks = [stage.task(f"Sort these moles for me, please, number {number}.") for number in range(2)]
    for task in tasks:
        store.reserve_run(
            task_id=task,
            mode="full",
            request_id="queued",
            revision="r1",
            tree_sha256="0" * 64,
            hypothesis="It has to wait.",
            inputs=[],
        )
    page = doctor.get("/queue").text
    assert page.index(tasks[0]) < page.index(tasks[1])
    assert "Number 1" in page and "Number 2" in page and "number 1." in page
    assert web.codex.get("/queue").status_code == 403
