"""Annotation files with anything changed in them: each layout reads what is left, or refuses it in words, and never fails otherwise."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clinloop.datasets.case import LayoutOptions
from clinloop.datasets.layouts import LAYOUTS, choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import Refusal

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    "",
    "x",
    [],
    {},
    [[]],
    [1, 2],
    {"a": 1},
    "0",
    [None],
    10**30,
]
PIECES = [
    b"<",
    b"&x;",
    b"{",
    b"[",
    b"\n",
    b"- a: *x",
    b"nan",
    b"1e999",
    b"\xff\xfe",
    b"'",
    b",,,,",
    b"99999999999999999999",
    b"\0",
]
BOX = "<object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"


def coco(root: Path) -> list[Path]:
    images = [{"id": i, "file_name": f"{i}.png", "patient_id": "p"} for i in range(3)]
    boxes = [
        {
            "id": i,
            "image_id": i,
            "category_id": 1,
            "bbox": [1, 1, 5, 5],
            "iscrowd": 0,
            "segmentation": [[1, 1, 2, 2, 3, 3]],
        }
        for i in range(2)
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (root / "a.json").write_text(json.dumps(content), encoding="utf-8")
    return [root / "a.json"]


def yolo(root: Path) -> list[Path]:
    for i in range(3):
        (root / f"{i}.txt").write_text("0 .5 .5 .2 .2\n0 .1 .1 .2 .2 .3 .1\n", encoding="utf-8")
    (root / "data.yaml").write_text("path: .\ntrain: .\nval: [x]\nnames: {0: a, 1: b}\n", encoding="utf-8")
    return [root / "0.txt", root / "data.yaml"]


def pascal_voc(root: Path) -> list[Path]:
    for i in range(3):
        (root / f"{i}.xml").write_text(f"<annotation><filename>{i}.png</filename>{BOX}</annotation>", encoding="utf-8")
    return [root / "0.xml"]


def hf_imagefolder(root: Path) -> list[Path]:
    rows = [
        {"file_name": f"{i}.png", "split": "train", "objects": {"bbox": [[1, 1, 5, 5]], "categories": ["a"]}}
        for i in range(3)
    ]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [root / "metadata.jsonl"]


def nnunet_raw(root: Path) -> list[Path]:
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    for i in range(3):
        (root / f"{i}.png").rename(root / "imagesTr" / f"{i}_0000.png")
        (root / "labelsTr" / f"{i}.png").write_bytes((root / "imagesTr" / f"{i}_0000.png").read_bytes())
    (root / "dataset.json").write_text(
        '{"labels": {"background": 0, "a": [1, 2]}, "file_ending": ".png"}', encoding="utf-8"
    )
    (root / "splits_final.json").write_text('[{"train": ["0", "1"], "val": ["2"]}]', encoding="utf-8")
    return [root / "dataset.json", root / "splits_final.json"]


def medmnist_npz(root: Path) -> list[Path]:
    parts = {f"{split}_images": np.zeros((2, 4, 4), np.uint8) for split in ("train", "test")}
    np.savez(root / "x.npz", **parts, **{f"{split}_labels": np.array([[0], [1]]) for split in ("train", "test")})
    return [root / "x.npz"]


def changed(value: Any, rng: random.Random) -> Any:
    """Replace, drop or change one thing of a JSON value."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return rng.choice(VALUES)
    copy: Any = value.copy()
    at: Any = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
    if rng.random() < 0.2:
        del copy[at]
    else:
        copy[at] = changed(copy[at], rng)
    return copy


def broken(raw: bytes, suffix: str, rng: random.Random) -> bytes:
    if suffix in {".json", ".jsonl"} and rng.random() < 0.8:
        lines = raw.decode().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(changed(json.loads(lines[at]), rng))
        return "\n".join(lines).encode()
    content = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        if content and rng.random() < 0.6:
            content[rng.randrange(len(content))] = rng.randrange(256)
        else:
            at = rng.randrange(len(content) + 1)
            content[at:at] = rng.choice(PIECES)
    return bytes(content)


@pytest.mark.parametrize(
    "write", [coco, yolo, pascal_voc, hf_imagefolder, nnunet_raw, medmnist_npz], ids=lambda write: write.__name__
)
def test_whatever_is_changed_in_an_annotation_file_is_read_or_refused(
    write: Callable[[Path], list[Path]], tmp_path: Path, picture
) -> None:
    for i in range(3):
        picture(i, (16, 12)).save(tmp_path / f"{i}.png")
    files = write(tmp_path)
    layout = next(layout for layout in LAYOUTS if layout.name == write.__name__)
    assert layout.read(Folder(tmp_path), LayoutOptions()).cases
    rng, n_refused = random.Random(7), 0
    for _ in range(40):
        path = rng.choice(files)
        intact = path.read_bytes()
        path.write_bytes(broken(intact, path.suffix, rng))
        try:
            layout.read(Folder(tmp_path), LayoutOptions())
        except Refusal as refusal:
            n_refused += 1
            assert str(tmp_path) not in str(refusal)
        with suppress(Refusal):
            choose_layout(Folder(tmp_path), "auto", LayoutOptions())
        path.write_bytes(intact)
    assert n_refused >= 3
