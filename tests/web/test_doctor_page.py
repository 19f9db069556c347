"""The doctor's page says what `clinloop doctor` says."""

from __future__ import annotations

import re
import threading

from clinloop import doctor
from clinloop.access import own_client
from clinloop.web.measured import Measurement

from .conftest import Web


def until_found(web: Web) -> str:
    custodian, page = web.custodian, ""
    for _ in range(60):
        page = custodian.get("/doctor").text
        if "What is installed and enforced" in page:
            return page
    raise AssertionError(page)


def test_the_page_shows_each_row_of_the_doctor_and_a_level_for_each_connection(web: Web) -> None:
    page = re.sub(r"\s+", " ", until_found(web))
    found = doctor.find(web.services, doctor.Tried(own_client(), "stdio", ()))
    for row in found.rows:
        assert row.what.strip() in page, row
    assert web.services.store.key_fingerprint in page
    assert "on standard input and output" in page and "over the service&#39;s socket" in page
    assert "What a client that runs as" in page


def test_only_a_custodian_sees_it(web: Web) -> None:
    assert web.clinician.get("/doctor").status_code == 403
    assert web.codex.get("/doctor").status_code == 403


def test_a_slow_measurement_is_made_once_however_many_look_and_again_when_asked() -> None:
    calls: list[int] = []
    gate = threading.Event()

    def measure() -> int:
        calls.append(1)
        gate.wait(10)
        return len(calls)

    measurement = Measurement(measure)
    assert [measurement.read(wait_s=0).value for _ in range(5)] == [None] * 5 and measurement.read(wait_s=0).is_running
    gate.set()
    assert measurement.read(wait_s=10).value == 1 and measurement.read().value == 1
    assert measurement.read(again=True, wait_s=10).value == 2 and len(calls) == 2


def test_a_measurement_that_fails_says_so_and_keeps_the_last_value() -> None:
    outcomes: list[object] = [1, OSError("disk"), 3]

    def measure() -> object:
        outcome = outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    measurement = Measurement(measure)
    assert measurement.read(wait_s=10).value == 1
    failed = measurement.read(again=True, wait_s=10)
    assert (failed.value, failed.failure) == (1, "OSError")
    assert measurement.read(again=True, wait_s=10)[::3] == (3, "")
