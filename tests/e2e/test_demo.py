"""`clinloop demo`, the promise of the README: played to its end in a real sandbox, on drawn lesions and on real handwritten digits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clinloop.report.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(1500)]


def play(folder: Path, *arguments: str) -> dict[str, Any]:
    """Play the demo in a process of its own and return what --json wrote."""
    outcome = folder / "outcome.json"
    command = [
        sys.executable,
        "-m",
        "clinloop",
        "demo",
        "--out",
        str(folder / "demo"),
        "--json",
        str(outcome),
        *arguments,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1400)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return json.loads(outcome.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def isic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Outcome of the demo as the README starts it."""
    return play(tmp_path_factory.mktemp("isic"))


def test_the_refined_model_beats_the_baseline_on_the_test_set(isic: dict[str, Any]) -> None:
    primary = next(metric for metric in isic["final"] if metric["name"] == "macro_auc")
    assert primary["refined"]["value"] > primary["initial"]["value"]
    assert primary["p"] < 0.05
    for metric in isic["final"]:
        for model in ("initial", "refined"):
            assert metric[model]["low"] <= metric[model]["value"] <= metric[model]["high"]


def test_the_agent_made_at_least_four_edits_one_failed_one_rejected_one_accepted(isic: dict[str, Any]) -> None:
    full = [run for run in isic["runs"] if run["run"].startswith("run")]
    smokes = [run for run in isic["runs"] if run["run"].startswith("smoke")]
    assert full[0]["run"] == "run0"
    assert len({run["revision"] for run in isic["runs"]}) >= 5
    assert any(run["status"] == "failed" for run in smokes)
    assert any(run["decision"] == "rejected" for run in full)
    assert any(run["decision"] == "accepted" for run in full[1:])
    assert all(run["reason"] and run["message"] for run in isic["runs"])


def test_the_report_of_the_demo_verifies_offline(isic: dict[str, Any]) -> None:
    verification = verify(Path(isic["paths"]["report"]).parent, heads=[isic["ledger_head"]])
    assert verification.ok, [check for check in verification.checks if not check.ok]


def test_the_demo_ran_isolated_and_states_its_guarantee(isic: dict[str, Any]) -> None:
    assert isic["sandbox"] in ("docker", "bubblewrap")
    assert isic["guarantee"]["level"] == "L0"
    assert "could read the vault" in isic["guarantee"]["meaning"]


def test_the_demo_plays_on_class_folders_of_real_handwritten_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = tmp_path / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((32, 32), Image.Resampling.NEAREST).save(
            folder / f"{index:04d}.png"
        )
    folders = ("--data", str(tmp_path / "digits"), "--layout", "class_folders")
    outcome = play(tmp_path, *folders, "--sandbox", "bubblewrap")  # the other demo takes Docker where it works
    assert outcome["sandbox"] == "bubblewrap"
    assert outcome["final"][0]["name"] == "macro_auc"
    assert outcome["final"][0]["refined"]["value"] > 0.9
    assert len([run for run in outcome["runs"] if run["status"] == "succeeded" and run["run"].startswith("run")]) >= 4
