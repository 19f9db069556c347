"""What `clinloop reproduce` plays: every contract fits the data that its stand-in gives, and the paper's numbers are the paper's."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinloop import ingestion, tasks
from clinloop.datasets import vault
from clinloop.datasets.attributes import add_attribute
from clinloop.datasets.dataset import Annotation, Dataset
from clinloop.paper import EVOLUTION, NUMBERS, TASK_PROTOCOL, Quoted
from clinloop.services import Services
from clinloop.settings import load_settings
from clinloop.spec import TaskSpec
from clinloop.standin import STANDINS
from clinloop.targets import TARGETS, TASK_NAMES, TaskName
from clinloop.templates import all_templates


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Services:
    """A state folder with every dataset that a target names, drawn small."""
    folder = tmp_path_factory.mktemp("targets")
    services = Services(load_settings(folder / "state", sandbox="none"), accept_no_isolation=True)
    for target in TARGETS.values():
        source = target.source
        if source.dataset in Dataset.list_names(services.settings.state):
            continue
        if not (folder / source.standin).exists():
            STANDINS[source.standin](folder / source.standin, images=240, seed=3)
        ingestion.add(
            services, folder / source.standin, source.dataset, layout=source.standin, cache_px=(32,), **source.ingest
        )
    return services


@pytest.mark.parametrize("name", TASK_NAMES)
def test_the_contract_of_a_target_fits_its_data(drawn: Services, name: TaskName) -> None:
    target = TARGETS[name]
    if target.template not in {template.name for template in all_templates()}:
        pytest.skip(f"there is no template {target.template} yet")
    if target.annotation is not None:
        _annotated(drawn, target.source.dataset, target.annotation.column)
    spec = TaskSpec.model_validate({**target.spec, "budget": "demo"})
    task = tasks.create(
        drawn, dataset_name=target.source.dataset, request=target.request, spec=spec, template=target.template
    )
    assert task.status == "open"
    assert set(NUMBERS[name]) <= set(task.spec.reported_metrics)  # what the paper reports, we report


def _annotated(services: Services, dataset_name: str, column: str) -> None:
    """Give a dataset an attribute as `annotation` does, without a model."""
    dataset = Dataset.load(services.settings.state, dataset_name)
    cases = [*dataset.cases(), *vault.open_test(dataset.folder)]
    values = {case.case_id: f"{at % 10 / 10:.4f}" for at, case in enumerate(cases)}
    about = Annotation(
        column=column, task="none", run="run0", class_name=column, checkpoint_sha256="0" * 64, overlap="", is_clean=True
    )
    add_attribute(dataset, cases, column, values, about)


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


def test_a_folder_is_drawn_for_each_public_data_set_once(tmp_path: Path) -> None:
    sources = {target.source.dataset: target.source for target in TARGETS.values()}
    images = {
        source.standin: {one.images for one in sources.values() if one.standin == source.standin}
        for source in sources.values()
    }
    assert all(len(numbers) == 1 for numbers in images.values())
