"""predict.py that misbehaves: the run fails with a sentence that tells the agent what was wrong and what is valid."""

from __future__ import annotations

import pytest

from .lab import Lab, predict_code

BAD = {
    "nothing": ("sys.exit(0)", "no predictions file"),
    "an empty file": ("args.out.touch(); sys.exit(0)", "empty"),
    "garbage": ("args.out.write_bytes(os.urandom(900)); sys.exit(0)", "header"),
    "wrong columns": ("classes = ['cat', 'dog', 'cow']", "header"),
    "a missing case": ("cases, rows = cases[1:], rows[1:]", "missing"),
    "a repeated case": ("cases, rows = [*cases, cases[0]], [*rows, rows[0]]", "repeating"),
    "a foreign case": ("cases, rows = [*cases, 'c0ffee'], [*rows, rows[0]]", "not issued"),
    "nan": (
        "args.out.write_text('case_id,' + ','.join('p_' + c for c in classes) + '\\n' + cases[0] + ',nan,0,1\\n'); sys.exit(0)",
        "nan",
    ),
    "1e999": (
        "args.out.write_text('case_id,' + ','.join('p_' + c for c in classes) + '\\n' + cases[0] + ',1e999,0,0\\n'); sys.exit(0)",
        "1e999",
    ),
    "a line of 50 MB": ("args.out.write_bytes(b'x' * (50 << 20)); sys.exit(0)", "bytes"),
    "a symbolic link": ("args.out.symlink_to('/etc/hostname'); sys.exit(0)", "no predictions file"),
    "a pipe": ("os.mkfifo(args.out); sys.exit(0)", "no predictions file"),
    "a folder": ("args.out.mkdir(); sys.exit(0)", "predictions file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_predictions_fail_the_run_with_what_is_wrong(lab: Lab, name: str) -> None:
    body, word = BAD[name]
    lab.allow(out_bytes=64 << 20)
    task = lab.task(predict=predict_code(body))

    run = lab.smoke(task)

    assert (run.status, run.end_reason) == ("failed", "invalid_predictions"), run
    assert "predict.py" in run.message and word in run.message, run.message
    assert str(lab.services.settings.state) not in run.message
    lab.check(task)


def test_a_predict_py_that_crashes_fails_the_run_and_the_log_says_why(lab: Lab) -> None:
    task = lab.task(predict=predict_code("raise ValueError('no such layer')"))

    run = lab.smoke(task)

    assert (run.status, run.end_reason) == ("failed", "predict_crash"), run
    assert "ValueError: no such layer" in lab.services.state.task(task).run(run.name).log("predict").read_text()
    lab.check(task)


def test_a_predict_py_that_hangs_is_ended_at_its_limit(lab: Lab) -> None:
    task = lab.task(
        predict=predict_code("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    )

    run = lab.smoke(task)

    assert (run.status, run.end_reason) == ("failed", "predict_deadline"), run
    assert "4 s" in run.message
    lab.check(task)
