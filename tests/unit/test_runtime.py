"""The runtime that training code uses inside a sandbox, driven with a folder tree and a thread that plays the server."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from clinloop.paths import EMBEDDINGS
from clinloop.scoring.embeddings import parse_embeddings

CLASSES = ["cat", "dog", "emu"]
UNIFORM = [[1 / 3, 1 / 3, 1 / 3]] * 2


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that a sandbox sees, with two training and two validation cases."""
    for name in ("data/images", "out", "session/answers", "weights", "inputs"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("data", "out", "session", "weights", "inputs"):
        monkeypatch.setenv(f"CLINLOOP_{name.upper()}", str(tmp_path / name))
    (tmp_path / "data/cases.csv").write_text(
        "case_id,split,group,label,age\na1,train,g1,cat,30\na2,train,g1,emu,\nb1,val,g2,,50\nb2,val,g3,,\n",
        encoding="utf-8",
    )
    write_session(tmp_path)
    return tmp_path


def write_session(box: Path, *, seconds: float = 30.0, cap: int = 3, mode: str = "full") -> None:
    facts = {
        "mode": mode,
        "phase": "train",
        "task_type": "classification",
        "classes": CLASSES,
        "seed": 7,
        "deadline_unix": time.time() + seconds,
        "primary_metric": "macro_auc",
        "validations_cap": cap,
    }
    (box / "session/session.json").write_text(json.dumps(facts), encoding="utf-8")


@pytest.fixture
def server(box: Path) -> Iterator[Callable[[list[dict[str, object]]], None]]:
    """Answers the submissions 1, 2, … with the given answers, each as soon as its file is there."""
    threads: list[threading.Thread] = []
    ended = threading.Event()

    def answer(answers: list[dict[str, object]]) -> None:
        def serve() -> None:
            for number, content in enumerate(answers, start=1):
                while not (box / f"out/validation/{number:04d}.csv").exists():
                    if ended.wait(0.005):
                        return
                partial = box / "session/answers/partial"
                partial.write_text(json.dumps(content), encoding="utf-8")
                partial.replace(box / f"session/answers/{number:04d}.json")

        threads.append(threading.Thread(target=serve))
        threads[-1].start()

    yield answer
    ended.set()
    for thread in threads:
        thread.join(5)


def test_a_session_holds_what_the_server_said(runtime: ModuleType, box: Path) -> None:
    session = runtime.open_session()
    assert (session.classes, session.seed, session.smoke, session.primary_metric) == (CLASSES, 7, False, "macro_auc")
    assert session.checkpoint == box / "out/checkpoint"
    assert 20 < session.seconds_left() <= 30


def test_smoke_mode_and_a_passed_deadline_are_seen(runtime: ModuleType, box: Path) -> None:
    write_session(box, seconds=-5, mode="smoke")
    session = runtime.open_session()
    assert session.smoke
    assert session.seconds_left() == 0


def test_cases_come_split_with_their_attributes_and_validation_without_labels(runtime: ModuleType, box: Path) -> None:
    session = runtime.open_session()
    assert session.train_cases() == [
        runtime.Case("a1", "train", "g1", "cat", {"age": "30"}),
        runtime.Case("a2", "train", "g1", "emu", {"age": ""}),
    ]
    assert [(case.case_id, case.label) for case in session.val_cases()] == [("b1", ""), ("b2", "")]


def test_an_image_is_found_by_its_case_id_whatever_its_suffix(runtime: ModuleType, box: Path) -> None:
    (box / "data/images/a1.png").touch()
    (box / "data/images/a2.jpg").touch()
    session = runtime.open_session()
    assert [session.image_path(case_id).name for case_id in ("a1", "a2")] == ["a1.png", "a2.jpg"]
    with pytest.raises(FileNotFoundError, match="b1"):
        session.image_path("b1")


def test_the_decoded_cache_is_a_read_only_memory_map_with_an_index(runtime: ModuleType, box: Path) -> None:
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.save(box / "data/cache_4.npy", pixels)
    (box / "data/cache_4.json").write_text(json.dumps({"px": 4, "case_ids": ["b1", "a1"]}), encoding="utf-8")
    images, row = runtime.open_session().cache(4)
    assert isinstance(images, np.memmap) and not images.flags.writeable
    np.testing.assert_array_equal(images[row["a1"]], pixels[1])


def test_a_size_without_a_cache_gives_none(runtime: ModuleType, box: Path) -> None:
    assert runtime.open_session().cache(999) is None


def test_a_submission_reaches_the_server_as_csv_and_its_score_comes_back(
    runtime: ModuleType, box: Path, server: Callable[[list[dict[str, object]]], None]
) -> None:
    server([{"score": 0.75, "best": True, "left": 2}, {"score": 0.7, "best": False, "left": 1}])
    session = runtime.open_session()
    first = session.validate(["b1", "b2"], [[0.5, 0.25, 0.25], [0, 0, 1]])
    second = session.validate(["b1", "b2"], np.full((2, 3), 1 / 3))
    assert first == runtime.Score(0.75, True, 2)
    assert second == runtime.Score(0.7, False, 1)
    text = (box / "out/validation/0001.csv").read_text(encoding="utf-8")
    assert text == "case_id,p_cat,p_dog,p_emu\nb1,0.5,0.25,0.25\nb2,0,0,1\n"
    assert sorted(path.name for path in (box / "out/validation").iterdir()) == ["0001.csv", "0002.csv"]


def test_scores_are_kept_as_json_lines_in_history(
    runtime: ModuleType,
    box: Path,
    server: Callable[[list[dict[str, object]]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    server([{"score": 0.75, "best": True, "left": 2}])
    runtime.open_session().validate(["b1", "b2"], UNIFORM)
    line = json.loads((box / "out/history.jsonl").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == line
    assert line | {"t": 0} == {"t": 0, "event": "validation", "score": 0.75, "best": True, "left": 2}


def test_a_refused_submission_does_not_end_training(
    runtime: ModuleType, box: Path, server: Callable[[list[dict[str, object]]], None]
) -> None:
    server([{"error": "case b9 is missing", "left": 2}])
    score = runtime.open_session().validate(["b1", "b2"], UNIFORM)
    assert math.isnan(score.value)
    assert (score.best, score.left, score.problem) == (False, 2, "case b9 is missing")


def test_without_submissions_left_nothing_is_written_and_training_goes_on(runtime: ModuleType, box: Path) -> None:
    write_session(box, cap=0)
    score = runtime.open_session().validate(["b1", "b2"], UNIFORM)
    assert math.isnan(score.value)
    assert (score.best, score.left, score.problem) == (False, 0, "no submission left")
    assert not (box / "out/validation").exists()


def test_a_silent_server_is_waited_for_no_longer_than_the_deadline(runtime: ModuleType, box: Path) -> None:
    write_session(box, seconds=0.2)
    began = time.monotonic()
    score = runtime.open_session().validate(["b1", "b2"], UNIFORM)
    assert time.monotonic() - began < 5
    assert (score.best, score.problem) == (False, "no answer in time")


def test_a_second_process_of_a_run_goes_on_counting_submissions(
    runtime: ModuleType, box: Path, server: Callable[[list[dict[str, object]]], None]
) -> None:
    server([{"score": 0.6, "best": True, "left": 2}, {"score": 0.7, "best": True, "left": 1}])
    runtime.open_session().validate(["b1", "b2"], UNIFORM)
    assert runtime.open_session().validate(["b1", "b2"], UNIFORM) == runtime.Score(0.7, True, 1)


@pytest.mark.parametrize(
    ("probabilities", "says"),
    [
        ([[1, 0, 0]], "2 case ids but 1 rows"),
        ([[1, 0], [1, 0]], "2 probabilities for the 3 classes"),
        ([[math.nan, 0, 0], [1, 0, 0]], "finite"),
        ([[1.5, -0.5, 0], [1, 0, 0]], r"\[0, 1\]"),
        ([[0.5, 0.1, 0], [1, 0, 0]], "sum to 0.6"),
    ],
)
def test_malformed_probabilities_are_a_bug_that_is_raised(
    runtime: ModuleType, box: Path, probabilities: list[list[float]], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        runtime.open_session().validate(["b1", "b2"], probabilities)
    with pytest.raises(ValueError, match=says):
        runtime.write_predictions(box / "out/predictions.csv", ["b1", "b2"], CLASSES, probabilities)
    assert not (box / "out/predictions.csv").exists()


def test_embeddings_lie_beside_the_predictions_as_the_server_reads_them_and_bad_ones_cost_a_run_nothing(
    runtime: ModuleType, box: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, rows = box / "out/predictions", np.random.default_rng(0).normal(size=(3, 4))
    runtime.write_embeddings(out, ["b1", "b2", "b3"], [rows[:2, :3], rows[2:]])
    runtime.write_embeddings(out, ["b1", "b2"], [rows])
    runtime.write_embeddings(out, ["b1"], [])
    assert not list((box / "out").iterdir()) and capsys.readouterr().out.count("no embeddings") == 3
    monkeypatch.setenv("CLINLOOP_SESSION", str(box / "nowhere"))
    runtime.write_embeddings(out, ["b1", "b2", "b3"], [rows])
    assert not list((box / "out").iterdir())  # a delivered model
    monkeypatch.setenv("CLINLOOP_SESSION", str(box / "session"))
    rows[0, 0], rows[1, 1] = np.nan, 1e9
    runtime.write_embeddings(out, ["b1", "b2", "b3"], [rows[:2], rows[2:]])
    found = parse_embeddings(*((box / "out" / name).read_bytes() for name in EMBEDDINGS), ["b3", "b2", "b1"])
    assert list(found) == ["b1", "b2", "b3"] and found["b1"][0] == 0 and found["b2"][1] == 65504
    assert np.allclose(found["b3"], rows[2], rtol=1e-3)
    runtime.write_embeddings(out, ["b1"], [np.ones((1, 5000))])
    (wide,) = parse_embeddings(*((box / "out" / name).read_bytes() for name in EMBEDDINGS), ["b1"]).values()
    assert wide.shape == (2048,)


def test_cases_to_predict_come_from_the_table_beside_the_images(runtime: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/c1.jpg").touch()
    (tmp_path / "cases.csv").write_text("case_id,sex\nc1,female\n", encoding="utf-8")
    assert runtime.predict_cases(tmp_path / "images") == [
        (runtime.Case("c1", "", "", "", {"sex": "female"}), tmp_path / "images/c1.jpg")
    ]


def test_a_delivered_model_predicts_any_folder_of_images_without_a_session(
    runtime: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINLOOP_SESSION", str(tmp_path / "nowhere"))
    (tmp_path / "images").mkdir()
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / "images" / name).touch()
    assert runtime.predict_session() is None
    assert [case.case_id for case, _ in runtime.predict_cases(tmp_path / "images")] == ["a", "b"]


def test_log_lines_are_json_even_for_numpy_numbers_and_nan(
    runtime: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime.log(event="step", loss=np.float32(0.5), bad=float("nan"), shape=(1, 2))
    assert json.loads(capsys.readouterr().out) | {"t": 0} == {
        "t": 0,
        "event": "step",
        "loss": 0.5,
        "bad": None,
        "shape": [1, 2],
    }


def test_the_runtime_imports_nothing_but_the_standard_library(runtime: ModuleType) -> None:
    imported = {name for name, value in vars(runtime).items() if isinstance(value, ModuleType)}
    assert imported <= {"csv", "json", "math", "os", "sys", "time"}
