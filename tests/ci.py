"""What CI demands beyond a laptop: a test that needs Docker runs there, or fails."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that needs Docker where CI (CLINLOOP_CI=1) would skip it; elsewhere it is skipped with the reason."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("docker") and in_ci():
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where Docker must work: {report.longrepr}"
    return report


def in_ci() -> bool:
    """Return whether this machine must have everything: a missing engine is then a failure."""
    return os.environ.get("CLINLOOP_CI", "") not in ("", "0")
