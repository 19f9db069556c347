"""Which backend is chosen, and that nothing runs without isolation unless somebody said so."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from clinloop.errors import SandboxUnavailable
from clinloop.sandbox import backends
from clinloop.sandbox.base import Exit, Mount, Probe
from clinloop.sandbox.checks.bench import Bench
from clinloop.sandbox.unisolated import Unisolated
from clinloop.settings import Settings


def _settings(folder: Path, **given: object) -> Settings:
    return Settings.model_validate({"state": folder / "state", "cache": folder / "cache", **given})


class Broken:
    """A backend that isolates but cannot run here."""

    name, isolates, needs_built_image = "broken", True, False

    def __init__(self, settings: Settings) -> None:
        pass

    def probe(self) -> Probe:
        return Probe(False, "The kernel says no.", "Ask it kindly.", {})


@pytest.fixture
def only_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("broken_backend")
    module.__dict__["Broken"] = Broken
    monkeypatch.setitem(sys.modules, "broken_backend", module)
    monkeypatch.setattr(backends, "BACKENDS", {"broken": "broken_backend:Broken", "none": backends.BACKENDS["none"]})


def test_auto_refuses_with_the_fix_when_nothing_isolates(only_broken: None, tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match=r"The kernel says no\. Ask it kindly\."):
        backends.choose(_settings(tmp_path))


def test_auto_falls_back_to_none_only_when_that_was_accepted(only_broken: None, tmp_path: Path) -> None:
    assert backends.choose(_settings(tmp_path), accept_no_isolation=True).sandbox.name == "none"


def test_none_needs_the_flag(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="--i-accept-no-isolation"):
        backends.choose(_settings(tmp_path, sandbox="none"))
    assert backends.choose(_settings(tmp_path, sandbox="none"), accept_no_isolation=True).sandbox.isolates is False


@pytest.mark.parametrize("name", backends.BACKENDS)
def test_every_backend_has_the_name_it_is_registered_by(name: str, tmp_path: Path) -> None:
    assert backends.load_backend(name, _settings(tmp_path)).name == name


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="auto, docker, bubblewrap, none"):
        backends.load_backend("dokcer", _settings(tmp_path))


def test_unisolated_job_finds_its_mounts_by_variable_argument_and_folder(tmp_path: Path) -> None:
    bench = Bench(Unisolated(_settings(tmp_path)), tmp_path)
    table, runtime, code = tmp_path / "table.csv", tmp_path / "runtime", tmp_path / "code"
    table.write_text("table")
    for folder, text in ((runtime, "found = 'runtime'"), (code, "print('code')")):
        folder.mkdir()
        (folder / "module.py").write_text(text)
    python = bench.job().argv[0]
    script = "import os, sys, module; print(module.found, open(os.environ['CLINLOOP_DATA'] + '/cases.csv').read(), os.path.isdir(sys.argv[1]))"
    mounts = (Mount(table, "/data/cases.csv"), Mount(runtime, "/runtime"), Mount(code, "/workspace"))
    ended = bench.run(argv=(python, "-c", script, "/runtime"), mounts=mounts, environment={"PYTHONPATH": "/runtime"})
    assert (ended.exit, ended.log) == (Exit(0), "runtime table True\n")
    assert bench.run(argv=(python, "/workspace/module.py"), mounts=mounts).log == "code\n"
