"""Training code that misbehaves: the run ends with a status, a reason and a sentence that say so, is charged, and nothing hangs."""

from __future__ import annotations

import json
import time

import pytest

from clinloop import runs

from .lab import GOOD_PREDICT, GOOD_TRAIN, Lab, train_code

WRITES_A_CHECKPOINT = "session.checkpoint.write_text('weights')\n"


def test_a_crash_fails_the_run_is_charged_and_explained_by_the_log(lab: Lab) -> None:
    task = lab.task(train_code(WRITES_A_CHECKPOINT + "raise RuntimeError('the loss is not finite')"))

    run = lab.full(task)

    assert (run.status, run.end_reason, run.decision) == ("failed", "crash", "none")
    assert "exit status 1" in run.message and "log" in run.message
    assert (
        "RuntimeError: the loss is not finite" in lab.services.state.task(task).run(run.name).log("train").read_text()
    )
    assert lab.charged(task) == 1
    lab.check(task)


def test_a_baseline_that_crashed_can_be_mended_and_run_again(lab: Lab) -> None:
    task = lab.task(train_code("raise SystemExit(3)"))
    assert lab.full(task).status == "failed"
    lab.edit(task, "train.py", GOOD_TRAIN)

    run = lab.full(task)

    assert (run.name, run.revision, run.status, run.decision) == ("run1", "r2", "succeeded", "accepted"), run
    assert lab.charged(task) == 2


def test_code_that_hangs_is_ended_at_its_deadline_and_its_checkpoint_is_scored(lab: Lab) -> None:
    hang = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(60)"
    kept, empty = lab.task(train_code(WRITES_A_CHECKPOINT + hang)), lab.task(train_code(hang))
    begun = time.monotonic()
    started = [
        lab.start(kept),
        lab.start(empty),
    ]  # at the same time: both need their whole 24 s and the grace after them

    scored, failed = (lab.end(run) for run in started)

    assert 24 < time.monotonic() - begun < 60
    assert (scored.status, scored.end_reason, scored.decision) == ("succeeded", "deadline", "accepted"), scored
    assert (failed.status, failed.end_reason) == ("failed", "deadline"), failed
    assert "deadline" in failed.message and "/out/checkpoint" in failed.message
    assert lab.charged(kept) == lab.charged(empty) == 1
    lab.check(kept)
    lab.check(empty)


def test_a_run_that_ignores_signals_is_stopped_on_request(lab: Lab) -> None:
    task = lab.task(
        train_code(
            "import signal\nfor n in (1, 2, 3, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: time.sleep(60)"
        )
    )
    run = lab.reach(lab.start(task), "training")

    runs.stop(lab.services, task, run.name)

    assert lab.end(run, within_s=15).status == "stopped"
    assert lab.charged(task) == 1
    lab.check(task)


def test_a_run_is_stopped_while_predict_py_runs(lab: Lab) -> None:
    task = lab.task(predict="import time\ntime.sleep(60)\n")
    run = lab.reach(lab.start(task), "predicting")

    runs.stop(lab.services, task, run.name)

    assert lab.end(run, within_s=3.5).status == "stopped"
    lab.check(task)


def test_a_daemon_that_training_leaves_behind_is_ended_with_it(lab: Lab) -> None:
    daemon = "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n    os._exit(0)\n"
    task = lab.task(train_code(daemon + WRITES_A_CHECKPOINT))

    run = lab.smoke(task)

    assert run.status == "succeeded", run
    lab.check(task)


@pytest.mark.parametrize("line", ["b'x' * 99 + b'\\n'", "b'x' * 100"], ids=["of lines", "without a newline"])
def test_a_flood_of_100_mb_leaves_a_capped_log_with_its_end(lab: Lab, line: str) -> None:
    flood = f"import sys\nblock = ({line}) * 10_000\nfor _ in range(100): sys.stdout.buffer.write(block)\nprint('the end')\n"
    task = lab.task(train_code(flood + WRITES_A_CHECKPOINT))

    run = lab.smoke(task)

    log = lab.services.state.task(task).run(run.name).log("train").read_bytes()
    assert run.status == "succeeded", run
    assert len(log) < lab.services.settings.limits.log_bytes + 200
    assert log.rstrip().endswith(b"the end") and b"bytes dropped" in log


@pytest.mark.parametrize(
    "body",
    [
        "",
        "(session.out / 'model.pt').write_text('at the wrong place')",
        "session.checkpoint.mkdir()",
        "session.checkpoint.symlink_to('/etc/hostname')",
        "import os; os.mkfifo(session.checkpoint)",
        "(session.out / 'a').write_text('x'); import os; os.link(session.out / 'a', session.checkpoint)",
    ],
    ids=["nothing", "another file", "a folder", "a symbolic link", "a pipe", "a hard link"],
)
def test_training_that_leaves_no_plain_checkpoint_fails_with_what_is_missing(lab: Lab, body: str) -> None:
    task = lab.task(train_code(body))

    run = lab.smoke(task)

    assert (run.status, run.end_reason) == ("failed", "no_checkpoint"), run
    assert "/out/checkpoint" in run.message
    lab.check(task)


@pytest.mark.sandbox
def test_filling_out_ends_the_run_as_disk_full(strict_lab: Lab) -> None:
    fill = "with open(session.out / 'big', 'wb') as file:\n    while True: file.write(b'x' * (1 << 20))\n"
    strict_lab.allow(out_bytes=256 << 20)
    task = strict_lab.task(train_code(fill))

    run = strict_lab.smoke(task)

    assert (run.status, run.end_reason) == ("failed", "disk_full"), run
    assert "filled /out" in run.message
    strict_lab.check(task)


@pytest.mark.sandbox
def test_using_too_much_memory_ends_the_run_as_out_of_memory(strict_lab: Lab) -> None:
    task = strict_lab.task(train_code("hoard = []\nwhile True: hoard.append(b'x' * (16 << 20))\n"))

    run = strict_lab.smoke(task)

    assert (run.status, run.end_reason) == ("failed", "out_of_memory"), run
    assert "memory" in run.message
    strict_lab.check(task)


HEADER = "'case_id,' + ','.join('p_' + name for name in session.classes)"
ROWS = "[case.case_id + ',' + ','.join([repr(1 / len(session.classes))] * len(session.classes)) for case in session.val_cases()]"
SUBMISSIONS = {
    "garbage": ("data = b'\\x00\\xff' * 400", "header"),
    "empty": ("data = b''", "empty"),
    "nan": ("rows[0] = rows[0].split(',')[0] + ',nan,0,1'", "nan"),
    "1e999": ("rows[0] = rows[0].split(',')[0] + ',1e999,0,0'", "1e999"),
    "missing ids": ("rows = rows[3:]", "missing"),
    "duplicate ids": ("rows.append(rows[0])", "repeating"),
    "ids that were not issued": ("rows.append('c0ffee,1,0,0')", "not issued"),
    "wrong columns": ("header = 'case_id,p_cat,p_dog'", "header"),
    "a line of 1 GB": ("data = None\nwith open(folder / '0001.csv', 'wb') as file: file.truncate(1 << 30)", "bytes"),
    "a folder": ("data = None\n(folder / '0001.csv').mkdir()", "file"),
    "a pipe": ("data = None\nimport os\nos.mkfifo(folder / '0001.csv')", "file"),
    "a symbolic link": ("data = None\n(folder / '0001.csv').symlink_to('/etc/hostname')", "link"),
}


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_a_submission_that_breaks_its_contract_is_answered_and_the_next_one_is_scored(lab: Lab, name: str) -> None:
    body, word = SUBMISSIONS[name]
    lab.allow(out_bytes=2 << 30)
    code = f"""
folder = session.out / "validation"
folder.mkdir()
header, rows, data = {HEADER}, {ROWS}, b""
good = "\\n".join([header, *rows]).encode()
data = "later"
{body}
if data == "later":
    data = "\\n".join([header, *rows]).encode()
for number, content in ((1, data), (2, good)):
    if content is not None:
        (folder / "partial").write_bytes(content)
        (folder / "partial").rename(folder / f"{{number:04d}}.csv")
    answer = session.session / "answers" / f"{{number:04d}}.json"
    while not answer.exists():
        time.sleep(0.02)
    print(answer.read_text(), flush=True)
if (folder / "0001.csv").is_file():
    (folder / "0001.csv").unlink()  # nobody needs to copy 1 GB out
session.checkpoint.write_text("weights")
"""
    task = lab.task(train_code(code))

    run = lab.smoke(task)

    folder = lab.services.state.task(task).run(run.name)
    assert run.status == "succeeded", (run, folder.log("train").read_text())
    first, second = (json.loads(line) for line in folder.validations.read_text().splitlines())
    assert word in first["error"] and "score" not in first, first
    assert second["score"] == 0.5, second


def test_submissions_beyond_the_cap_are_never_scored(lab: Lab) -> None:
    code = """
cases = [case.case_id for case in session.val_cases()]
scores = [session.validate(cases, [[1 / len(session.classes)] * len(session.classes)] * len(cases)) for _ in range(7)]
(session.out / "validation" / "0006.csv").write_bytes((session.out / "validation" / "0001.csv").read_bytes())
time.sleep(1)
assert [score.left for score in scores] == [4, 3, 2, 1, 0, 0, 0], scores
assert scores[-1].problem == "no submission left"
assert not (session.session / "answers" / "0006.json").exists()
session.checkpoint.write_text("weights")
"""
    task = lab.task(train_code(code))

    run = lab.smoke(task)

    folder = lab.services.state.task(task).run(run.name)
    assert run.status == "succeeded", (run, folder.log("train").read_text())
    assert len(folder.validations.read_text().splitlines()) == 5


def test_a_workspace_without_train_py_or_predict_py_fails_and_says_which(lab: Lab) -> None:
    task = lab.task()
    lab.workspace(task).delete("predict.py")
    run = lab.smoke(task)
    assert (run.status, run.end_reason) == ("failed", "predict_crash"), run
    assert "predict.py" in lab.services.state.task(task).run(run.name).log("predict").read_text()

    lab.edit(task, "predict.py", GOOD_PREDICT)
    lab.workspace(task).delete("train.py")
    run = lab.smoke(task)
    assert (run.status, run.end_reason) == ("failed", "crash"), run
    assert "train.py" in lab.services.state.task(task).run(run.name).log("train").read_text()
    lab.check(task)
