"""What a folder lists for the layouts, and how it reads text."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput


def test_a_folder_lists_images_tables_and_other_files_apart(tmp_path: Path) -> None:
    (tmp_path / "a" / ".hidden").mkdir(parents=True)
    for name in ("a/1.DCM", "a/2.png", "t.csv", "b.json", "a/l.txt", "a/l.xml", "m.yaml", "m.yml", "x.npz", "run.py", "a/.hidden/z.txt"):  # fmt: skip
        (tmp_path / name).write_bytes(b"x")
    folder = Folder(tmp_path)
    assert folder.images == ["a/1.DCM", "a/2.png"] and folder.tables == ["t.csv"]
    assert folder.files(".txt", ".xml") == ["a/l.txt", "a/l.xml"]
    assert folder.files(".yaml", ".yml") == ["m.yaml", "m.yml"] and folder.files(".jsonl") == []


def test_text_is_read_past_a_byte_order_mark_and_in_latin_1(tmp_path: Path) -> None:
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf{}")
    (tmp_path / "latin.txt").write_bytes("Jürgen".encode("latin-1"))
    folder = Folder(tmp_path)
    assert folder.text("bom.json") == "{}" and folder.text("latin.txt") == "Jürgen"


def test_text_that_is_too_long_or_binary_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(b"x" * 11)
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    with pytest.raises(BadInput, match=r"long\.txt is larger than 10 bytes"):
        Folder(tmp_path).text("long.txt", max_bytes=10)
    with pytest.raises(BadInput, match=r"binary\.txt is not a text file"):
        Folder(tmp_path).text("binary.txt")
