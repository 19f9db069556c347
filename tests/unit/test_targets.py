"""What `clinloop reproduce` plays: every contract fits its public data set, and the paper's numbers are the paper's."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinloop.datasets.case import TaskType
from clinloop.datasets.dataset import Dataset, DatasetRecord
from clinloop.paper import EVOLUTION, NUMBERS, TASK_PROTOCOL, Quoted
from clinloop.spec import TaskSpec, freeze
from clinloop.standin import STANDINS
from clinloop.targets import TARGETS, TASK_NAMES, TaskName
from clinloop.tasks import spec_facts
from clinloop.templates import find

PUBLIC: dict[str, tuple[list[str], TaskType, list[str]]] = {
    "isic2019": (["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"], "classification", []),
    "grazpedwri": (["no fracture", "fracture"], "detection", ["fracture"]),
    "neatx": (["no drain", "drain"], "classification", []),
    "siim_acr": (["no pneumothorax", "pneumothorax"], "segmentation", ["pneumothorax"]),
}
"""Classes, kind of the strongest truth and targets as the layouts give them (their own tests say so)."""


def dataset(standin: str, attributes: list[str]) -> Dataset:
    """A dataset of which nothing is stored but what a contract is checked against."""
    classes, task_type, targets = PUBLIC[standin]
    record = DatasetRecord.model_construct(
        classes=classes,
        task_type=task_type,
        targets=targets,
        attributes=attributes,
        counts={"val": dict.fromkeys(classes, 50)},
    )
    return Dataset(Path(), record)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_the_contract_of_a_target_fits_its_data_and_reports_what_the_paper_reports(name: TaskName) -> None:
    target = TARGETS[name]
    attributes = [target.annotation.column] if target.annotation else []
    spec = freeze(
        TaskSpec.model_validate({**target.spec, "budget": "demo"}),
        spec_facts(dataset(target.source.standin, attributes)),
    )
    assert set(NUMBERS[name]) <= set(spec.reported_metrics)
    assert find(target.template, spec.task_type).name == target.template
    assert target.source.standin in STANDINS


def test_every_value_of_the_paper_lies_in_its_interval() -> None:
    values = [
        value for own in NUMBERS.values() for metric in own.values() for value in (metric.initial, metric.refined)
    ]
    given = [value for value in values if value is not None]
    assert len(given) > 25
    assert all(0 <= value.value <= 1 for value in given)
    with_interval: list[Quoted] = [value for value in given if value.low is not None]
    assert len(with_interval) > 15
    assert all(value.low <= value.value <= value.high for value in with_interval)  # type: ignore[operator]


def test_figure_4_of_the_paper_ends_at_its_best_run() -> None:
    values = [value for _, value in EVOLUTION if value is not None]
    assert [run for run, _ in EVOLUTION] == list(range(1, 18))
    assert values[-1] == max(values) == 0.873


def test_every_task_names_how_the_paper_did_it() -> None:
    for name in TASK_NAMES:
        assert {"data", "split", "seed network", "primary metric"} <= set(TASK_PROTOCOL[name])


def test_a_task_comes_after_the_one_whose_model_it_needs() -> None:
    order = list(TARGETS)
    for name, target in TARGETS.items():
        if target.annotation is not None:
            assert order.index(target.annotation.task) < order.index(name)


def test_tasks_on_the_same_public_data_draw_the_same_stand_in() -> None:
    for name in PUBLIC:
        assert len({target.source.images for target in TARGETS.values() if target.source.standin == name}) == 1
