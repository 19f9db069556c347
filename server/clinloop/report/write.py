"""Writing a report folder: all of it or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clinloop.files import write_atomic
from clinloop.report.data import LedgerRow, ReportData
from clinloop.report.evidence import Evidence
from clinloop.report.html import draw_figures, render_html
from clinloop.report.model_card import model_card
from clinloop.sealing import seal


class ReportPaths(NamedTuple):
    """Where the parts of a report are."""

    html: Path
    json: Path
    model_card: Path


def write_report(data: ReportData, folder: Path, evidence: Evidence) -> ReportPaths:
    """Write report.html, report.json, model_card.md and evidence/ into `folder`, which appears at once and complete.

    The evidence of a sealed test set is sealed to the same recipients: other tasks on it are still to be scored, and their agents may be
    able to read this folder. A report that is there already is replaced, so that an interrupted evaluation can write it again.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        contents = {
            "report.html": render_html(data, draw_figures(data, evidence)).encode(),
            # ASCII only: no bidirectional or control character of an agent's sentence reaches a terminal.
            "report.json": json.dumps(data.model_dump(mode="json"), indent=1).encode("ascii"),
            "model_card.md": model_card(data).encode(),
            **{f"evidence/{name}": content for name, content in _evidence(data, evidence).items()},
        }
        (draft / "evidence").mkdir()
        for name, content in contents.items():
            with (draft / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-old-", dir=folder.parent) as old:
                folder.rename(Path(old) / "report")
                draft.rename(folder)
        else:
            draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return ReportPaths(html=folder / "report.html", json=folder / "report.json", model_card=folder / "model_card.md")


def _evidence(data: ReportData, evidence: Evidence) -> dict[str, bytes]:
    if not (recipients := data.integrity.sealed_to):
        return evidence.files()
    return {f"{name}.age": seal(content, recipients) for name, content in evidence.files().items()}


def seal_report(folder: Path, task_ledger: Sequence[LedgerRow]) -> None:
    """Write seal.json: the rows that the task's ledger got after the report, which must hold `report_sha256`.

    It lets `verify` find the head that the last tool reply showed, and any change of report.json.
    """
    head = json.loads((folder / "report.json").read_bytes())["ledger_head"]
    hashes = [row.hash for row in task_ledger]
    rows = [row.model_dump(mode="json") for row in task_ledger[hashes.index(head) + 1 :]]
    write_atomic(folder / "seal.json", json.dumps(rows, indent=1))
