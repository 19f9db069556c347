"""What a job writes, to its folder and to its log, comes back within the caps, also after an interruption."""

import random
from pathlib import Path

import pytest

from clinloop.sandbox.logs import LogFile
from clinloop.sandbox.volumes import Usage, Volume, measure


def _volume(folder: Path) -> Volume:
    out = folder / "out"
    out.mkdir()
    (out / "sub").mkdir()
    (out / "sub" / "file").write_bytes(b"kept")
    (out / "link").symlink_to("/etc/passwd")
    return Volume(str(out), "", "plain", 1 << 20)


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_settling_keeps_regular_files_and_names_what_it_left_out(tmp_path: Path) -> None:
    skipped = _volume(tmp_path).settle()
    assert _names(tmp_path) == ["out", "out/sub", "out/sub/file"]
    assert len(skipped) == 1
    assert skipped[0].startswith("link: ")


def test_settling_that_was_cut_off_in_the_copy_starts_the_copy_again(tmp_path: Path) -> None:
    volume = _volume(tmp_path)
    (tmp_path / ".out.harvest.part").mkdir()
    (tmp_path / ".out.harvest.part" / "half").touch()
    volume.settle()
    assert _names(tmp_path) == ["out", "out/sub", "out/sub/file"]


@pytest.mark.parametrize("was_deleted", [True, False])
def test_settling_that_was_cut_off_after_the_copy_uses_the_copy(was_deleted: bool, tmp_path: Path) -> None:
    volume = _volume(tmp_path)
    (tmp_path / ".out.harvest").mkdir()
    (tmp_path / ".out.harvest" / "copied").touch()
    if was_deleted:
        (tmp_path / "out").rename(tmp_path.with_name(tmp_path.name + "-gone"))
    volume.settle()
    assert _names(tmp_path) == ["out", "out/copied"]


def test_settling_a_folder_that_its_owner_deleted_is_no_error(tmp_path: Path) -> None:
    assert Volume(str(tmp_path / "gone"), "", "plain", 1 << 20).settle() == []


def test_measuring_stops_at_the_cap_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "up").symlink_to("/")
    for number in range(10):
        (tmp_path / str(number)).write_bytes(b"x" * 8192)
    assert measure(tmp_path, stop_at=Usage(1 << 30, 1000)) == Usage(10 * 8192, 11)
    assert measure(tmp_path, stop_at=Usage(1 << 30, 5)).files == 5


@pytest.mark.parametrize("seed", range(8))
def test_a_log_holds_the_head_and_the_tail_and_counts_what_lies_between(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    cap = generator.choice([40, 400, 4000])
    chunks = [generator.randbytes(generator.randint(1, 300)) for _ in range(generator.randint(0, 40))]
    log = LogFile(tmp_path / "log", cap)
    for chunk in chunks:
        log.write(chunk)
    live = (tmp_path / "log").read_bytes()
    log.close()
    log.close()
    whole, head = b"".join(chunks), cap - cap // 4
    dropped = max(0, len(whole) - cap)
    note = f"\n… {dropped} bytes dropped …\n".encode() if dropped else b""
    assert live == whole[:head]
    assert (tmp_path / "log").read_bytes() == whole[:head] + note + whole[head:][dropped:]
