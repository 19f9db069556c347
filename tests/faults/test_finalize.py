"""finalize under faults: refused, repeated, raced, cut off, and predict.py that behaves only until the test images come."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from clinloop import evaluation, runs
from clinloop.app import build
from clinloop.errors import BadInput, BudgetExceeded, NotNow

from .lab import Lab, predict_code, train_code, until

RACER = Path(__file__).with_name("racer.py")
# The probabilities are a function of the pixels, so that renamed copies get the same ones.
BY_PIXELS = """
from PIL import Image
rows = []
for _, path in predict_cases(args.images):
    with Image.open(path) as image:
        red, green, blue = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
    rows.append([value / (red + green + blue) for value in (red, green, blue)])
"""


def report_of(lab: Lab, task: str) -> dict[str, Any]:
    return json.loads((lab.services.state.task(task).report / "report.json").read_text(encoding="utf-8"))


def test_finalize_needs_an_accepted_run_its_right_name_and_no_active_run(lab: Lab) -> None:
    task = lab.task(train_code("raise SystemExit(1)"))
    with pytest.raises(NotNow, match="no accepted run"):
        lab.finalize(task)
    lab.full(task)
    with pytest.raises(NotNow, match="no accepted run"):
        lab.finalize(task)

    lab.edit(task, "train.py", train_code("session.checkpoint.write_text('weights')\ntime.sleep(1)"))
    accepted = lab.full(task)
    for wrong in ("run0", "run7", "", "../run1", "run1\0"):
        with pytest.raises(BadInput, match="not the incumbent; the accepted model is run1"):
            lab.finalize(task, wrong)

    active = lab.start(task)
    with pytest.raises(NotNow, match="run2 is active"):
        lab.finalize(task, accepted.name)
    lab.end(active)
    assert lab.store.task(task).status == "open"
    assert "evaluation_started" not in lab.events(task)
    lab.check(task)


def race(lab: Lab, what: str, task: str, n: int = 8) -> list[list[Any]]:
    """Let n processes do the same at the same moment; returns what each printed."""
    at = str(time.time() + 6)  # all have started by then, also on a busy machine
    command = [sys.executable, str(RACER), str(lab.services.settings.state), what, task, at]
    racers = [subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE) for number in range(n)]
    return [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]


def test_finalize_called_by_eight_processes_at_once_makes_one_evaluation(lab: Lab) -> None:
    task = lab.task(predict=predict_code(BY_PIXELS))
    lab.full(task)

    statuses = race(lab, "finalize", task)

    assert {status for (status,) in statuses} <= {"evaluating", "unsealed", "evaluated"}
    ended = lab.evaluated(task)
    assert ended.status == "evaluated"
    events = lab.events(task)
    assert [events.count(name) for name in ("evaluation_started", "unsealing", "scored", "evaluated")] == [1, 1, 1, 1]
    assert "evaluation_resumed" not in events
    evaluation.start(lab.services, task, "run0")  # again, and later: the stored result
    assert lab.store.task(task) == ended
    lab.check(task)


def test_eight_processes_that_start_the_last_unit_at_once_get_one_run(lab: Lab) -> None:
    task = lab.task(train_code("time.sleep(3)\nsession.checkpoint.write_text('weights')"))
    granted = lab.store.balance(task)["smoke"]
    for number in range(granted - 1):  # spend all but one, without training
        name = lab.store.reserve_run(
            task_id=task,
            mode="smoke",
            request_id=f"spent{number}",
            revision="r1",
            tree_sha256="",
            hypothesis="",
            inputs=[],
        )[0].name
        lab.store.settle_run(task, name, "failed", end_reason="crash", message="spent")

    outcomes = race(lab, "smoke", task)

    assert sum(is_new for _, _, is_new in outcomes) == 1, outcomes
    assert {name for name, _, _ in outcomes if name} == {f"smoke{granted}"}
    assert lab.end(lab.store.run(task, f"smoke{granted}")).status == "succeeded"
    assert lab.store.balance(task)["smoke"] == 0
    with pytest.raises(BudgetExceeded):
        lab.start(task, "smoke")
    lab.check(task)


def test_a_predictor_that_is_not_reproducible_gives_the_task_back_with_the_test_set_untouched(lab: Lab) -> None:
    noise = "import random\nrows = [[p, (1 - p) / 2, (1 - p) / 2] for p in (random.random() for _ in cases)]"
    task = lab.task(predict=predict_code(noise))
    lab.full(task)

    lab.finalize(task)
    back = lab.evaluated(task)

    assert back.status == "open" and "not reproducible" in back.phase, back
    assert "unsealing" not in lab.events(task) and "rehearsal_failed" in lab.events(task)
    lab.edit(task, "predict.py", predict_code(BY_PIXELS))
    mended = lab.full(task)  # the task goes on
    assert mended.status == "succeeded"
    lab.check(task)


def test_a_predictor_that_fails_in_the_rehearsal_gives_the_task_back(lab: Lab) -> None:
    # It works once, for the score of the run: later its checkpoint lies elsewhere.
    once = "if 'runs' not in str(args.checkpoint.resolve()): raise ValueError('not in my folder')"
    task = lab.task(predict=predict_code(once))
    lab.full(task)

    lab.finalize(task)
    back = lab.evaluated(task)

    assert back.status == "open" and "failed on validation images" in back.phase, back
    assert "unsealing" not in lab.events(task)
    lab.check(task)


@pytest.mark.anyio
async def test_a_predictor_that_fails_on_test_images_only_makes_the_task_invalid_and_tells_nothing(lab: Lab) -> None:
    val = lab.services.state.task(task := lab.task()).data / "view" / "images"
    n_val = len(list(val.iterdir()))
    task = lab.task(predict=predict_code(f"if len(cases) > {n_val}: raise ValueError('SECRET ' + ' '.join(cases))"))
    assert lab.full(task).status == "succeeded"

    lab.finalize(task)
    ended = lab.evaluated(task)

    assert ended.status == "invalid" and ended.result is not None
    names = json.loads((lab.services.state.task(task).final / "names.json").read_text())
    replies: list[str] = []
    async with Client(build(lab.services), mode="2026-07-28") as client:
        for tool, arguments in [
            ("finalize", {"run": "run0"}),
            ("read_validation", {}),
            *(("read_validation", {"view": "log", "log": log}) for log in ("train", "predict")),
            ("read_validation", {"view": "runs"}),
            ("run_training", {}),
        ]:
            replies.append(str(await client.call_tool(tool, {"task_id": task, **arguments})))
    replies.append(json.dumps([row._asdict() for row in lab.store.ledger(f"task:{task}")]))
    for reply in replies:
        assert "SECRET" not in reply and "ValueError" not in reply
        assert not any(name in reply for name in [*names["test"], *names["test"].values()])
    assert "invalid" in replies[0] and "clinician" in replies[0]
    lab.check(task)


def test_predictions_that_break_their_contract_on_test_images_make_the_task_invalid(lab: Lab) -> None:
    val = lab.services.state.task(lab.task()).data / "view" / "images"
    n_val = len(list(val.iterdir()))
    task = lab.task(predict=predict_code(f"if len(cases) > {n_val}: cases, rows = cases[1:], rows[1:]"))
    lab.full(task)

    lab.finalize(task)

    assert lab.evaluated(task).status == "invalid"
    assert "missing" in (lab.services.state.task(task).final / "failure.txt").read_text()
    lab.check(task)


@pytest.mark.parametrize(
    "body",
    [
        "known = set(Path(args.checkpoint).read_text().split())\nif not known & set(cases): rows = [[0.2, 0.3, 0.5]] * len(cases)",
        "rows = [[(i % 7) / 7, (6 - i % 7) / 7, 1 / 7] for i in range(len(cases))]",
    ],
    ids=["the ids of validation images", "the place in the list"],
)
def test_a_predictor_that_goes_by_something_else_than_pixels_is_caught_in_the_rehearsal(lab: Lab, body: str) -> None:
    remember = "session.checkpoint.write_text(' '.join(case.case_id for case in session.val_cases()))"
    task = lab.task(train_code(remember), predict_code(body))
    lab.full(task)

    lab.finalize(task)
    back = lab.evaluated(task)

    assert back.status == "open" and "not reproducible" in back.phase, back
    assert "unsealing" not in lab.events(task)
    lab.check(task)


def test_a_predictor_that_answers_a_larger_set_of_images_differently_is_shown_by_the_canaries(lab: Lab) -> None:
    val = lab.services.state.task(lab.task()).data / "view" / "images"
    n_val = len(list(val.iterdir()))
    task = lab.task(predict=predict_code(f"if len(cases) > {n_val}: rows = [[0.2, 0.3, 0.5]] * len(cases)"))
    lab.full(task)

    lab.finalize(task)

    assert lab.evaluated(task).status == "evaluated"
    integrity = report_of(lab, task)["integrity"]
    assert all(check["agreeing"] < check["n"] for check in integrity["canaries"]), integrity
    lab.check(task)


def test_an_honest_predictor_passes_canaries_and_order_audit(lab: Lab) -> None:
    task = lab.task(predict=predict_code(BY_PIXELS))
    lab.full(task)

    lab.finalize(task)

    assert lab.evaluated(task).status == "evaluated"
    integrity = report_of(lab, task)["integrity"]
    assert all(check["agreeing"] == check["n"] > 20 for check in integrity["canaries"]), integrity
    assert all(audit["ok"] for audit in integrity["order"]), integrity
    assert integrity["touched"] == "once"
    lab.check(task)


def test_an_evaluation_that_is_cut_off_twice_while_it_predicts_test_images_is_invalid(lab: Lab) -> None:
    task = lab.task(predict=predict_code(BY_PIXELS + "time.sleep(0.5)"))
    lab.full(task)
    lab.finalize(task)
    final = lab.services.state.task(task).final
    for begun in (["predicting"], ["predicting", "interrupted"]):  # a supervisor that is still starting does not count
        until(
            lambda begun=begun: (runs.recover(lab.services, task), all((final / name).exists() for name in begun))[1],
            60,
        )
        time.sleep(0.2)
        lab.kill_supervisor(task, "finalize")
        runs.recover(lab.services, task)

    assert lab.evaluated(task).status == "invalid"
    assert "interrupted twice" in (lab.services.state.task(task).final / "failure.txt").read_text()
    lab.check(task)
