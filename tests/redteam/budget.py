"""Section D: the budget and the score."""

from __future__ import annotations

import json
import subprocess
import sys

from .case import SERVER, Case
from .stage import Stage, train_code

_FORGED = """
import json
nice = {"score": 1.0, "primary": 1.0, "macro_auc": 1.0, "decision": "accepted", "status": "succeeded"}
for name in ("metrics.json", "scores.json", "result.json", "session.json"):
    (session.out / name).write_text(json.dumps(nice))
(session.out / "validations.jsonl").write_text(json.dumps({"n": 1, "seconds": 1, "score": 1.0, "best": True}) + "\\n")
(session.out / "history.jsonl").write_text(json.dumps({"t": 1.0, "event": "validation", "score": 1.0, "best": True, "left": 99}) + "\\n")
print(json.dumps(nice))
print("macro_auc: 1.0000 (accepted by the server)")
"""


def _forged_scores(stage: Stage) -> str:
    """What counts, and what the agent reads, is what the server computed: 0.5 for equal probabilities."""
    run = stage.full(_FORGED + stage.CHECKPOINT)
    seen, curve = stage.calls(
        [
            ("read_validation", {"task_id": run.task_id, "run": run.name, "view": "scores"}),
            ("read_validation", {"task_id": run.task_id, "run": run.name, "view": "curve"}),
        ]
    )
    shown = json.dumps(
        [seen.content["scores"]["metrics"]["macro_auc"], curve.content["validations"], seen.content["best_so_far"]]
    )
    return "ignored" if run.score == 0.5 and "1.0" not in shown else f"{run.score} {shown}"


def _crash_loop(stage: Stage) -> str:
    task = stage.task(train_code("raise SystemExit(1)"))
    for _ in range(2):
        assert stage.lab.full(task).status == "failed"
    charged = stage.lab.charged(task)
    return "charged" if charged == 2 else f"charged {charged} of 2"


TRAP = "try:\n    open({trap!r}, 'a').write(__file__)\nexcept OSError:\n    pass\n"
MODULES = (
    "sitecustomize",
    "usercustomize",
    "conftest",
    "numpy",
    "sklearn",
    "PIL",
    "pydantic",
    "mcp",
    "dulwich",
    "clinloop",
    "clinloop_tools",
    "setup",
)


def _planted_modules(stage: Stage) -> str:
    """Modules that shadow what the server imports are never imported by it, also when it is started in the workspace."""
    trap = TRAP.format(trap=str(stage.trap))
    files = {f"{name}.py": trap for name in MODULES}
    files |= {
        "evil.pth": f"import os; exec({trap!r})\n",
        "numpy/__init__.py": trap,
        "pyproject.toml": "[tool.pytest.ini_options]\naddopts='-p conftest'\n",
    }
    files |= {
        ".env": "PYTHONSTARTUP=sitecustomize.py\n",
        "pytest.ini": "[pytest]\n",
        "uv.toml": "index-url='http://127.0.0.1:9'\n",
    }
    del files["numpy.py"]
    task = stage.task()
    for path, text in files.items():
        stage.lab.edit(task, path, text)
    run = stage.lab.full(task)
    workspace = stage.lab.services.state.task(task).workspace
    stage.calls(
        [("edit_workspace", {"task_id": task, "operation": operation}) for operation in ("list", "diff", "log")]
    )
    stage.call("read_validation", task_id=task, view="figure")
    command = [
        sys.executable,
        "-I",
        "-m",
        "clinloop",
        "doctor",
        "--state",
        str(stage.lab.services.settings.state),
        "--sandbox",
        stage.backend,
    ]
    ended = subprocess.run(command, cwd=workspace, capture_output=True, check=False, timeout=60)
    fired = stage.trap.read_text() if stage.trap.exists() else ""
    stage.trap.unlink(missing_ok=True)
    return (
        "ignored"
        if run.status == "succeeded" and not fired and ended.returncode == 0
        else f"{run} {fired} {ended.stderr[-300:]!r}"
    )


_FAULTS = "tests/faults/test_training_code.py::test_a_submission_that_breaks_its_contract_is_answered_and_the_next_one_is_scored"
_PREDICT = "tests/faults/test_prediction_code.py::test_bad_predictions_fail_the_run_with_what_is_wrong"

CASES = [
    Case(number="D49", title="write metrics, scores and a history of 1.0", expected="ignored", attack=_forged_scores),
    Case(
        number="D50",
        title="write to the store, the ledger, the session, the budget",
        expected="refused",
        probe="""
paths = FACTS["store_paths"][1:] + ["/session/session.json", "/session/answers/0001.json", "/session/new", "/workspace/train.py", "/workspace/new",
    "/data/cases.csv", "/checkpoint", "/var/lib/clinloop/clinloop.sqlite"]
return refused(*(lambda path=path: open(path, "ab") for path in paths), *(lambda path=path: os.unlink(path) for path in paths))
""",
    ),
    Case(
        number="D51",
        title="start the last unit eight times at once",
        expected="refused",
        tests=("tests/faults/test_finalize.py::test_eight_processes_that_start_the_last_unit_at_once_get_one_run",),
        where=SERVER,
    ),
    Case(number="D52", title="crash before the end to run for nothing", expected="charged", attack=_crash_loop),
    Case(
        number="D53",
        title="give validation cases other ids",
        expected="refused",
        tests=(_PREDICT, _FAULTS),
        where=SERVER,
    ),
    Case(
        number="D54",
        title="leave cases out, repeat them, add some",
        expected="refused",
        tests=(_PREDICT, _FAULTS),
        where=SERVER,
    ),
    Case(
        number="D55",
        title="NaN, infinity, 1e999, words, other digits",
        expected="refused",
        tests=(
            _PREDICT,
            _FAULTS,
            "tests/unit/scoring/test_parse.py::test_a_field_that_is_no_plain_number_from_0_to_1_is_refused",
        ),
        where=SERVER,
    ),
    Case(
        number="D56",
        title="plant modules, .pth and sitecustomize where the server could import them",
        expected="ignored",
        attack=_planted_modules,
    ),
]
