"""Section F: files and messages that a parser chokes on."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from .case import SERVER, Case
from .stage import Stage

_BOMBS = {
    "zip": "import zipfile\nwith zipfile.ZipFile(args.out, 'w', zipfile.ZIP_DEFLATED) as file: file.writestr('predictions.csv', b'0' * (60 << 20))\nsys.exit(0)",
    "gzip": "import gzip\nargs.out.write_bytes(gzip.compress(b'0' * (60 << 20)))\nsys.exit(0)",
    "pickle": "import pickle\nargs.out.write_bytes(pickle.dumps([0.5] * 1_000_00))\nsys.exit(0)",
    "parquet": "args.out.write_bytes(b'PAR1' + b'\\xff' * 4096 + b'PAR1')\nsys.exit(0)",
    "60 MB": "args.out.write_bytes(b'1,' * (28 << 20))\nsys.exit(0)",
}


def _bombs(stage: Stage) -> str:
    """Archives, pickles and 56 MB of commas as predictions: refused by the strict parser in its capped child."""
    wrong = []
    for name, body in _BOMBS.items():
        run = stage.smoke(stage.CHECKPOINT, body)
        if (run.status, run.end_reason) != ("failed", "invalid_predictions"):
            wrong.append(f"{name}: {run}")
    return "refused" if not wrong else str(wrong)


def _tar(stage: Stage) -> str:
    """A checkpoint that is a tar with members that lead out: it is carried as bytes, never unpacked."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in (f"../../../../../../../../../..{stage.trap}", str(stage.trap), "link"):
            member = tarfile.TarInfo(name)
            if name == "link":
                member.type, member.linkname = tarfile.SYMTYPE, stage.secrets()["labels"]
            archive.addfile(member)
    run = stage.smoke(f"session.checkpoint.write_bytes(bytes.fromhex('{buffer.getvalue().rstrip(bytes(1)).hex()}'))")
    left = {path.name for path in stage.folder(run).root.rglob("*")}
    return (
        "ignored" if run.status == "succeeded" and not stage.trap.exists() and "link" not in left else f"{run} {left}"
    )


def _hostile_json(stage: Stage) -> str:
    """Deep nesting, a number of 5,000 digits, repeated keys: answered as an error, and the next call works."""
    deep = "[" * 100_000 + "]" * 100_000
    specs = [
        deep,
        '{"objective": "Tell moles apart.", "seed": ' + "9" * 5000 + "}",
        '{"objective": 1, "objective": 2}',
        '{"a":' * 5000 + "1" + "}" * 5000,
    ]
    calls = [
        ("init_task", {"dataset": "moles", "request": "Tell these moles apart for me.", "spec": spec}) for spec in specs
    ]
    replies = stage.calls([*calls, ("inspect_dataset", {})])
    is_alive = replies[-1].content.get("datasets") == ["moles"]
    accepted = [reply.text[:200] for reply in replies[:-1] if not reply.is_error]
    leaked = [reply.text for reply in replies[:-1] if "Traceback" in reply.text or "site-packages" in reply.text]
    return "refused" if is_alive and not accepted and not leaked else f"{accepted} {leaked}"


def _formulas(stage: Stage) -> str:
    """A hypothesis that a spreadsheet would execute is in no CSV of the report."""
    heist = stage.heist()
    tables = list(Path(heist.report).rglob("*.csv"))
    found = [path.name for path in tables if "=cmd" in path.read_text(encoding="utf-8")]
    return "absent" if tables and not found else f"{found} of {tables}"


def _pickled(stage: Stage) -> str:
    """The checkpoints of the baseline are pickles that run a command: rehearsed, frozen, delivered, never loaded by the server."""
    return "ignored" if stage.heist().status == "evaluated" and not stage.trap.exists() else "REACHED the server"


CASES = [
    Case(number="F69", title="a pickle that runs a command as checkpoint", expected="ignored", attack=_pickled),
    Case(
        number="F70",
        title="the same with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD in the server's environment",
        expected="ignored",
        attack=_pickled,
    ),
    Case(
        number="F71",
        title="archives and bombs in place of predictions",
        expected="refused",
        attack=_bombs,
        where=SERVER,
    ),
    Case(number="F72", title="a tar that leads out as checkpoint", expected="ignored", attack=_tar),
    Case(
        number="F73",
        title="JSON of 100,000 levels, numbers of 5,000 digits, repeated keys",
        expected="refused",
        attack=_hostile_json,
        where=SERVER,
    ),
    Case(
        number="F74",
        title="a line of 1 GB as submission",
        expected="capped",
        tests=(
            "tests/faults/test_training_code.py::test_a_submission_that_breaks_its_contract_is_answered_and_the_next_one_is_scored",
        ),
        where=SERVER,
    ),
    Case(
        number="F74b",
        title="spreadsheet formulas in texts of the agent",
        expected="absent",
        attack=_formulas,
        where=SERVER,
    ),
    Case(
        number="F75",
        title="image bombs, broken files and trailing payloads in a dataset",
        expected="refused",
        tests=(
            "tests/unit/datasets/test_ingest.py::test_unreadable_images_are_listed_with_reasons_and_left_out",
            "tests/unit/datasets/test_ingest.py::test_orientation_is_applied_and_large_images_are_reduced",
        ),
        where=SERVER,
    ),
]
