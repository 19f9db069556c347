"""Fixtures of more than one unit test."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from clinloop.resources import resource


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The runtime of sandboxes, freshly imported."""
    source = resource("sandbox_images") / "runtime" / "clinloop_runtime" / "__init__.py"
    spec = importlib.util.spec_from_file_location("clinloop_runtime", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "clinloop_runtime", module)
    spec.loader.exec_module(module)
    yield module
