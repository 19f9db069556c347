"""What a layout noted reaches agents without its counts: those include images of the test set."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinloop.datasets.dataset import Dataset
from clinloop.datasets.findings import without_counts
from clinloop.datasets.ingest import ingest
from clinloop.datasets.vault import custodian_audit
from clinloop.standin import grazpedwri


@pytest.mark.parametrize(
    ("note", "shown"),
    [
        (
            "12 of 1,200 films have no pneumothorax in NIH's table",
            "some of the films have no pneumothorax in NIH's table",
        ),
        (
            "The AO code is not used: 9 image(s) have one, 1 show one.",
            "The AO code is not used: some image(s) have one, some show one.",
        ),
        ("The two annotators differ on 5 of the 10 images.", "The two annotators differ on some of the images."),
        (
            "Masks of 1024² pixels were reduced; YOLO id 3 is fracture, version 1.5.",
            "Masks of 1024² pixels were reduced; YOLO id 3 is fracture, version 1.5.",
        ),
    ],
)
def test_a_note_keeps_its_words_and_loses_its_counts(note: str, shown: str) -> None:
    assert without_counts(note) == shown


def test_counts_over_all_splits_are_for_the_custodian_alone(tmp_path: Path) -> None:
    grazpedwri.write(tmp_path / "wrists", images=60, seed=3)
    ingest(tmp_path / "wrists", "wrists", state=tmp_path / "state", key=b"k" * 32)
    dataset = Dataset.load(tmp_path / "state", "wrists")
    told, known = " ".join(dataset.audit.notes), " ".join(custodian_audit(dataset.folder).notes)
    assert "60 image(s)" in known and "some image(s)" in told and "60 image(s)" not in told
