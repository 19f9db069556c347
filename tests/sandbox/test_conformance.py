"""Every backend keeps every promise of the conformance suite that applies to it."""

from pathlib import Path

import pytest

from clinloop.sandbox.backends import BACKENDS, load_backend
from clinloop.sandbox.conformance import CHECKS, Check, run_check, why_not
from clinloop.settings import Settings

pytestmark = pytest.mark.sandbox


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name.replace(" ", "_"))
def test_backend_keeps_its_promise(name: str, check: Check, tmp_path: Path) -> None:
    sandbox = load_backend(name, Settings(state=tmp_path / "state", cache=tmp_path / "cache"))
    if reason := why_not(check, sandbox):
        pytest.skip(reason)
    folder = tmp_path / "check"
    folder.mkdir(mode=0o700)
    run_check(check, sandbox, folder)
    assert list((tmp_path / "state" / "sandboxes").iterdir()) == []
