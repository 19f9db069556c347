"""`clinloop reproduce` from its targets to its tables, on two small tasks of which one needs the other's model."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from clinloop import reproduce
from clinloop.agent import Step
from clinloop.datasets.dataset import Dataset
from clinloop.errors import BadInput
from clinloop.targets import Drains, Source, Target, TaskName

from ..conftest import draw_class_folders

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(900)]

STEP = Step(
    name="longer",
    hypothesis="The regression has not converged after sixty epochs, and more of them cost nothing.",
    edits=[{"operation": "replace", "path": "train.py", "old": "EPOCHS = 60", "new": "EPOCHS = 400"}],
)


def target(dataset: str, spec: dict[str, Any], annotation: Drains | None = None) -> Target:
    return Target(
        title=f"a small task on {dataset}",
        source=Source(dataset, "class_folders", 60),
        template="linear",
        trajectory="none",
        request="Tell these two kinds of moles apart for me, please.",
        spec={"objective": "Tell two kinds of moles apart.", **spec},
        annotation=annotation,
    )


TARGETS: dict[TaskName, Target] = {
    "drain": target("drains", {"target_classes": ["keratosis", "nevus"], "positive_class": "nevus"}),
    "pneumothorax": target(
        "films",
        {
            "target_classes": ["keratosis", "melanoma"],
            "positive_class": "melanoma",
            "primary_metric": "auc_melanoma",
            "reported_metrics": ["auc_melanoma", "partial_r_drain", "raw_r_drain", "fp_share_drain"],
            "confounders": [{"attribute": "drain", "why": "it comes with the disease"}],
        },
        Drains("drain", "drain"),
    ),
}
Play = Callable[..., dict[TaskName, dict[str, Any]]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Plays tasks into one folder, with the small targets in place of the paper's."""

    def draw(folder: Path, *, images: int, seed: int, progress: object) -> None:
        draw_class_folders(folder, per_class=images, seed=seed)

    monkeypatch.setattr(reproduce, "TARGETS", TARGETS)
    monkeypatch.setattr(reproduce, "STANDINS", {"class_folders": draw})
    monkeypatch.setattr(reproduce, "read_trajectory", lambda template, name: [STEP])

    def play(*tasks: TaskName, **changes: Any) -> dict[TaskName, dict[str, Any]]:
        given: dict[str, Any] = {"preset": "demo", "data": {}, **changes}
        request = reproduce.Request(tasks, tmp_path / "target", **given)
        return reproduce.play(request, sandbox="none", accept=True, console=Console(file=io.StringIO()))

    return play


def test_a_task_that_needs_a_model_plays_the_helper_first_labels_its_data_and_draws_figure_5(
    play: Play, tmp_path: Path
) -> None:
    tables = play("pneumothorax")

    folder = tmp_path / "target"
    assert list(tables) == ["drain", "pneumothorax"]
    dataset = Dataset.load(folder / "state", "films-standin")
    assert [made.task for made in dataset.record.annotations] == [tables["drain"]["task_id"]]
    assert "drain" in dataset.attributes
    figures = {path.name for path in (folder / "pneumothorax").glob("*.png")}
    assert figures == {"figure-3.png", "figure-4.png", "figure-5.png"}
    everything = json.loads((folder / "tables.json").read_text(encoding="utf-8"))["tasks"]
    assert everything == tables
    assert any(row["name"] == "partial_r_drain" and row["paper"] for row in tables["pneumothorax"]["metrics"])

    again = play("pneumothorax")  # everything is there: nothing is played, drawn, read or labelled again
    assert again == {"pneumothorax": tables["pneumothorax"]}
    assert json.loads((folder / "tables.json").read_text(encoding="utf-8"))["tasks"] == tables

    with pytest.raises(BadInput, match=r"made of .*60.*, not of .*90"):
        play("pneumothorax", images=90)


def test_real_films_are_not_labelled_by_a_model_of_drawn_ones(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = {**TARGETS, "drain": Target(**{**vars(TARGETS["drain"]), "source": Source("drains", "csv_manifest", 60)})}
    monkeypatch.setattr(reproduce, "TARGETS", real)
    with pytest.raises(BadInput, match="a model of drawn films says nothing of real ones"):
        play("pneumothorax", data={"class_folders": tmp_path})


def test_a_path_alone_is_refused_where_the_tasks_need_several_data_sets(tmp_path: Path) -> None:
    assert reproduce.parse_data([str(tmp_path)], ["isic8", "mel-nv"]) == {"isic2019": tmp_path}
    named = [f"siim_acr={tmp_path}", f"neatx={tmp_path}"]
    assert reproduce.parse_data(named, ["pneumothorax"]) == {"siim_acr": tmp_path, "neatx": tmp_path}
    with pytest.raises(BadInput, match="say which one it is: grazpedwri=PATH, isic2019=PATH"):
        reproduce.parse_data([str(tmp_path)], ["isic8", "wrist"])


def test_tasks_are_played_in_an_order_in_which_each_finds_what_it_needs() -> None:
    assert reproduce.parse_tasks(["pneumothorax", "isic8", "drain", "isic8"]) == ("isic8", "drain", "pneumothorax")
    assert len(reproduce.parse_tasks(["all"])) == 6
