"""benchmarks/templates.py finds the training loop of every template that it measures, and feeds nothing but its batch."""

from __future__ import annotations

import ast
import importlib.util
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clinloop.resources import resource

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "templates.py"
TRAINED = sorted(
    path.parent.name
    for path in resource("task_templates").glob("*/train.py")
    if "import torch" in path.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_templates", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", TRAINED)
def test_every_template_with_a_loop_of_its_own_is_measured(bench: ModuleType, name: str) -> None:
    source = (resource("task_templates") / name / "train.py").read_text(encoding="utf-8")
    plan = bench.PLANS[name]
    text = ast.unparse(bench.instrumented(source, plan))
    assert text.count("_bench.tick(") == 1 and text.count("_bench.feed(") == 1
    assert f"{plan.image} = _bench.feed({plan.image})" in text
    for on_gpu in (False, True):
        known = bench.constants(source, on_gpu)
        assert known["BATCH"] > 0 and min(bench.input_size(known)) > 0


LOOP = """
for step in range(1000):
    y = draw()
    x, y = change(draw(), y)
    seen.append(x)
    total = x
"""


@pytest.mark.parametrize("mode", ["real", "limit", "plain"])
def test_the_loop_is_fed_from_its_second_step_on_and_ends_when_it_was_measured(bench: ModuleType, mode: str) -> None:
    drawn, seen = itertools.count(), []
    counter = bench.Bench(mode, 0.02, 3, lambda: ([f"plain {n}"] for n in itertools.count()), lambda: None)
    names: dict[str, Any] = {
        "draw": lambda: [next(drawn)],
        "change": lambda x, y: (x, y),
        "seen": seen,
        "_bench": counter,
    }
    tree = bench.instrumented(LOOP.replace("range(1000)", "iter(int, 1)"), bench.Plan("", "x", ("y",)))
    with pytest.raises(Exception) as ended:
        exec(compile(tree, "loop", "exec"), names)
    assert type(ended.value).__name__ == "_Measured"
    assert counter.measured_s >= 0.02 and counter.batch == 1 and counter.steps == len(seen) > 3
    first = [1]
    expected = {"real": [[3], [5]], "limit": [first, first], "plain": [["plain 0"], ["plain 1"]]}
    assert [seen[0], *seen[1:3]] == [first, *expected[mode]]


def test_a_loop_whose_batch_has_another_name_is_said_not_measured_wrongly(bench: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"no loop of this train\.py assigns pixels"):
        bench.instrumented(LOOP, bench.Plan("", "pixels"))


def test_ratios_leave_out_what_failed(bench: ModuleType) -> None:
    found = {"real": {"images_per_s": 95.0}, "limit": {"images_per_s": 100.0}, "plain": {"problem": "no"}, "batch": 64}
    assert bench.ratios(found) == {"of_limit": 0.95}
