"""The segmentation template in its real Python environment, on drawn pictures, with a fake server that answers submissions."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from clinloop.resources import resource
from clinloop.sandbox.environment import ensure_environment
from clinloop.sandbox.recipes import find_recipe
from clinloop.settings import load_settings

from .drawn import Run, Truth, draw, masks_in, mean_dice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = tomllib.loads((resource("task_templates") / "segmentation/trajectory/masks.toml").read_text(encoding="utf-8"))[
    "step"
]


@pytest.fixture(scope="module")
def python() -> str:
    recipe = find_recipe("cpu", (resource("sandbox_images"),))
    return ensure_environment(recipe, load_settings().cache, report=lambda line: None).python


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Truth]]:
    """Folder of a drawn dataset, and what its validation cases show."""
    folder = tmp_path_factory.mktemp("drawn") / "data"
    return folder, draw(folder, images=180)


@pytest.fixture
def run(tmp_path: Path, drawn: tuple[Path, dict[str, Truth]], python: str) -> Run:
    return Run(tmp_path / "run", "segmentation", "segmentation", drawn[0], python)


@pytest.fixture
def score(drawn: tuple[Path, dict[str, Truth]]) -> Callable[[Path], float]:
    return partial(mean_dice, truths=drawn[1])


def test_a_smoke_test_goes_through_everything_and_predict_agrees_with_the_best_submission(
    run: Run, score: Callable[[Path], float]
) -> None:
    trained = run.train(score)
    assert trained.returncode == 0, trained.stdout
    predicted = run.predict()
    assert predicted.returncode == 0, predicted.stdout

    history = run.history()
    assert (history[0]["event"], history[-1]["event"]) == ("start", "end")
    assert history[0]["weights"] == "random initialisation"
    assert (history[0]["train"], history[0]["without_mask"]) == (105, 15)
    best = int(np.argmax(run.scores())) + 1
    submitted, found = masks_in(run.out / f"validation/{best:04d}.json"), masks_in(run.folder / "predictions.json")
    assert submitted.keys() == found.keys()
    assert (
        sum((submitted[case_id] != found[case_id]).sum() for case_id in found) < 20
    )  # pixels, of a third of a million


def test_a_full_run_uses_its_time_ends_by_itself_and_finds_the_blobs(run: Run, score: Callable[[Path], float]) -> None:
    trained = run.train(score, mode="full", seconds=45)
    assert trained.returncode == 0, trained.stdout
    assert run.history()[-1]["event"] == "end"
    assert 20 < run.history()[-1]["t"] < 45
    assert max(run.scores()) > 0.7  # nothing at all scores 0.5, because half of the pictures hold nothing


def test_two_processes_train_one_network_and_one_of_them_validates_and_saves(
    run: Run, score: Callable[[Path], float]
) -> None:
    trained = run.train(score, gpus=2)  # of which there are none: the processes meet over gloo, on the CPU
    assert trained.returncode == 0, trained.stdout
    history = run.history()
    assert (history[0]["processes"], history[-1]["event"]) == (2, "end")
    assert [line["event"] for line in history].count("start") == 1
    assert run.predict().returncode == 0


def test_all_scripted_edits_together_pass_a_smoke_test(run: Run, score: Callable[[Path], float]) -> None:
    for step in STEPS:
        run.edit(step)
    trained = run.train(score)
    assert trained.returncode == 0, trained.stdout
    predicted = run.predict()
    assert predicted.returncode == 0, predicted.stdout
