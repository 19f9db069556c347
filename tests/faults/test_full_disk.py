"""A full disk: what cannot be done is refused and what there was stays; after space is freed everything goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from clinloop import ingestion
from clinloop.datasets.dataset import Dataset
from clinloop.errors import NotNow
from clinloop.services import Services
from clinloop.settings import load_settings

from .conftest import SMALL, end_supervisors
from .lab import GOOD_TRAIN, Lab, predict_code, train_code, until


class Disk:
    """A small tmpfs that can be filled and freed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.folder / "ballast").open("ab", buffering=0) as file:
            for block in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(b"x" * block)
                except OSError:
                    pass
        assert os.statvfs(self.folder).f_bavail == 0

    def free(self, *, megabytes: int = 24) -> None:
        (self.folder / "ballast").unlink()
        subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "clinloop-test", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_lab(disk: Disk, ingested: Path) -> Generator[Lab]:
    """A lab whose state folder lies on the small disk."""
    state = Path(shutil.copytree(ingested, disk.folder / "state"))
    yield Lab(Services(load_settings(state, sandbox="none", limits=SMALL), accept_no_isolation=True))
    end_supervisors(state)


@pytest.mark.parametrize("phase", ["training", "predicting"])
def test_a_run_on_a_disk_that_fills_up_ends_with_the_cause_and_the_next_one_works(
    small_lab: Lab, disk: Disk, phase: str
) -> None:
    lab = small_lab
    train = train_code(
        "print('x' * 2_000_000, flush=True)\ntime.sleep(1)\nsession.checkpoint.write_text('weights' * 10_000)"
    )
    task = lab.task(train, predict_code("time.sleep(1)\nprint('x' * 2_000_000, flush=True)"))
    run = lab.reach(lab.start(task), phase)
    disk.fill()
    time.sleep(2)  # nothing can be read from the store meanwhile: SQLite needs a few pages for that
    disk.free()

    ended = lab.end(run)

    assert (ended.status, ended.end_reason) == ("lost", "server_fault"), ended
    assert "refunded" in ended.message and "Cause: " in ended.message
    assert lab.charged(task) == 0
    lab.edit(task, "train.py", GOOD_TRAIN)
    lab.edit(task, "predict.py", predict_code(""))
    assert lab.smoke(task).status == "succeeded"
    lab.check(task)


def test_a_start_on_a_full_disk_charges_nothing_that_is_not_run_later(small_lab: Lab, disk: Disk) -> None:
    lab = small_lab
    task = lab.task()
    disk.fill()
    with pytest.raises(Exception):  # noqa: B017 - which part of the store notices first depends on the free pages of its files
        lab.start(task)
    disk.free()

    for run in lab.store.runs(task):
        lab.end(run)
    again = lab.full(task)

    assert again.status == "succeeded"
    assert lab.charged(task) == len(lab.store.runs(task))
    lab.check(task)


def test_an_edit_on_a_full_disk_is_refused_and_the_file_stays_as_it_was(small_lab: Lab, disk: Disk) -> None:
    lab = small_lab
    task = lab.task()
    folder = lab.services.state.task(task).workspace
    before = (folder / "train.py").read_bytes()
    disk.fill()

    with pytest.raises(NotNow, match="disk is full: nothing was changed"):
        lab.edit(task, "train.py", "# " + "x" * 100_000)

    assert (folder / "train.py").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["predict.py", "train.py"]
    disk.free()
    assert lab.workspace(task).log()[0].name == "r1"
    lab.edit(task, "train.py", "# new")
    assert lab.workspace(task).log()[0].name == "r2"


def test_an_ingest_on_a_full_disk_is_refused_and_leaves_nothing(
    small_lab: Lab, disk: Disk, class_folders: Path
) -> None:
    lab = small_lab
    datasets = lab.services.settings.state / "datasets"
    before = sorted(datasets.rglob("*"))
    disk.fill()

    with pytest.raises(Exception) as refusal:
        ingestion.add(lab.services, class_folders, "again", cache_px=(16,))

    disk.free(megabytes=160)
    assert "space" in str(refusal.value) or "disk" in str(refusal.value), refusal.value
    assert [
        path for path in sorted(datasets.rglob("*")) if path not in before and not path.name.startswith(".lock-")
    ] == []
    assert Dataset.list_names(lab.services.settings.state) == ["moles"]
    assert ingestion.add(lab.services, class_folders, "again", cache_px=(16,)).name == "again"


def test_an_evaluation_on_a_full_disk_is_finished_when_there_is_room_again(small_lab: Lab, disk: Disk) -> None:
    lab = small_lab
    task = lab.task(predict=predict_code("time.sleep(0.5)"))
    lab.full(task)
    lab.finalize(task)
    until(lambda: lab.store.task(task).phase.startswith("predicting"), 60, every_s=0.002)
    disk.fill()
    time.sleep(2)
    disk.free()

    ended = lab.evaluated(task)

    assert ended.status == "evaluated", ended
    assert lab.events(task).count("unsealing") == 1
    lab.check(task)
