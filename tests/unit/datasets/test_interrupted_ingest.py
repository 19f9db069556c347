"""An ingest that is killed or runs out of disk leaves nothing behind and can be repeated."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clinloop.datasets.dataset import Dataset

SCRIPT = """
import sys
from pathlib import Path
from clinloop.datasets.ingest import IngestOptions, ingest
from clinloop.errors import Refusal

def progress(phase, done, total):
    if phase == "images" and done >= 1:
        print("half", flush=True)
        sys.stdin.readline()

wait = progress if sys.argv[3] == "wait" else lambda *_: None
try:
    ingest(Path(sys.argv[1]), "data", state=Path(sys.argv[2]), key=b"k" * 32, options=IngestOptions(cache_px=(16,)), progress=wait)
except Refusal as refusal:
    print(f"{type(refusal).__name__}: {refusal}")
"""


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text(encoding="utf-8").split()
    ]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_an_ingest_killed_in_the_middle_leaves_no_dataset_and_no_worker_and_can_be_repeated(
    add, make_class_folders, tmp_path: Path
) -> None:
    root, state = make_class_folders(tmp_path / "in", n=40), tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(root), str(state), "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stdout.readline() == "half\n"
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
    assert workers
    deadline = time.monotonic() + 20
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in workers if is_alive(pid)]
    assert Dataset.list_names(state) == [] and (state / "datasets" / ".building-data").exists()
    dataset = add(root, state=state)
    assert len(dataset.cases()) == 64
    assert sorted(path.name for path in (state / "datasets").iterdir()) == [".lock-data", "data"]


def test_a_full_disk_is_said_in_one_sentence_and_leaves_nothing(tmp_path: Path, picture) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare -rm is not allowed here, so no small disk can be mounted")
    root, disk = tmp_path / "in", tmp_path / "disk"
    disk.mkdir()
    noise = os.urandom(700 * 700 * 3)
    from PIL import Image

    image = Image.frombytes("RGB", (700, 700), noise)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        image.save(root / name / "0.webp", quality=5)  # small as a source, large as a stored PNG
        for i in range(1, 80):
            shutil.copy(root / name / "0.webp", root / name / f"{i}.webp")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = f"mount -t tmpfs -o size=110m none {disk} && {sys.executable} {tmp_path}/script.py {root} {disk}/state go && ls -A {disk}/state/datasets"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.splitlines() == [
        "NotNow: The disk of the state folder is full; free some space and add the dataset again. Nothing was added.",
        ".lock-data",
    ], done.stderr
