"""What takes the disk: hard links count once, links are not followed, nothing is counted twice."""

from __future__ import annotations

import os
from pathlib import Path

from clinloop.disk import Meter, measure, size_text
from clinloop.services import Services


def written(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return path


def test_a_file_with_several_names_is_counted_once(tmp_path: Path) -> None:
    file = written(tmp_path / "a" / "file", 500_000)
    (tmp_path / "b").mkdir()
    os.link(file, tmp_path / "b" / "same")
    meter = Meter()
    first, second = meter.measure(tmp_path / "a"), meter.measure(tmp_path / "b")
    assert first >= 500_000 > 100_000 > second
    assert Meter().measure(tmp_path / "b") >= 500_000  # alone, it is the one that holds it


def test_links_are_not_followed_and_missing_paths_take_nothing(tmp_path: Path) -> None:
    written(tmp_path / "elsewhere" / "file", 500_000)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
    assert Meter().measure(tmp_path / "here") < 50_000
    assert Meter().measure(tmp_path / "gone") == 0


def test_sparse_files_take_what_they_take(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(100 << 20)
    assert Meter().measure(tmp_path / "sparse") < 1 << 20


def test_the_parts_add_up_to_the_state_folder(services: Services) -> None:
    use = measure(services)
    everything = Meter().measure(services.settings.state)
    assert [item.name for item in use.datasets] == ["moles"]
    assert use.store > 0 and use.free > 0
    assert use.bytes - use.cache == everything


def test_sizes_are_written_for_people() -> None:
    assert [size_text(size) for size in (0, 1, 999, 12_300, 4_560_000, 7_890_000_000)] == [
        "0 kB",
        "1 kB",
        "1 kB",
        "13 kB",
        "5 MB",
        "7.9 GB",
    ]
