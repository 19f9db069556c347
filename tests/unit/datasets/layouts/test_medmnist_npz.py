"""MedMNIST files, and other archives of arrays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clinloop.datasets.case import LayoutOptions, LayoutResult
from clinloop.datasets.layouts import choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput


def read(root: Path, layout: str = "auto", **options: Any) -> LayoutResult:
    folder, chosen = Folder(root), LayoutOptions(**options)
    return choose_layout(folder, layout, chosen).layout.read(folder, chosen)


def write(root: Path, name: str = "pneumoniamnist.npz", *, shape: tuple[int, ...] = (28, 28), **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, n in (("train", 12), ("val", 4), ("test", 6)):
        arrays[f"{split}_images"] = rng.integers(0, 255, (n, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    np.savez_compressed(root / name, **(arrays | changes))
    return root


def test_cases_point_into_the_file_with_the_official_splits_and_the_published_names(tmp_path: Path) -> None:
    result = read(write(tmp_path, "pneumoniamnist_224.npz"))
    assert Counter(case.split for case in result.cases) == {"train": 12, "val": 4, "test": 6}
    assert (result.cases[1].source, result.cases[1].label) == ("pneumoniamnist_224.npz#train_images/1", "pneumonia")
    assert result.cases[-1].source == "pneumoniamnist_224.npz#test_images/5"
    assert result.classes == ["normal", "pneumonia"] and result.group_kind == "image" and not result.problems


def test_labels_without_published_names_are_called_by_number(tmp_path: Path) -> None:
    assert read(write(tmp_path, "retinamnist.npz", shape=(28, 28, 3))).classes == ["class 0", "class 1"]


def test_one_of_several_flags_is_chosen_by_name_or_number(tmp_path: Path) -> None:
    flags = {
        f"{split}_labels": np.eye(14, dtype=np.uint8)[np.arange(n) % 2 * 7]
        for split, n in (("train", 12), ("val", 4), ("test", 6))
    }
    root = write(tmp_path, "chestmnist.npz", **flags)
    with pytest.raises(BadInput, match=r"14 flags.*atelectasis.*hernia"):
        read(root)
    by_name, by_number = read(root, label_column="Pneumothorax"), read(root, label_column="0")
    assert by_name.classes == ["no pneumothorax", "pneumothorax"] and by_number.classes == [
        "no atelectasis",
        "atelectasis",
    ]
    assert [case.label for case in by_name.cases[:2]] == ["no pneumothorax", "pneumothorax"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((12, 28, 28, 28), np.uint8)}, "3D images are not supported"),
        ({"train_images": np.zeros((12, 28, 28), np.float32)}, "uint8 is valid"),
        ({"train_labels": np.zeros((11, 1), np.uint8)}, "12 images, train_labels has 11"),
        ({"val_labels": np.zeros((4, 1), np.float64)}, "whole numbers"),
        ({"train_labels": np.array([["a"]] * 12)}, "whole numbers"),
        ({"train_labels": np.array([[object()]] * 12, dtype=object)}, "whole numbers"),
    ],
)
def test_arrays_of_another_kind_are_refused_without_unpickling(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        read(write(tmp_path, **changes))


def test_several_files_other_archives_and_options_without_meaning_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(BadInput, match="label column"):
        read(tmp_path, label_column="pneumonia")
    with pytest.raises(BadInput, match="leave out group"):
        read(tmp_path, group_by="patient")
    write(tmp_path, "pneumoniamnist_64.npz")
    with pytest.raises(BadInput, match="2 MedMNIST files"):
        read(tmp_path)
    for name in ("pneumoniamnist.npz", "pneumoniamnist_64.npz"):
        (tmp_path / name).unlink()
    np.savez(tmp_path / "features.npz", x=np.zeros(3))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(BadInput, match=r"broken\.npz, features\.npz hold no train_images"):
        read(tmp_path)


def test_a_single_label_value_is_a_problem(tmp_path: Path) -> None:
    zeros = {f"{split}_labels": np.zeros((n, 1), np.uint8) for split, n in (("train", 12), ("val", 4), ("test", 6))}
    assert "1 value(s)" in read(write(tmp_path, **zeros)).problems[0]
