"""Section E: files and the edit tool."""

from __future__ import annotations

import os
import pathlib
import stat

from .case import SERVER, Case
from .stage import Stage, train_code

_HOSTILE = (
    "tests/unit/test_workspace.py::test_no_operation_follows_a_hostile_path",
    "tests/mcp/test_bad_input.py::test_no_operation_leaves_the_workspace",
)
_READS = "tests/unit/test_files.py::test_a_hostile_path_is_refused_for_reading_at_once"


def _sparse(stage: Stage) -> str:
    """A file of 1 TB in the workspace, made by the agent's shell: it is named and left out, nobody reads it."""
    task = stage.task()
    with (stage.lab.services.state.task(task).workspace / "huge.bin").open("wb") as file:
        file.truncate(1 << 40)
    listed, viewed, searched = stage.calls(
        [
            ("edit_workspace", {"task_id": task, "operation": "list"}),
            ("edit_workspace", {"task_id": task, "operation": "view", "path": "huge.bin"}),
            ("edit_workspace", {"task_id": task, "operation": "search", "text": "x"}),
        ]
    )
    run = stage.lab.smoke(task)
    is_named = "huge.bin" in listed.content["note"] and viewed.is_error and not searched.is_error
    is_left_out = run.status == "succeeded" and not (stage.folder(run).code / "huge.bin").exists()
    return "capped" if is_named and is_left_out else f"{listed} {viewed} {searched} {run}"


def _twins(stage: Stage) -> str:
    """Names that differ in case or in Unicode form only are two files, for the tool and for the code."""
    task = stage.task(
        train_code("import os\nprint(sorted(os.listdir('/workspace')))\nsession.checkpoint.write_text('w')")
    )
    names = ["notes.md", "Notes.md", "caf\u00e9.md", "cafe\u0301.md"]
    for number, name in enumerate(names):
        stage.call("edit_workspace", task_id=task, operation="create", path=name, text=str(number))
    listed = stage.call("edit_workspace", task_id=task, operation="list")
    shown = {item["path"] for item in listed.content["items"]}
    run = stage.lab.smoke(task)
    inside = {name for name in names if (stage.folder(run).code / name).exists()}
    contents = [(stage.folder(run).code / name).read_text() for name in sorted(inside, key=names.index)]
    kept = [str(names.index(name)) for name in sorted(inside, key=names.index)]
    return (
        "isolated"
        if contents == kept and len(inside) >= 2 and inside == shown.intersection(names)
        else f"{shown} {contents}"
    )


def _linked_code(stage: Stage) -> str:
    """train.py of the workspace becomes a link to the labels, a folder becomes a link to the vault: neither reaches a run."""
    task = stage.task()
    workspace = stage.lab.services.state.task(task).workspace
    secret = stage.secrets()
    (workspace / "train.py").unlink()
    (workspace / "train.py").symlink_to(secret["labels"])
    (workspace / "data").symlink_to(secret["vault"])
    os.link(secret["labels"], workspace / "labels.csv")
    run = stage.lab.smoke(task)
    code = stage.folder(run).code
    found = [
        path.name for path in code.rglob("*") if path.is_symlink() or path.name in ("data", "labels.csv", "train.py")
    ]
    log = stage.log(run)
    pathlib.Path(workspace / "labels.csv").unlink()
    return (
        "refused" if run.end_reason == "crash" and not found and "case_id" not in log else f"{run} {found} {log[-200:]}"
    )


_PLANTS = """
import os
script = "#!/bin/sh\\ntouch TRAP\\n"
for path in (".git/hooks/post-checkout", ".git/hooks/pre-commit", ".git/config", ".mcp.json", "CLAUDE.md", "AGENTS.md", ".vscode/tasks.json", ".claude/settings.json", "Makefile"):
    for root in ("/out", "/workspace", "/session", "/data"):
        try:
            os.makedirs(os.path.dirname(f"{root}/{path}"), exist_ok=True)
            with open(f"{root}/{path}", "w") as file:
                file.write(script)
            os.chmod(f"{root}/{path}", 0o755)
        except OSError:
            assert root != "/out"
        else:
            assert root == "/out", root
session.checkpoint.write_text("weights")
"""


def _plants(stage: Stage) -> str:
    """A training run plants hooks and instructions: they stay in its /out, the workspace is as it was, nothing is executed."""
    task = stage.task(train_code(_PLANTS.replace("TRAP", str(stage.trap))))
    workspace = stage.lab.services.state.task(task).workspace
    before = sorted(path.name for path in workspace.iterdir())
    run = stage.lab.smoke(task)
    stage.calls(
        [("edit_workspace", {"task_id": task, "operation": operation}) for operation in ("list", "diff", "log")]
    )
    after = sorted(path.name for path in workspace.iterdir())
    modes = {stat.S_IMODE(path.stat().st_mode) for path in stage.folder(run).out.rglob("*") if path.is_file()}
    is_harmless = before == after and not stage.trap.exists() and modes == {0o600}
    return "ignored" if run.status == "succeeded" and is_harmless else f"{run} {after} {modes}"


CASES = [
    Case(
        number="E58",
        title="../, absolute, NUL, ~ and over-long paths",
        expected="refused",
        tests=(*_HOSTILE, "tests/unit/test_files.py::test_a_path_that_no_file_should_have_is_refused"),
        where=SERVER,
    ),
    Case(
        number="E59",
        title="symbolic and magic links, linked parents, in every operation",
        expected="refused",
        tests=_HOSTILE,
        where=SERVER,
    ),
    Case(
        number="E60",
        title="a folder and a link change places in a race",
        expected="refused",
        tests=("tests/unit/test_files.py::test_no_read_leaves_the_root_while_a_folder_and_a_link_change_places",),
        where=SERVER,
    ),
    Case(number="E61", title="hard links", expected="refused", tests=(_READS,), where=SERVER),
    Case(number="E62", title="read a FIFO to hang the server", expected="refused", tests=(_READS,), where=SERVER),
    Case(number="E63", title="devices and sockets", expected="refused", tests=(_READS,), where=SERVER),
    Case(number="E64", title="a sparse file of 1 TB in the workspace", expected="capped", attack=_sparse, where=SERVER),
    Case(
        number="E65",
        title="names that differ in case or Unicode form only",
        expected="isolated",
        attack=_twins,
        where=SERVER,
    ),
    Case(
        number="E66",
        title="links in the workspace in place of code, folders and files, before it is mounted",
        expected="refused",
        attack=_linked_code,
    ),
    Case(
        number="E67",
        title="plant git hooks, .mcp.json, CLAUDE.md, AGENTS.md from inside a run",
        expected="ignored",
        attack=_plants,
    ),
    Case(
        number="E68",
        title="git configuration that executes: fsmonitor, textconv, filters",
        expected="ignored",
        tests=("tests/unit/test_workspace.py::test_nothing_that_is_planted_in_the_workspace_or_the_home_is_executed",),
        where=SERVER,
    ),
]
