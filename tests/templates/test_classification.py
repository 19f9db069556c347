"""The classification template in its real Python environment, on a drawn data set, with a fake server that answers submissions."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from clinloop.datasets.ingest import ingest
from clinloop.resources import resource
from clinloop.sandbox.environment import ensure_environment
from clinloop.sandbox.recipes import find_recipe
from clinloop.settings import load_settings
from clinloop.standin import isic2019

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TEMPLATE = resource("task_templates") / "classification"
CLASSES = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"]


@pytest.fixture(scope="module")
def python() -> str:
    recipe = find_recipe("cpu", (resource("sandbox_images"),))
    return ensure_environment(recipe, load_settings().cache, report=lambda line: None).python


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an ingested stand-in: view/, val_truth.csv."""
    folder = tmp_path_factory.mktemp("data")
    isic2019.write(folder / "isic", images=240, seed=1)
    ingest(folder / "isic", "lesions", state=folder / "state", key=b"k" * 32)
    return folder / "state/datasets/lesions"


class Run:
    """One training and prediction of a workspace, as a supervisor would do it but without isolation."""

    def __init__(self, folder: Path, dataset: Path, python: str) -> None:
        self.folder, self.dataset, self._python = folder, dataset, python
        self.workspace, self.out = folder / "workspace", folder / "out"
        self.workspace.mkdir(parents=True)
        for name in ("out", "session/answers", "weights"):
            (folder / name).mkdir(parents=True)
        for name in tomllib.loads((TEMPLATE / "template.toml").read_text(encoding="utf-8"))["files"]:
            (self.workspace / name).write_bytes((TEMPLATE / name).read_bytes())
        with (dataset / "val_truth.csv").open(encoding="utf-8", newline="") as file:
            self.truth = {row["case_id"]: row["label"] for row in csv.DictReader(file)}

    def edit(self, *numbers: int) -> None:
        steps = tomllib.loads((TEMPLATE / "trajectory/isic8.toml").read_text(encoding="utf-8"))["step"]
        for edit in (edit for number in numbers for edit in steps[number]["edits"]):
            path = self.workspace / edit["path"]
            text = edit["text"] if edit["operation"] == "create" else path.read_text(encoding="utf-8")
            path.write_text(text.replace(edit["old"], edit["new"]) if "old" in edit else text, encoding="utf-8")

    def train(self, *, mode: str = "smoke", seconds: float = 120.0, gpus: int = 0) -> subprocess.CompletedProcess[str]:
        facts = {
            "mode": mode,
            "phase": "train",
            "classes": CLASSES,
            "seed": 0,
            "deadline_unix": time.time() + seconds,
            "primary_metric": "macro_auc",
            "validations_cap": 30,
            "gpus": gpus,
            "cpus": 2,
        }
        (self.folder / "session/session.json").write_text(json.dumps(facts), encoding="utf-8")
        with (self.folder / "log.txt").open("w+", encoding="utf-8") as log:
            process = self._start("train.py", stdout=log, stderr=subprocess.STDOUT)
            best, number = -1.0, 1
            while process.poll() is None:
                if (submission := self.out / f"validation/{number:04d}.csv").exists():
                    score = self.macro_auc(submission)
                    answer = self.folder / "session/answers/partial"
                    answer.write_text(
                        json.dumps({"score": score, "best": score > best, "left": 30 - number}), encoding="utf-8"
                    )
                    answer.replace(answer.with_name(f"{number:04d}.json"))
                    best, number = max(best, score), number + 1
                time.sleep(0.02)
            log.seek(0)
            return subprocess.CompletedProcess("train.py", process.returncode, log.read())

    def predict(self) -> subprocess.CompletedProcess[str]:
        """Predict the validation cases in another process that sees no data and no session."""
        images = self.folder / "predict/images"
        images.mkdir(parents=True)
        with (self.dataset / "view/cases.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
        columns = [name for name in rows[0] if name not in ("split", "group", "label")]
        with (images.parent / "cases.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        for row in rows:
            source = next((self.dataset / "view/images").glob(f"{row['case_id']}.*"))
            (images / source.name).symlink_to(source)
        arguments = (
            "--images",
            images,
            "--checkpoint",
            self.out / "checkpoint",
            "--out",
            self.folder / "predictions.csv",
        )
        process = self._start(
            "predict.py", *map(str, arguments), data=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        text, _ = process.communicate()
        return subprocess.CompletedProcess("predict.py", process.returncode, text)

    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "history.jsonl").read_text(encoding="utf-8").splitlines()]

    def probabilities(self, path: Path) -> dict[str, np.ndarray]:
        with path.open(encoding="utf-8", newline="") as file:
            return {
                row["case_id"]: np.array([float(row[f"p_{name}"]) for name in CLASSES]) for row in csv.DictReader(file)
            }

    def macro_auc(self, path: Path) -> float:
        found = self.probabilities(path)
        labels = np.array([self.truth[case_id] for case_id in found])
        columns = np.stack(list(found.values())).T
        return float(
            np.mean([roc_auc_score(labels == name, column) for name, column in zip(CLASSES, columns, strict=True)])
        )

    def _start(self, *argv: str, data: bool = True, **streams: Any) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(resource("sandbox_images") / "runtime"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "CLINLOOP_OUT": str(self.out),
            "CLINLOOP_SESSION": str(self.folder / "session" if data else self.folder / "nowhere"),
            "CLINLOOP_DATA": str(self.dataset / "view" if data else self.folder / "nowhere"),
            "CLINLOOP_WEIGHTS": str(self.folder / "weights"),
        }
        return subprocess.Popen([self._python, *argv], cwd=self.workspace, env=environment, text=True, **streams)


@pytest.fixture
def run(tmp_path: Path, dataset: Path, python: str) -> Run:
    return Run(tmp_path / "run", dataset, python)


def test_a_smoke_test_goes_through_everything_in_seconds(run: Run) -> None:
    trained = run.train()
    assert trained.returncode == 0, trained.stdout
    predicted = run.predict()
    assert predicted.returncode == 0, predicted.stdout
    events = [line["event"] for line in run.history()]
    assert (events[0], events[-1]) == ("start", "end")
    assert "validation" in events
    assert run.history()[0]["weights"] == "random initialisation"
    assert set(run.probabilities(run.folder / "predictions.csv")) == set(run.truth)


def test_prediction_of_the_checkpoint_agrees_with_the_submission_that_the_server_scored_best(run: Run) -> None:
    assert run.train().returncode == 0
    assert run.predict().returncode == 0
    scored = [line for line in run.history() if line["event"] == "validation"]
    best = max(range(len(scored)), key=lambda i: (scored[i]["score"], -i))
    submitted = run.probabilities(run.out / f"validation/{best + 1:04d}.csv")
    predicted = run.probabilities(run.folder / "predictions.csv")
    difference = max(float(np.abs(submitted[case_id] - predicted[case_id]).max()) for case_id in submitted)
    assert difference < 0.05  # the cache was built before the stored image was compressed once more


def test_a_full_run_uses_its_time_ends_by_itself_before_the_deadline_and_has_learned(run: Run) -> None:
    trained = run.train(mode="full", seconds=40)
    assert trained.returncode == 0, trained.stdout
    end = run.history()[-1]
    assert end["event"] == "end"
    assert 20 < end["t"] < 40
    assert max(line["score"] for line in run.history() if line["event"] == "validation") > 0.55


def test_two_processes_train_one_network_and_one_of_them_validates_and_saves(run: Run) -> None:
    trained = run.train(
        mode="full", seconds=60, gpus=2
    )  # of which there are none: the processes meet over gloo, on the CPU

    assert trained.returncode == 0, trained.stdout
    history = run.history()
    assert (history[0]["processes"], history[-1]["event"]) == (2, "end")
    assert [line["event"] for line in history].count("start") == 1
    assert len(list(run.out.glob("validation/*.csv"))) == len(
        [line for line in history if line["event"] == "validation"]
    )
    assert max(line["score"] for line in history if line["event"] == "validation") > 0.55
    predicted = run.predict()
    assert predicted.returncode == 0, predicted.stdout


def test_the_gradients_of_two_processes_are_averaged(run: Run) -> None:
    check = "\nimport hashlib\nweights = b''.join(v.detach().numpy().tobytes() for v in net.parameters())\n"
    check += "(session.out / f'weights-{RANK}').write_text(hashlib.sha256(weights).hexdigest() + f' {step}')\n"
    train = run.workspace / "train.py"
    train.write_text(train.read_text(encoding="utf-8") + check, encoding="utf-8")

    trained = run.train(gpus=2)

    assert trained.returncode == 0, trained.stdout
    first, second = ((run.out / f"weights-{rank}").read_text() for rank in (0, 1))
    assert first == second  # the same steps, the same weights, although each saw other images
    assert int(first.split()[1]) > 3


def test_a_loss_that_is_not_finite_ends_training_at_once_and_says_so(run: Run) -> None:
    train = run.workspace / "train.py"
    text = train.read_text(encoding="utf-8")
    broken = text.replace("    loss = F.cross_entropy(", "    loss = float('nan') * F.cross_entropy(")
    assert broken != text
    train.write_text(broken, encoding="utf-8")
    trained = run.train(mode="full", seconds=60)
    assert trained.returncode != 0
    assert "not finite" in trained.stdout or "loss is nan" in trained.stdout or "must be finite" in trained.stdout


def test_pretrained_weights_are_used_when_they_are_there(run: Run, python: str) -> None:
    code = (
        "import sys, timm; from safetensors.torch import save_file\n"
        "net = timm.create_model('test_resnet', num_classes=5)\n"
        "save_file({k: v * 0 + 7 if k == 'conv1.0.weight' else v for k, v in net.state_dict().items()}, sys.argv[1])\n"
    )
    weights = run.folder / "weights/test_resnet.safetensors"
    subprocess.run([python, "-c", code, str(weights)], check=True)
    check = (
        "import sys; from pathlib import Path; from model import build\n"
        "net, origin = build('test_resnet', 8, Path(sys.argv[1]))\n"
        "print(origin, float(dict(net.named_parameters())['conv1.0.weight'].detach().mean()))\n"
    )
    done = subprocess.run(
        [python, "-c", check, str(weights.parent)], cwd=run.workspace, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["test_resnet.safetensors", "7.0"]


def test_a_size_without_cache_is_decoded_exactly_as_the_server_decodes_it(run: Run, python: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (61, 90, 3), dtype=np.uint8))
    image.save(run.folder / "a.png")
    code = "import sys, numpy as np; from model import decode; np.save(sys.argv[2], decode(sys.argv[1], 32))"
    subprocess.run(
        [python, "-c", code, str(run.folder / "a.png"), str(run.folder / "a.npy")], cwd=run.workspace, check=True
    )
    expected = image.resize((32, 32), Image.Resampling.BICUBIC, box=(14, 0, 75, 61))
    np.testing.assert_array_equal(np.load(run.folder / "a.npy"), np.asarray(expected))


def test_the_scripted_mistake_fails_in_prediction_and_its_fix_works(tmp_path: Path, dataset: Path, python: str) -> None:
    broken = Run(tmp_path / "broken", dataset, python)
    broken.edit(0, 1)
    trained = broken.train()
    assert trained.returncode == 0, trained.stdout
    predicted = broken.predict()
    assert predicted.returncode != 0
    assert "TypeError" in predicted.stdout
    fixed = Run(tmp_path / "fixed", dataset, python)
    fixed.edit(0, 1, 2)
    assert fixed.train().returncode == 0
    predicted = fixed.predict()
    assert predicted.returncode == 0, predicted.stdout


def test_all_scripted_edits_together_pass_a_smoke_test(run: Run) -> None:
    steps = tomllib.loads((TEMPLATE / "trajectory/isic8.toml").read_text(encoding="utf-8"))["step"]
    run.edit(*range(len(steps)))
    trained = run.train()
    assert trained.returncode == 0, trained.stdout
    predicted = run.predict()
    assert predicted.returncode == 0, predicted.stdout
