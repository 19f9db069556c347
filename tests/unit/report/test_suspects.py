"""A shortcut that was drawn into images is the first suspect; without one nothing is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from clinloop.datasets.acquisition import read_acquisition
from clinloop.datasets.dataset import Dataset
from clinloop.datasets.ingest import IngestOptions, ingest
from clinloop.report.suspecting import available, look_for_suspects
from clinloop.report.suspects import MAX_SUSPECTS, Available, rank
from clinloop.scoring import service
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.shortcuts import NO_EMBEDDINGS, Followed, Shortcuts, Slice
from clinloop.scoring.truth import TruthCase

SCHEME = Scheme(("benign", "malignant"), positive="malignant")
Model = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def add(folder: Path, name: str, *, share: float) -> Dataset:
    """Add 2 × 90 small pictures; `share` of the malignant and 1 - share of the benign have a bright border."""
    rng = np.random.default_rng(4)
    for label in SCHEME.classes:
        (folder / name / label).mkdir(parents=True)
        for i in range(90):
            blobs = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize(
                (48, 48), Image.Resampling.BICUBIC
            )
            pixels = np.array(blobs)
            has_border = rng.random() < (share if label == "malignant" else 1 - share)
            inside = pixels[2:-2, 2:-2].copy()
            pixels[:] = 250 if has_border else 60
            pixels[2:-2, 2:-2] = inside
            Image.fromarray(pixels).save(folder / name / label / f"{i}.png")
    options = IngestOptions(cache_px=(16,), val=0.5, test=0.1)
    ingest(folder / name, name, state=folder / "state", key=b"k" * 32, options=options)
    return Dataset.load(folder / "state", name)


def suspects_of(dataset: Dataset, folder: Path, model: Model, embeddings: bytes = b""):
    """Return the suspects of a model that sees the class and whether there is a border."""
    val = dataset.cases("val")
    truth = [TruthCase(case.case_id, case.group, case.label) for case in val]
    y = np.array([float(case.label == "malignant") for case in val])
    border = np.array([float(np.asarray(Image.open(case.image))[0, 0, 0] > 128) for case in val])
    p = 1 / (1 + np.exp(-model(y, border)))
    rows = {case.case_id: (float(1 - value), float(value)) for case, value in zip(val, p, strict=True)}
    predictions = folder / "predictions"
    predictions.write_bytes(service.probabilities_csv(rows, SCHEME.classes))
    files = folder / "embeddings.npy", folder / "embeddings.txt"
    if embeddings:
        files[0].write_bytes(embeddings)
        files[1].write_text("".join(f"{case.case_id}\n" for case in val), encoding="utf-8")
    return look_for_suspects(dataset, truth, predictions, files, scheme=SCHEME)


@pytest.fixture(scope="module")
def bordered(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return add(tmp_path_factory.mktemp("bordered"), "moles", share=0.9)


def noise(seed: int, like: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=len(like))


def test_a_border_that_was_drawn_into_positives_and_that_the_model_follows_is_the_first_suspect(
    bordered: Dataset, tmp_path: Path
) -> None:
    model: Model = lambda y, border: y - 0.5 + 3 * border + noise(0, y)  # noqa: E731
    found, note = suspects_of(bordered, tmp_path, model)
    first = found[0]
    assert first.kind == "probe" and "border" in first.name and first.is_followed and len(found) <= MAX_SUSPECTS
    assert first.auc_alone is not None and first.auc_alone > 0.8
    assert first.partial_r is not None and abs(first.partial_r) > 0.3 and first.p is not None and first.p < 0.05
    assert "among cases of the same class its probability of malignant is higher" in first.sentence
    assert "no experiment" in first.caveat and NO_EMBEDDINGS in note
    assert any("Border, corners, exposure" in warning for warning in bordered.audit.warnings)


def test_a_border_that_the_model_ignores_is_named_as_there_to_be_learned_and_not_as_followed(
    bordered: Dataset, tmp_path: Path
) -> None:
    found, _ = suspects_of(bordered, tmp_path, lambda y, _: 3 * y + noise(1, y))
    assert found and not any(suspect.is_followed for suspect in found)
    assert "border" in found[0].name and "does not prove that it ignores it" in found[0].caveat


def test_without_a_shortcut_in_the_pictures_nothing_is_named(tmp_path: Path) -> None:
    dataset = add(tmp_path, "plain", share=0.5)
    assert available(dataset) == {}
    found, note = suspects_of(dataset, tmp_path, lambda y, border: y + 2 * border + noise(2, y))
    assert found == () and "proves nothing" in note
    assert not any("Border, corners" in warning for warning in dataset.audit.warnings)


def test_hostile_embeddings_cost_a_report_its_slices_and_nothing_else(bordered: Dataset, tmp_path: Path) -> None:
    found, note = suspects_of(
        bordered, tmp_path, lambda y, border: y + 3 * border + noise(3, y), embeddings=b"PK\x03\x04"
    )
    assert found and found[0].is_followed and "no valid .npy header" in note


def test_the_table_of_acquisition_holds_no_test_case(bordered: Dataset) -> None:
    assert set(read_acquisition(bordered.folder)) == {case.case_id for case in bordered.cases()}


def test_what_is_followed_comes_before_slices_and_those_before_what_was_only_there() -> None:
    facts = [
        Followed(name="sex", level="f", class_name="malignant", partial_r=0.2, p=0.01, n=90),
        Followed(name="age", level="", class_name="malignant", partial_r=0.9, p=0.5, n=90),
        Followed(name="weight", level="", class_name="malignant", partial_r=0.05, p=0.001, n=90),
        Followed(name="width", level="", class_name="malignant", partial_r=0.3, p=0.01, n=90, alike=("height",)),
        Followed(name="height", level="", class_name="malignant", partial_r=0.29, p=0.01, n=90, alike=("width",)),
    ]
    slices = [
        Slice(number=1, n=30, groups=30, error=0.6, error_elsewhere=0.1, p=0.01, examples=("a",)),
        Slice(number=2, n=30, groups=30, error=0.9, error_elsewhere=0.1, p=0.2),
    ]
    there = {
        "sex": Available("attribute", 0.7),
        "age": Available("attribute", 0.95),
        "weight": Available("attribute", 0.9),
        "width": Available("size", 0.7),
        "height": Available("size", 0.7),
    }
    found = rank(there, Shortcuts(followed=facts, slices=slices))
    assert [suspect.name for suspect in found] == [
        "width",
        "attribute sex",
        "slice 1",
        "attribute age",
        "attribute weight",
    ]
    assert "Nearly the same on these pictures: height." in found[0].sentence
    assert found[2].strength == pytest.approx(0.5) and found[2].examples == ("a",)
    assert [suspect.is_followed for suspect in found] == [True, True, True, False, False]


def test_a_dataset_without_the_table_of_acquisition_and_a_fault_still_leave_a_report(
    bordered: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinloop.report.suspecting.read_acquisition", lambda _: {})
    found, note = suspects_of(bordered, tmp_path, lambda y, _: y)
    assert found and "could not be computed" in found[0].sentence and not found[0].is_followed
    assert note.startswith("Looked for among 0 facts")
    monkeypatch.setattr("clinloop.report.suspecting.read_acquisition", lambda _: {"another case": {}})
    assert suspects_of(bordered, tmp_path, lambda y, _: y) == (
        (),
        "Shortcuts were not looked for: a fault of the server; its log says more.",
    )
