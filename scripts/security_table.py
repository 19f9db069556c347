"""Write the table of attacks in docs/security.md from the outcomes of the red team; with --run, attack first. A test checks that it is current."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "security.md"
README = ROOT / "README.md"
OUTCOMES = ROOT / "tests" / "redteam" / "outcomes.json"
BEGIN, END = "<!-- attacks: begin, written by scripts/security_table.py -->", "<!-- attacks: end -->"
COUNT_BEGIN, COUNT_END = "<!-- attack count: begin -->", "<!-- attack count: end -->"


def render() -> dict[Path, str]:
    """Return the pages with table and count as they should be."""
    registry = _registry()
    outcomes: dict[str, dict[str, str]] = json.loads(OUTCOMES.read_text(encoding="utf-8"))
    page = TARGET.read_text(encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    return {
        TARGET: _between(page, BEGIN, END, "\n\n" + _table(registry, outcomes) + "\n\n"),
        README: _between(readme, COUNT_BEGIN, COUNT_END, count(registry, outcomes)),
    }


def count(registry: ModuleType, outcomes: dict[str, dict[str, str]]) -> str:
    """Return how many attacks there are and how they came out, in a sentence."""
    cases = registry.CASES
    run = [(place, case) for place, case in registry.RUN]
    wrong = sum(outcomes.get(case.number, {}).get(place) != case.expected for place, case in run)
    elsewhere = sum(bool(case.tests) for case in cases)
    left = sum(bool(case.reason) for case in cases)
    allowed = sum(case.expected == "succeeds" for case in cases)
    carried = len(cases) - left
    outcome = "all came out as expected" if not wrong else f"{wrong} came out otherwise than expected"
    return (
        f"{carried} attacks ({len(run)} runs of them on Docker, bubblewrap or the server itself, {elsewhere} by tests elsewhere): {outcome}. "
        f"{allowed} of them succeed, as stated; {left} more are not run, for want of a GPU or Slurm."
    )


def _table(registry: ModuleType, outcomes: dict[str, dict[str, str]]) -> str:
    lines = [count(registry, outcomes), ""]
    for section, cases in registry.SECTIONS.items():
        lines += [f"### {section}", "", "| | attack | bubblewrap | Docker | server |", "|---|---|---|---|---|"]
        for case in cases:
            cells = [_cell(case, place, outcomes.get(case.number, {})) for place in ("bubblewrap", "docker", "server")]
            note = f" *{case.note}*" if case.note else ""
            lines.append(f"| {case.number} | {case.title}{note} | {' | '.join(cells)} |".replace("\n", " "))
        lines.append("")
    return "\n".join(lines).rstrip()


def _cell(case: object, place: str, found: dict[str, str]) -> str:
    reason, tests = getattr(case, "reason"), getattr(case, "tests")  # noqa: B009
    where, expected = getattr(case, "where"), getattr(case, "expected")  # noqa: B009
    if reason:
        return f"not run: {reason}" if place == "server" else ""
    if place not in where:
        return ""
    if tests:
        file, _, _ = tests[0].partition("::")
        return f"{expected} ([test](../{file}))"
    outcome = found.get(place, "not run yet")
    return outcome if outcome == expected else f"**{outcome}**, expected {expected}"


def _between(page: str, begin: str, end: str, content: str) -> str:
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}{content}{end}{tail}"


def _registry() -> ModuleType:
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("tests.redteam.registry")
    finally:
        sys.path.remove(str(ROOT))


if __name__ == "__main__":
    if "--run" in sys.argv[1:]:
        command = [sys.executable, "-m", "pytest", str(OUTCOMES.parent), "-q", "-p", "no:xdist"]
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "CLINLOOP_REDTEAM_RENEW": "1"})
    for path, text in render().items():
        path.write_text(text, encoding="utf-8")
