"""The command line as its users see it: real processes, real files, one-sentence errors."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from clinloop.spec import TaskSpec
from clinloop.store.store import Store

COMMANDS = [
    ["demo"],
    ["reproduce"],
    ["standin"],
    ["data"],
    ["key"],
    ["key", "new"],
    ["unseal"],
    ["data", "add"],
    ["data", "annotate"],
    ["data", "list"],
    ["data", "show"],
    ["data", "remove"],
    ["images"],
    ["images", "build"],
    ["images", "list"],
    ["serve"],
    ["task"],
    ["task", "list"],
    ["task", "show"],
    *(
        ["task", name]
        for name in ("confirm", "decline", "approve", "choose", "note", "pause", "resume", "stop", "extend")
    ),
    ["report"],
    ["verify"],
    ["doctor"],
    ["connect"],
    ["service"],
    ["service", "install"],
    ["service", "uninstall"],
    ["service", "run"],
]


def clinloop(*arguments: str | Path, state: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "clinloop", *map(str, arguments)]
    if state is not None:
        command += ["--state", str(state)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(Path.home()), "COLUMNS": "200", **env},
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    ended = clinloop(*command, "--help")
    assert ended.returncode == 0
    assert re.search(f"Example: (sudo )?clinloop {command[0]}", ended.stdout)


def test_a_folder_is_added_listed_shown_and_removed(tmp_path: Path, class_folders: Path) -> None:
    state = tmp_path / "state"
    added = clinloop("data", "add", class_folders, "--name", "moles", "--cache-px", "16", state=state)
    assert added.returncode == 0, added.stderr
    assert "class_folders" in added.stdout
    assert "moles" in clinloop("data", "list", state=state).stdout
    shown = clinloop("data", "show", "moles", state=state)
    assert "melanoma" in shown.stdout
    again = clinloop("data", "add", class_folders, "--name", "moles", state=state)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert clinloop("data", "remove", "moles", "--yes", state=state).returncode == 0
    assert "moles" not in clinloop("data", "list", state=state).stdout


def test_boxes_of_a_share_of_the_training_images_can_be_kept(tmp_path: Path, class_folders: Path) -> None:
    root = Path(shutil.copytree(class_folders, tmp_path / "in"))
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    images = [{"id": i, "file_name": name} for i, name in enumerate(files)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 8, 8]} for i in range(0, len(files), 2)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "lesion"}]}
    (root / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    arguments = ["data", "add", root, "--name", "boxes", "--layout", "coco", "--keep-boxes", "0.2"]
    added = clinloop(*arguments, "--cache-px", "16", state=tmp_path / "state")
    assert added.returncode == 0, added.stderr
    levels = dict(re.findall(r"train: (\d+) cases with supervision (\w+)", added.stdout))
    assert set(levels.values()) == {"box", "image"}
    with_boxes, labelled = sorted(levels, key=levels.__getitem__)
    assert 0 < int(with_boxes) < int(labelled)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data", "show", "nothing"], "known: none yet"),
        (["data", "add", "/nowhere", "--name", "x"], "does not exist"),
        (["task", "show", "nothing"], "known: none yet"),
        (["report", "nothing"], "known: none yet"),
        (["standin", "imagenet", "/tmp/never-written"], "known: isic2019"),
        (["images", "build", "gpu"], "known: cpu, cuda, detection, minimal, onnx"),
        (["images", "build", "cpu", "--with", "monai"], "NAME==VERSION"),
        (["images", "build", "cpu", "minimal", "--with", "monai==1.5.0"], "name one"),
        (["data", "annotate", "nothing", "--model", "nothing", "--column", "drain"], "known: none yet"),
        (["reproduce", "isic9"], "known: isic8, mel-nv, wrist, wrist-5pct, drain, pneumothorax, all"),
        (["reproduce", "isic8", "--data", "/nowhere"], "name the folder as it was unpacked"),
        (["reproduce", "isic8", "wrist", "--data", "/tmp"], "grazpedwri=PATH, isic2019=PATH"),
        (["reproduce", "isic8", "--data", "imagenet=/tmp"], "known: grazpedwri, isic2019, neatx, siim_acr"),
        (["reproduce", "isic8", "--preset", "long"], "known: paper, quick, demo"),
        (["doctor", "--sandbox", "chroot"], "known: auto, docker, bubblewrap, none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_error_is_a_sentence_that_names_what_is_valid(tmp_path: Path, arguments: list[str], said: str) -> None:
    takes_state = arguments[0] not in ("standin", "reproduce")
    ended = clinloop(*arguments, state=tmp_path / "state" if takes_state else None)
    assert ended.returncode != 0
    assert said in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_serving_without_isolation_must_be_accepted_by_flag(tmp_path: Path) -> None:
    refused = clinloop("doctor", "--sandbox", "none", state=tmp_path / "state")
    assert refused.returncode == 1
    assert "--i-accept-no-isolation" in refused.stdout + refused.stderr
    accepted = clinloop("doctor", "--sandbox", "none", "--i-accept-no-isolation", state=tmp_path / "state")
    assert accepted.returncode == 0
    assert "isolates nothing" in accepted.stdout


def test_doctor_states_the_guarantee_level_and_its_meaning(tmp_path: Path) -> None:
    ended = clinloop("doctor", state=tmp_path / "state")
    said = " ".join(ended.stdout.split())
    assert "Guarantee L0 honour" in said
    assert "could read the vault" in said
    assert "Not L2: the server runs under the user of its client" in said
    for what in ("vault", "store", "key", "package", "container engine", "memory", "administrator", "originals"):
        assert what in said


def test_a_task_s_ledger_is_checked_while_it_runs_against_a_head_and_a_key(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    spec = TaskSpec.model_validate({"objective": "Tell moles apart.", "budget": "demo"})
    store.create_task(
        task_id="t", dataset="moles", request="?", spec=spec, template="linear", seed=0, settings={}, init_key="k"
    )
    noted = ["--head", store.head("task:t"), "--key", store.key_fingerprint]
    shown = clinloop("task", "show", "t", state=tmp_path / "state")
    assert store.head("task:t") in shown.stdout and store.key_fingerprint in shown.stdout
    assert store.key_fingerprint in clinloop("doctor", state=tmp_path / "state").stdout
    assert clinloop("verify", "t", *noted, state=tmp_path / "state").returncode == 0
    refused = clinloop("verify", "t", *noted, "--head", "0" * 64, state=tmp_path / "state")
    assert refused.returncode == 1
    assert "FAIL anchor" in refused.stdout and "does not verify" in refused.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "clinloop.sqlite", isolation_level=None)) as raw:
        raw.execute(
            "INSERT INTO ledger SELECT scope, 5, at, 'granted', 'run', 9, run, '{}', hash, ?, ? FROM ledger WHERE seq = 4",
            ("f" * 64, "f" * 128),
        )
    forged = clinloop("verify", "t", state=tmp_path / "state")
    assert forged.returncode == 1
    assert "row 5 (granted) is not signed" in forged.stdout


def test_the_report_of_a_finished_task_is_named_and_opened_and_any_other_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    spec = TaskSpec.model_validate({"objective": "Tell melanoma from nevus."})
    for task_id in ("done", "begun"):
        store.create_task(
            task_id=task_id,
            dataset="skin",
            request="Tell melanoma from nevus.",
            spec=spec,
            template="classification",
            seed=0,
            settings={},
            init_key=task_id,
        )
        store.open_task(task_id)
    store.begin_evaluation("done", "run0")
    store.end_evaluation("done", "evaluated", {}, {})
    page = tmp_path / "state" / "tasks" / "done" / "report" / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("<!doctype html>")
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    told = clinloop("report", "done", state=tmp_path / "state")
    assert str(page) in told.stdout and f"clinloop verify {page.parent}" in told.stdout
    assert not (tmp_path / "opened").exists()
    assert clinloop("report", "done", "--open", state=tmp_path / "state", BROWSER=str(browser)).returncode == 0
    assert (tmp_path / "opened").read_text().strip() == page.as_uri()
    refused = clinloop("report", "begun", state=tmp_path / "state")
    assert refused.returncode == 1
    assert "is open and has no report yet" in refused.stderr and "Tasks with a report: done." in refused.stderr


def test_an_unknown_setting_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "settings.json").write_text('{"sandbx": "auto"}', encoding="utf-8")
    ended = clinloop("data", "list", state=state)
    assert ended.returncode == 1
    assert "known settings" in ended.stderr
    assert "sandbox" in ended.stderr
