"""A final model labels another dataset: every image gets its probability, its source is on record, and what it has seen before is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcp import Client
from PIL import Image

from clinloop import annotation, ingestion
from clinloop.app import build
from clinloop.datasets import vault
from clinloop.datasets.dataset import Dataset
from clinloop.errors import BadInput, NotNow
from clinloop.services import Services

from ..conftest import CLASSES
from ..mcp.conftest import ERAS, REQUEST, SPEC, Agent

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox]
SICK = {"melanoma": CLASSES["melanoma"], "nevus": CLASSES["nevus"]}


def draw(root: Path, seed: int, n: int = 45) -> Path:
    """Write two classes whose colours are those of two classes of `moles`."""
    generator = np.random.default_rng(seed)
    for name, colour in SICK.items():
        (root / name).mkdir(parents=True)
        for index in range(n):
            pixels = np.clip(
                np.array(colour) + generator.normal(0, 14, 3) + generator.normal(0, 40, (24, 24, 3)), 0, 255
            )
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{name}-{index:03d}.png")
    return root


async def final_task(services: Services, dataset: str = "moles", **spec: Any) -> str:
    """Play a task with the linear template to its end and return its id."""
    async with Client(build(services), mode=ERAS[0]) as client:
        agent = Agent(client)
        chosen = {**SPEC, "target_classes": ["melanoma", "nevus"], **spec}
        task = await agent.call("init_task", dataset=dataset, request=REQUEST, spec=chosen, template="linear")
        await agent.run(task["task_id"])
        await agent.finalize(task["task_id"], "run0")
        return task["task_id"]


def all_cases(services: Services, name: str) -> list[Any]:
    dataset = Dataset.load(services.settings.state, name)
    return [*dataset.cases(), *vault.open_test(dataset.folder)]


async def test_every_image_of_every_split_gets_the_probability_of_the_positive_class(
    services: Services, tmp_path: Path
) -> None:
    ingestion.add(services, draw(tmp_path / "other", seed=5), "other", cache_px=(16,))
    task = await final_task(services, emphasised_classes=[{"class_name": "melanoma", "why": "it can kill"}])

    said = annotation.annotate(services, "other", model_task=task, column="risk")

    cases = all_cases(services, "other")
    assert {case.split for case in cases} == {"train", "val", "test"}
    values = {name: [float(case.attributes["risk"]) for case in cases if case.label == name] for name in SICK}
    assert all(0 <= value <= 1 for own in values.values() for value in own)
    assert np.mean(values["melanoma"]) > np.mean(values["nevus"]) + 0.1  # it is the melanoma's, and it means something
    assert "not a label" in said[0] and task in said[0]


def spy_on_sandboxes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list that gets the splits of the images of each sandbox."""
    seen: list[list[str]] = []
    real = annotation._predict_batch
    monkeypatch.setattr(
        annotation, "_predict_batch", lambda *given: seen.append([case.split for case in given[1]]) or real(*given)
    )
    return seen


async def test_no_sandbox_sees_test_images_together_with_images_of_which_an_agent_reads_the_value(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingestion.add(services, draw(tmp_path / "other", seed=5), "other", cache_px=(16,))
    task, seen = await final_task(services), spy_on_sandboxes(monkeypatch)
    annotation.annotate(services, "other", model_task=task, column="risk")
    assert [set(splits) for splits in seen] == [{"train", "val"}, {"test"}]


async def test_the_source_of_the_attribute_is_in_the_record_the_audit_the_ledger_and_the_sandbox_table(
    services: Services, tmp_path: Path
) -> None:
    ingestion.add(services, draw(tmp_path / "other", seed=5), "other", cache_px=(16,))
    before = Dataset.load(services.settings.state, "other")
    task = await final_task(services)

    annotation.annotate(services, "other", model_task=task, column="risk")

    dataset = Dataset.load(services.settings.state, "other")
    assert dataset.attributes == [*before.attributes, "risk"]
    assert [(made.column, made.task, made.class_name) for made in dataset.record.annotations] == [
        ("risk", task, "nevus")
    ]
    lines = " ".join(dataset.audit_lines())
    assert f"Attribute risk is the probability of 'nevus' by run0 of task {task}" in lines
    assert "patients could not be compared: images of moles are grouped by" in lines
    facts = next(item for item in dataset.audit.attributes if item.name == "risk")
    assert facts.auc_alone is not None and facts.auc_alone > 0.6
    assert (dataset.view / "cases.csv").read_text(encoding="utf-8").splitlines()[0].endswith(",risk")
    row = services.store.ledger("dataset:other")[-1]
    assert (row.event, row.detail["column"], row.detail["task"]) == ("annotated", "risk", task)
    assert vault.verify_commitment(dataset.folder)
    assert not list(dataset.vault.glob("annotating-*"))


async def test_images_that_the_model_was_made_with_are_counted_by_pixels_and_by_look(
    services: Services, tmp_path: Path, class_folders: Path
) -> None:
    other = draw(tmp_path / "other", seed=5)
    dataset = Dataset.load(services.settings.state, "moles")
    stored = {case.image_sha256: case for case in dataset.cases()}
    assert stored
    known = [path for name in SICK for path in sorted((class_folders / name).iterdir())]
    for path in known[:20]:  # the very files
        shutil.copy(path, other / path.parent.name / f"copy-of-{path.name}")
    for path in known[60:90]:  # half a gray level brighter: other pixels, the same look
        image = np.asarray(Image.open(path)).astype(np.int16) + 2
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(other / path.parent.name / f"like-{path.name}")
    ingestion.add(services, other, "other", cache_px=(16,))
    task = await final_task(services)

    annotation.annotate(services, "other", model_task=task, column="risk")

    dataset = Dataset.load(services.settings.state, "other")
    made = dataset.record.annotations[0]
    counts = [int(word) for word in made.overlap.replace(",", "").split() if word.isdigit()]
    n, exact, near = counts[0], counts[1], counts[2]
    assert n == len(dataset.cases())
    assert 5 <= exact <= 20 and 8 <= near <= 30  # those that were test cases of one of the two sets do not count
    assert not made.is_clean
    assert any("may have been learned from these very images" in text for text in dataset.audit.warnings)


async def test_an_annotation_that_was_cut_off_goes_on_with_the_batches_that_it_has(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingestion.add(services, draw(tmp_path / "other", seed=5), "other", cache_px=(16,))
    task = await final_task(services)
    visible = sum(case.split != "test" for case in all_cases(services, "other"))
    monkeypatch.setattr(annotation, "BATCH", -(-visible // 2))

    class CutOff(Exception):
        pass

    def progress(what: str, done: int, total: int) -> None:
        if done >= visible:
            raise CutOff

    with pytest.raises(CutOff):
        annotation.annotate(services, "other", model_task=task, column="risk", progress=progress)
    dataset = Dataset.load(services.settings.state, "other")
    assert "risk" not in dataset.attributes
    kept = sorted((dataset.vault / "annotating-risk").glob("batch-*.json"))
    times = [path.stat().st_mtime_ns for path in kept]
    assert len(kept) == 2

    seen = spy_on_sandboxes(monkeypatch)
    annotation.annotate(services, "other", model_task=task, column="risk")
    assert sum(map(len, seen)) == len(all_cases(services, "other")) - visible
    assert times == sorted(times)
    assert "risk" in Dataset.load(services.settings.state, "other").attributes


async def test_what_cannot_be_annotated_is_refused_with_what_to_do(services: Services, tmp_path: Path) -> None:
    ingestion.add(services, draw(tmp_path / "other", seed=5), "other", cache_px=(16,))
    task = await final_task(services)
    for column in ("Drain", "label", "", "a b", "x" * 40):
        with pytest.raises(BadInput, match="cannot name an attribute"):
            annotation.annotate(services, "other", model_task=task, column=column)
    three = await final_task(services, target_classes=[])
    with pytest.raises(BadInput, match="names none of them"):
        annotation.annotate(services, "other", model_task=three, column="risk")
    annotation.annotate(services, "other", model_task=task, column="risk")
    with pytest.raises(BadInput, match="an attribute risk already"):
        annotation.annotate(services, "other", model_task=task, column="risk")

    async with Client(build(services), mode=ERAS[0]) as client:
        open_task = (
            await Agent(client).call("init_task", dataset="other", request=REQUEST, spec=SPEC, template="linear")
        )["task_id"]
    with pytest.raises(NotNow, match=f"{open_task} is open and has no final model"):
        annotation.annotate(services, "moles", model_task=open_task, column="risk")
    with pytest.raises(NotNow, match=f"Open tasks use dataset other \\({open_task}\\)"):
        annotation.annotate(services, "other", model_task=task, column="more")


async def test_a_model_that_was_changed_after_its_evaluation_labels_nothing(services: Services, tmp_path: Path) -> None:
    ingestion.add(services, draw(tmp_path / "other", seed=5), "other", cache_px=(16,))
    task = await final_task(services)
    checkpoint = services.state.task(task).final / "refined" / "checkpoint"
    checkpoint.chmod(0o600)
    checkpoint.write_bytes(checkpoint.read_bytes() + b" ")
    with pytest.raises(NotNow, match="the frozen checkpoint of refined has changed"):
        annotation.annotate(services, "other", model_task=task, column="risk")


async def test_a_report_on_annotated_data_says_where_the_attribute_comes_from(
    services: Services, tmp_path: Path
) -> None:
    ingestion.add(services, draw(tmp_path / "other", seed=5), "other", cache_px=(16,))
    task = await final_task(services)
    annotation.annotate(services, "other", model_task=task, column="risk")

    second = await final_task(services, "other", target_classes=[])

    report = json.loads((services.state.task(second).report / "report.json").read_text(encoding="utf-8"))
    notes = [item["text"] for item in report["dataset"]["audit"] if item["level"] == "note"]
    assert any(
        f"by run0 of task {task}" in text and "Overlap with what that model was made with" in text for text in notes
    )
    assert any(row["event"] == "annotated" for row in report["ledger"])
    from clinloop.report.verify import verify

    assert verify(services.state.task(second).report).ok
