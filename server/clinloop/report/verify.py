"""The offline check of a report: everything in it that can be computed again is, from the report folder alone.

What it reads in the task's ledger, and where:

    guarantee   detail.level
    contract    detail.dataset_head, detail.spec_sha256, detail.request
    reserved    resource, amount, run; detail.revision, detail.hypothesis
    settled     run; detail.status, detail.score, detail.decision
    unsealing   detail.initial and detail.refined {tree_sha256, checkpoint_sha256}
    scored      detail.evidence {file name: sha256}, detail.model {file name: sha256}
    chosen      run; detail.by, detail.why, detail.instead_of, detail.words: the clinician's choice
    (all)       what the rules of the scorecard read: `stages`
    evaluated   detail.report_sha256; this row comes after the report and is in seal.json
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import JsonValue, ValidationError

import clinloop
from clinloop import guarantee
from clinloop.errors import BadInput
from clinloop.files import sha256_file
from clinloop.report.chain import (
    Check,
    check_anchor,
    check_chain,
    check_head,
    check_link,
    check_scopes,
    check_seal,
    check_signatures,
    details,
    outcome,
)
from clinloop.report.choice_checks import check_choice, check_choices
from clinloop.report.data import GENESIS, LedgerRow, ReportData
from clinloop.report.evidence import Evidence, read_evidence
from clinloop.report.hashes import sha256_json
from clinloop.report.html import render_html
from clinloop.report.people import check_people
from clinloop.report.rescore import TOLERANCE, analysis_differences, same, score_differences
from clinloop.report.stages import check_scorecard
from clinloop.scoring.analysis import Analysis

if TYPE_CHECKING:
    from pyrage.x25519 import Identity

REPORT_CAP_BYTES = 256 << 20


class Verification(NamedTuple):
    """The outcome of `verify`."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)


def verify(
    path: Path, *, heads: Sequence[str] = (), key: str | None = None, identities: Sequence[Identity] = ()
) -> Verification:
    """Check a report folder, or the folder of a report.json.

    `heads` are ledger heads, `key` is the fingerprint of the server's key, both noted elsewhere: without them a report can only be
    checked against itself. `identities` open the evidence of a sealed test set; without them its scores are not computed again.

    Raises:
        BadInput: there is no report at `path`, a head is no SHA-256, or `key` is no fingerprint.
    """
    file = path / "report.json" if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"There is no report at {path}; give the report folder or its report.json.")
    check_notes(heads, key)
    try:
        if file.stat().st_size > REPORT_CAP_BYTES:
            raise ValueError(f"it is larger than {REPORT_CAP_BYTES >> 20} MiB")
        data = ReportData.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Verification(
            (Check("form", False, f"{error.error_count()} problem(s); first at {where}: {first['msg']}"),)
        )
    except ValueError as error:
        return Verification((Check("form", False, f"report.json cannot be read: {error}"),))
    return Verification(
        (Check("form", True, f"report format {data.schema_version}"), *_checks(data, file, heads, key, identities))
    )


def verify_ledger(
    dataset: Sequence[LedgerRow],
    task: Sequence[LedgerRow],
    public_key: str,
    *,
    heads: Sequence[str] = (),
    key: str | None = None,
) -> Verification:
    """Check the ledger of a task that has no report yet; `public_key` is the server's.

    Raises:
        BadInput: a head is no SHA-256, or `key` is no fingerprint.
    """
    check_notes(heads, key)
    checks = [
        *([check_chain("ledger of the dataset", dataset, GENESIS)] if dataset else []),
        check_chain("ledger of the task", task, str(task[0].detail.get("dataset_head")) if task else ""),
        check_link(dataset, task),
        check_signatures(public_key, dataset, task, key=key),
        *([check_anchor(heads, dataset, task)] if heads else []),
    ]
    return Verification(tuple(checks))


def check_notes(heads: Sequence[str], key: str | None) -> None:
    """Refuse what cannot have been copied from a reply.

    Raises:
        BadInput: a head is no SHA-256, or `key` is no fingerprint.
    """
    if not all(re.fullmatch(r"[0-9a-f]{64}", head) for head in heads):
        raise BadInput(
            "--head must be the 64 hexadecimal digits of a ledger head; copy it from a tool reply or a report."
        )
    if key is not None and not re.fullmatch(r"ed25519:[0-9a-f]{32}", key):
        raise BadInput(
            "--key must be a fingerprint (ed25519: and 32 hexadecimal digits); copy it from clinloop doctor or the reply of init_task."
        )


def _checks(
    data: ReportData, file: Path, heads: Sequence[str], key: str | None, identities: Sequence[Identity]
) -> Iterator[Check]:
    folder = file.parent
    dataset = [row for row in data.ledger if row.scope == f"dataset:{data.dataset.name}"]
    task = [row for row in data.ledger if row.scope == f"task:{data.task_id}"]
    yield check_scopes(data, len(dataset) + len(task))
    yield check_chain("ledger of the dataset", dataset, GENESIS)
    yield check_chain("ledger of the task", task, str(task[0].detail.get("dataset_head")) if task else "")
    yield check_link(dataset, task)
    yield check_head(data, task)
    later, seal = check_seal(data, file, task)
    yield seal
    yield check_signatures(data.ledger_key, dataset, task, later, key=key)
    if heads:
        yield check_anchor(heads, dataset, [*task, *later])
    yield _contract(data, task)
    yield _commitment(data, dataset)
    yield check_people(data, task)
    yield _budget(data, task)
    yield _runs(data, task)
    yield check_choice(data, task)
    yield from check_choices(data, task)
    yield check_scorecard(data)
    yield _level(data, task)
    yield _opened_once([*task, *later])
    yield _frozen(data, task)
    yield _model(data, folder.parent / "model", task)
    if data.integrity.sealed_to and not identities:
        unread = f"not checked: sealed to {', '.join(data.integrity.sealed_to)}; --identity FILE opens it"
        stated = any(row.detail.get("sealed_to") == list(data.integrity.sealed_to) for row in dataset)
        yield Check(
            "evidence", stated, unread if stated else "the dataset's ledger does not say that its test set is sealed"
        )
        yield Check("test scores", True, f"not computed again: the evidence is {unread.removeprefix('not checked: ')}")
    else:
        evidence = read_evidence(folder, data.task_type, identities if data.integrity.sealed_to else ())
        yield _evidence(evidence, task)
        yield _scores(data, evidence)
        if data.analysis is not None:  # which older reports lack
            yield _analysis(data, data.analysis, evidence)
    yield _page(data, folder / "report.html")


def _contract(data: ReportData, task: Sequence[LedgerRow]) -> Check:
    found = sha256_json(data.spec)
    detail = details(task, "contract")[-1:]
    problems = (
        []
        if found == data.spec_sha256
        else [f"the spec gives {found[:16]}…, the report states {data.spec_sha256[:16]}…"]
    )
    if not detail:
        problems.append("the ledger has no contract")
    for contract in detail:
        if contract.get("spec_sha256") != found:
            problems.append("the ledger froze another spec")
        if contract.get("request") != data.request:
            problems.append("the ledger holds another request")
    return outcome("contract", problems, f"spec {found[:16]}…")


def _commitment(data: ReportData, dataset: Sequence[LedgerRow]) -> Check:
    stated = any(data.dataset.commitment in row.detail.values() for row in dataset)
    problems = [] if stated else ["the dataset's ledger does not hold the commitment that the report states"]
    return outcome("split commitment", problems, f"{data.dataset.commitment[:16]}…, recorded before the task")


def _budget(data: ReportData, task: Sequence[LedgerRow]) -> Check:
    granted, used, left = Counter[str](), Counter[str](), Counter[str]()
    problems: list[str] = []
    for row in task:
        if row.resource is None:
            continue
        (granted if row.run is None else used)[row.resource] += row.amount
        left[row.resource] += row.amount
        if left[row.resource] < 0:
            problems.append(f"row {row.seq} overdraws {row.resource}")
    stated = data.budget
    for name, in_ledger, in_report in (
        ("runs granted", granted["run"], stated.runs_granted),
        ("runs used", -used["run"], stated.runs_used),
        ("smoke tests used", -used["smoke"], stated.smoke_used),
    ):
        if in_ledger != in_report:
            problems.append(f"{name}: the ledger gives {in_ledger}, the report states {in_report}")
    return outcome(
        "budget", problems, f"{stated.runs_used} of {stated.runs_granted} runs, {stated.smoke_used} smoke tests"
    )


def _runs(data: ReportData, task: Sequence[LedgerRow]) -> Check:
    problems: list[str] = []
    stated = {("run" if run.mode == "full" else "smoke") + str(run.number): run for run in data.runs}
    reserved = {row.run for row in task if row.event == "reserved" and (row.run or "").startswith("run")}
    full = {name for name in stated if name.startswith("run")}
    problems += [
        f"{name} is in the ledger and not in the report" for name in sorted(str(name) for name in reserved - full)
    ]
    problems += [f"{name} is in the report and not in the ledger" for name in sorted(full - reserved)]
    for row in task:
        run = stated.get(row.run or "")
        if run is None or row.event not in {"reserved", "settled"}:
            continue
        facts: dict[str, JsonValue] = {
            "revision": run.revision,
            "hypothesis": run.hypothesis,
            "status": run.status,
            "score": run.primary,
            "decision": run.decision,
        }
        for key, value in facts.items():
            if key in row.detail and not same(row.detail[key], value):
                problems.append(f"{row.run}: {key} is {row.detail[key]!r} in the ledger, {value!r} in the report")
    return outcome("runs", problems, f"{len(data.runs)} runs agree with the ledger")


def _level(data: ReportData, task: Sequence[LedgerRow]) -> Check:
    recorded = [str(detail.get("level")) for detail in details(task, "guarantee")]
    least, stated = guarantee.lowest(recorded).code, data.guarantee.level
    problems = [] if stated == least else [f"the report states {stated}, the lowest level in the ledger is {least}"]
    found = ", ".join(dict.fromkeys(recorded)) or "no level, which counts as L0"
    return outcome("guarantee level", problems, f"{stated}; the ledger has {found}")


def _opened_once(task: Sequence[LedgerRow]) -> Check:
    times = [row.at for row in task if row.event.lower() == "unsealing"]
    problems = [] if len(times) == 1 else [f"the ledger has {len(times)} unsealing events, there must be exactly one"]
    return outcome("test set opened once", problems, f"at {times[0]}" if times else "")


def _frozen(data: ReportData, task: Sequence[LedgerRow]) -> Check:
    detail = next(iter(details(task, "unsealing")), {})
    problems: list[str] = []
    for model in ("initial", "refined"):
        recorded = detail.get(model)
        facts = recorded if isinstance(recorded, dict) else {}
        for what, key, stated in (
            ("code", "tree_sha256", data.integrity.trees.get(model)),
            ("checkpoint", "checkpoint_sha256", data.integrity.checkpoints.get(model)),
        ):
            if stated is None or facts.get(key) != stated:
                problems.append(
                    f"the {what} of the {model} model is not what was frozen before the test set was opened"
                )
    return outcome("frozen code and checkpoints", problems, "as recorded before the test set was opened")


def _model(data: ReportData, folder: Path, task: Sequence[LedgerRow]) -> Check:
    manifest = folder / "MANIFEST.json"
    if not manifest.is_file():
        return Check("model files", False, "model/MANIFEST.json is not beside the report folder")
    try:
        listed: object = json.loads(manifest.read_bytes())
    except ValueError:
        listed = None
    if not isinstance(listed, dict) or not all(_plain_name(name) for name in listed):
        return Check("model files", False, "MANIFEST.json is no list of plain file names with their SHA-256")
    present = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} - {"MANIFEST.json"}
    problems = [f"{name} is not in MANIFEST.json" for name in sorted(present - set(listed))]
    for name, digest in sorted(listed.items()):
        if name not in present:
            problems.append(f"{name} is missing")
        elif sha256_file(folder / name) != digest:
            problems.append(f"{name} was changed: it has another SHA-256")
    if next(iter(details(task, "scored")[-1:]), {}).get("model") != listed:
        problems.append("MANIFEST.json is not the list in the ledger")
    if data.integrity.checkpoints.get("refined") not in listed.values():
        problems.append("no file is the checkpoint that was frozen for the final evaluation")
    return outcome("model files", problems, f"{len(listed)} files, the frozen checkpoint among them")


def _evidence(evidence: Evidence | str, task: Sequence[LedgerRow]) -> Check:
    if isinstance(evidence, str):
        return Check("evidence", False, evidence)
    recorded = next(iter(details(task, "scored")[-1:]), {}).get("evidence")
    if not isinstance(recorded, dict):
        return Check("evidence", False, "the ledger has no scored event with the digests of the evidence")
    problems = [
        f"evidence/{name} is not the file that was scored"
        for name, digest in evidence.digests().items()
        if recorded.get(name) != digest
    ]
    return outcome("evidence", problems, "truth and both predictions are the files that were scored")


def _scores(data: ReportData, evidence: Evidence | str) -> Check:
    if isinstance(evidence, str):
        return Check("test scores", False, evidence)
    problems = score_differences(data, evidence, tolerance=TOLERANCE)
    return outcome(
        "test scores", problems, f"{len(data.final)} metrics with intervals and p-values computed again, equal"
    )


def _analysis(data: ReportData, stated: Analysis, evidence: Evidence | str) -> Check:
    if isinstance(evidence, str):
        return Check("analysis", False, evidence)
    is_same = data.clinloop_version == clinloop.__version__
    problems = analysis_differences(data, stated, evidence, tolerance=TOLERANCE, words=is_same)
    detail = f"curves, {len(stated.subgroups)} subgroups, {len(stated.confounders)} confounder audits and the rest computed again, equal"
    return outcome("analysis", problems, detail + ("" if is_same else "; words of another version not compared"))


def _page(data: ReportData, file: Path) -> Check:
    """Compare the words and numbers of the page; the figures are drawn from the same numbers and left out."""
    if not file.is_file():
        return Check("page", False, "report.html is missing")
    if data.clinloop_version != clinloop.__version__:
        return Check(
            "page", True, f"not compared: written by clinloop {data.clinloop_version}, this is {clinloop.__version__}"
        )
    found, expected = (
        _words(page) for page in (file.read_text(encoding="utf-8", errors="replace"), render_html(data, {}))
    )
    problems = [] if found == expected else ["report.html does not say what report.json says"]
    return outcome("page", problems, "report.html says what report.json says")


def _words(page: str) -> str:
    return " ".join(re.sub(r"<figure>.*?</figure>", "", page, flags=re.DOTALL).split())


def _plain_name(name: object) -> bool:
    return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
