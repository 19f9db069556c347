"""The scoring process under hostile files and caps."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clinloop.errors import BadPredictions, Refusal
from clinloop.scoring import service
from clinloop.scoring.service import ChildLimits

from .drawn import BOXES, MASKS, SCHEME, TruthRows, drawn_boxes, predict


@pytest.fixture(params=["missing", "link", "hard link", "pipe", "folder", "device", "sparse", "sparse line"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path, truth: TruthRows) -> Path:
    path, good = tmp_path / "predictions.csv", tmp_path / "good.csv"
    good.write_bytes(predict(truth, skill=0.5))
    match request.param:
        case "link":
            path.symlink_to(good)
        case "hard link":
            path.hardlink_to(good)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            return Path("/dev/zero")
        case "sparse":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        case "sparse line":
            with path.open("wb") as file:
                file.write(b"case_id,p_MEL,p_NV,p_BCC\nc0,")
                file.truncate(1 << 30)
        case _:
            pass
    return path


def test_a_file_that_is_not_a_plain_small_file_is_refused_at_once(
    hostile: Path, score: Callable[..., service.ScoreResult]
) -> None:
    started = time.monotonic()
    with pytest.raises(BadPredictions) as caught:
        score(hostile)
    assert str(hostile) not in str(caught.value)
    with pytest.raises(BadPredictions):
        service.read_predictions(hostile, scheme=SCHEME)
    assert time.monotonic() - started < 20


def test_a_scoring_process_that_takes_too_long_is_stopped(
    truth: TruthRows, score: Callable[..., service.ScoreResult]
) -> None:
    with pytest.raises(Refusal, match="longer than 1 s") as caught:
        score(predict(truth, skill=0.5), intervals=True, resamples=20_000_000, limits=ChildLimits(seconds=1))
    assert type(caught.value) is Refusal


def test_a_scoring_process_that_needs_too_much_memory_is_stopped(
    truth: TruthRows, score: Callable[..., service.ScoreResult]
) -> None:
    with pytest.raises(Refusal, match=r"memory.*no score was recorded") as caught:
        score(predict(truth, skill=0.5), intervals=True, resamples=2_000_000_000)
    assert type(caught.value) is Refusal


def test_a_scoring_process_that_dies_is_reported(truth: TruthRows, score: Callable[..., service.ScoreResult]) -> None:
    with pytest.raises(Refusal, match="ended without an answer"):
        score(predict(truth, skill=0.5), limits=ChildLimits(memory_bytes=24 << 20))


def test_the_server_side_imports_neither_numpy_nor_scikit_learn() -> None:
    code = (
        "import sys, clinloop.scoring.service, clinloop.scoring.metrics;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'numpy', 'sklearn', 'scipy', 'torch'}))"
    )
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_scoring_process_imports_nothing_that_only_an_analysis_needs() -> None:
    code = (
        "import sys, clinloop.scoring.child, clinloop.scoring.compute;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'pydantic', 'sklearn', 'scipy'}))"
    )
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_nested_bomb_of_a_file_ends_as_bad_predictions() -> None:
    truth, _ = drawn_boxes(skill=1)
    for data in (b"[" * 1_000_000, b"[" + b"{}," * 500_000 + b"{}]"):
        with pytest.raises(BadPredictions):
            service.score_predictions(data, truth, scheme=BOXES, metrics=[], primary="ap50", intervals=False)
    runs = b'[{"image_id":"m000","size":[1,1],"counts":[' + b"1000," * 24_000_000 + b"1]}]"
    with pytest.raises(BadPredictions, match="more memory than any valid one"):
        service.read_predictions(runs, scheme=MASKS, limits=ChildLimits(memory_bytes=1 << 29))
    with pytest.raises(BadPredictions, match="bytes"):
        service.read_predictions(b" " * 4_000_000, scheme=BOXES, expected=[case.case_id for case in truth])
