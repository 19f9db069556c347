"""Health, readiness and metrics."""

from __future__ import annotations

import logging
import shutil
from typing import NamedTuple

import pytest

from clinloop.web import readiness

from .conftest import Web


class Usage(NamedTuple):
    free: int


def test_the_metrics_count_requests_tools_runs_and_tasks_and_name_nobody(web: Web) -> None:
    task = web.codex.begin()
    web.codex.refused("read_validation", task_id="moles-000000")
    web.clinician.get(f"/tasks/{task}/nothing")
    text = web.custodian.get("/metrics").text
    assert 'clinloop_http_requests_total{method="POST",route="/mcp",status="200"} 2.0' in text
    assert 'clinloop_tool_calls_total{outcome="ok",tool="init_task"} 1.0' in text
    assert 'clinloop_tool_calls_total{outcome="refused",tool="read_validation"} 1.0' in text
    assert 'clinloop_tasks{status="open"} 1.0' in text
    assert "clinloop_runs_active 0.0" in text and "clinloop_runs_queued 0.0" in text and "clinloop_sessions 0.0" in text
    assert "clinloop_state_free_bytes" in text
    assert "clinloop_http_request_seconds_bucket" in text and "clinloop_tool_call_seconds_bucket" in text
    for hidden in (task, "moles", "codex", "Weber", "IT"):
        assert hidden not in text.replace("WAIT", "")


def test_the_metrics_are_for_custodians(web: Web) -> None:
    assert web.agent("IT").get("/metrics").status_code == 200  # as Prometheus reads them
    assert web.clinician.get("/metrics").status_code == 403
    assert web.codex.get("/metrics").status_code == 403
    assert web.nobody().get("/metrics").status_code == 303


def test_a_method_or_path_of_a_client_makes_no_new_series(web: Web) -> None:
    person = web.custodian
    for number in range(5):
        person.request(f"BREW{number}", f"/no/such/{number}")
    text = person.get("/metrics").text
    assert "BREW" not in text and "/no/such" not in text


def test_a_ready_server_says_so_to_everybody(web: Web) -> None:
    answer = web.nobody().get("/readyz")
    assert (answer.status_code, answer.text) == (200, "ready\n")
    assert web.nobody().get("/healthz").text == "ok\n"


def test_a_full_disk_or_a_lost_store_is_not_ready_and_no_path_is_shown(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: object) -> Usage:
        return Usage(1 << 20)

    monkeypatch.setattr(readiness.shutil, "disk_usage", full)
    answer = web.nobody().get("/readyz")
    assert answer.status_code == 503
    assert answer.text == "disk: 0.0 GiB are free, at least 1 are needed\n"
    monkeypatch.setattr(readiness, "_STORE_S", 0.0)
    web.app.state.readiness._kept = (0.0, [])
    shutil.rmtree(web.services.settings.state)
    with caplog.at_level(logging.CRITICAL):
        answer = web.nobody().get("/readyz")
    assert answer.status_code == 503
    assert "store: it cannot be read and written" in answer.text
    assert str(web.services.settings.state) not in answer.text


def test_a_server_without_a_sandbox_is_not_ready(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    from clinloop.errors import SandboxUnavailable

    def none(*_: object, **__: object) -> None:
        raise SandboxUnavailable("/some/path is missing")

    monkeypatch.setattr(readiness.backends, "choose", none)
    answer = web.nobody().get("/readyz")
    assert (answer.status_code, answer.text) == (503, "sandbox: none can be used; clinloop doctor says why\n")
