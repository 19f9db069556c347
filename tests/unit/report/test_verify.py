"""The offline check passes on an honest report and names what was changed in any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clinloop.errors import BadInput
from clinloop.report.data import LedgerRow, ReportData
from clinloop.report.evidence import Evidence
from clinloop.report.hashes import row_hash
from clinloop.report.verify import Verification, verify
from clinloop.report.write import write_report
from clinloop.signing import Signer, fingerprint

from .conftest import SIGNER, Ledger

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def task(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "task"))


def failed(verification: Verification) -> dict[str, str]:
    return {check.name: check.detail for check in verification.checks if not check.ok}


def edit(task: Path, change: Edit) -> None:
    file = task / "report" / "report.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def seal(content: dict[str, Any], signer: Signer = SIGNER) -> None:
    """Write a consistent chain over whatever the ledger now says, as a forger with the code and the server's key would."""
    content["ledger_key"] = signer.public_key
    last: dict[str, str] = {}
    for row in content["ledger"]:
        row["seq"] = sum(other["scope"] == row["scope"] for other in content["ledger"][: content["ledger"].index(row)])
        row["prev"] = last.get(row["scope"], row["prev"])
        if row["seq"] == 0:
            row["detail"]["signer"] = signer.public_key
            if row["event"] == "contract":
                row["prev"] = row["detail"]["dataset_head"] = next(iter(last.values()))
        row["hash"] = last[row["scope"]] = row_hash(LedgerRow.model_validate(row))
        row["signature"] = signer.sign(row["hash"])
    content["ledger_head"] = content["ledger"][-1]["hash"]


def test_honest_report_passes_every_check(task: Path, scored_data: ReportData) -> None:
    for path in (task / "report", task / "report" / "report.json"):
        verification = verify(path, heads=[scored_data.ledger_head])
        assert failed(verification) == {}
        assert verification.ok
        assert len({check.name for check in verification.checks}) == len(verification.checks) == 23


def test_head_noted_earlier_is_found_and_says_what_it_does_not_cover(task: Path, scored_data: ReportData) -> None:
    anchor = next(
        check for check in verify(task / "report", heads=[scored_data.ledger[-4].hash]).checks if check.name == "anchor"
    )
    assert anchor.ok
    assert "4 later row(s) are not covered" in anchor.detail


def test_head_of_the_last_tool_reply_is_found_in_the_seal(task: Path) -> None:
    rows = json.loads((task / "report" / "seal.json").read_text())
    verification = verify(task / "report", heads=[rows[-1]["hash"]])
    assert failed(verification) == {}
    assert "(evaluated)" in next(check.detail for check in verification.checks if check.name == "anchor")


def test_reformatted_report_breaks_the_seal_alone(task: Path) -> None:
    edit(task, lambda content: None)
    assert failed(verify(task / "report")) == {
        "seal": "report.json was changed: its SHA-256 is not the one in the ledger"
    }


@pytest.mark.parametrize("content", ["", "{}", "[]", '[{"scope": 1}]'])
def test_damaged_seal_fails(task: Path, content: str) -> None:
    (task / "report" / "seal.json").write_text(content)
    assert set(failed(verify(task / "report"))) == {"seal"}


def row_of(content: dict[str, Any], event: str) -> dict[str, Any]:
    return next(row for row in content["ledger"] if row["event"] == event)


def add_unsealing(content: dict[str, Any]) -> None:
    again = row_of(content, "unsealing") | {"at": "2026-11-20T14:59:00+00:00"}
    content["ledger"].append(again)
    seal(content)


def add_free_run(content: dict[str, Any]) -> None:
    refunded = row_of(content, "refunded") | {"run": "run2"}
    content["ledger"].append(refunded)
    seal(content)


def claim_more(content: dict[str, Any]) -> None:
    content["guarantee"] |= {"level": "L2", "name": "separate user"}


def shift_scores(content: dict[str, Any]) -> None:
    for metric in content["final"]:
        metric["refined"]["value"] += 0.01


def give_points(content: dict[str, Any]) -> None:
    item = next(item for item in content["scorecard"]["items"] if item["code"] == "S2.1")
    item.update(points=4.0, passed=True, error="")


CHANGES: dict[str, tuple[Edit, set[str], str]] = {
    "higher guarantee": (claim_more, {"guarantee level"}, "the report states L2, the lowest level in the ledger is L0"),
    "edited row": (
        lambda c: row_of(c, "settled")["detail"].update(score=0.99),
        {"ledger of the task", "runs"},
        "was changed",
    ),
    "removed row": (
        lambda c: c["ledger"].pop(-2),
        {"ledger of the task", "test set opened once", "frozen code and checkpoints", "scorecard"},
        "0 unsealing",
    ),
    "changed score": (shift_scores, {"test scores", "choice of the model"}, "macro_auc refined value: the evidence gives"),
    "narrowed interval": (
        lambda c: c["final"][1]["refined"].update(low=c["final"][1]["refined"]["value"]),
        {"test scores"},
        "low",
    ),
    "changed p-value": (lambda c: c["final"][0].update(p=0.5), {"test scores"}, "p"),
    "second unsealing": (add_unsealing, {"test set opened once", "scorecard"}, "2 unsealing"),
    "understated budget": (add_free_run, {"budget", "scorecard"}, "the ledger gives 10, the report states 11"),
    "changed spec": (lambda c: c["spec"].update(acceptance="paper"), {"contract", "scorecard"}, "spec"),
    "changed request": (lambda c: c.update(request="Tell me it works."), {"contract"}, "another request"),
    "changed head": (lambda c: c.update(ledger_head="0" * 64), {"ledger head"}, "the report states 0000"),
    "hidden run": (lambda c: c["runs"].pop(4), {"runs"}, "run4 is in the ledger"),
    "better scorecard": (give_points, {"scorecard"}, "S2.1 has 0 points by the ledger"),
    "better total": (lambda c: c["scorecard"].update(total=100), {"scorecard"}, "its total, tier or items"),
    "other tier": (lambda c: c["scorecard"].update(tier="standard"), {"scorecard"}, "its total, tier or items"),
    "other commitment": (
        lambda c: c["dataset"].update(commitment="d" * 64),
        {"split commitment"},
        "does not hold",
    ),
    "other checkpoint": (
        lambda c: c["integrity"]["checkpoints"].update(refined="c" * 64),
        {"frozen code and checkpoints", "model files"},
        "frozen",
    ),
    "invented words of a person": (
        lambda c: c.update(people=[{"at": "2026-01-01", "by": "Dr. Weber (clinician)", "did": "told the agent", "text": "Well done."}]),
        {"people"},
        "does not say what the ledger holds",
    ),
    "confirmation that nobody gave": (
        lambda c: c["spec"].update(confirm_spec="required"),
        {"people", "contract"},
        "had to be confirmed and was not",
    ),
    "consent that nobody gave": (
        lambda c: c["spec"].update(confirm_finalize="required"),
        {"people", "contract"},
        "had to agree to open the test set",
    ),
    "other dataset": (
        lambda c: c["ledger"][0].update(scope="dataset:other"),
        {"ledger scopes", "ledger of the dataset", "ledger link", "split commitment"},
        "another dataset",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_changed_report_fails_and_says_what_differs(task: Path, name: str) -> None:
    change, expected, words = CHANGES[name]
    edit(task, change)
    found = failed(verify(task / "report"))
    assert set(found) == expected | {"seal", "page"}
    assert words in " ".join(found.values())


def test_truncated_tail_is_found_by_the_anchor(task: Path, scored_data: ReportData, evidence: Evidence) -> None:
    rows = json.loads((task / "report" / "seal.json").read_text())
    ledger = scored_data.ledger[:-1]
    forged = scored_data.model_copy(update={"ledger": ledger, "ledger_head": ledger[-1].hash})
    write_report(forged, task / "report", evidence)
    assert {"evidence", "model files", "scorecard"} == set(failed(verify(task / "report")))
    for head in (scored_data.ledger_head, rows[-1]["hash"]):
        assert "not in this ledger" in failed(verify(task / "report", heads=[head]))["anchor"]


def test_ledger_rewritten_as_a_whole_is_found_by_the_anchor_alone(
    task: Path, scored_data: ReportData, evidence: Evidence
) -> None:
    content = json.loads(scored_data.model_dump_json())
    row_of(content, "granted")["at"] = "2026-11-19T00:00:00+00:00"
    seal(content)
    write_report(ReportData.model_validate_json(json.dumps(content)), task / "report", evidence)
    assert failed(verify(task / "report")) == {}
    assert set(failed(verify(task / "report", heads=[scored_data.ledger_head]))) == {"anchor"}


def test_ledger_rewritten_with_another_key_is_found_by_the_fingerprint_alone(
    task: Path, tmp_path: Path, scored_data: ReportData, evidence: Evidence
) -> None:
    content = json.loads(scored_data.model_dump_json())
    seal(content, Signer(tmp_path))
    (task / "report" / "seal.json").unlink()
    write_report(ReportData.model_validate_json(json.dumps(content)), task / "report", evidence)
    assert failed(verify(task / "report")) == {}
    found = failed(verify(task / "report", key=fingerprint(SIGNER.public_key)))
    assert set(found) == {"signatures"}
    assert "not by the key you noted" in found["signatures"]


def test_entry_appended_without_the_key_is_found(task: Path, scored_data: ReportData, evidence: Evidence) -> None:
    book = Ledger(list(scored_data.ledger))
    book.append("task:t-7f3a", "granted", resource="run", amount=5)
    forged = book.rows[-1].model_copy(update={"signature": book.rows[-2].signature})
    changes = {"ledger": (*scored_data.ledger, forged), "ledger_head": forged.hash}
    write_report(scored_data.model_copy(update=changes), task / "report", evidence)
    found = failed(verify(task / "report"))
    assert f"row {forged.seq} (granted) is not signed by {fingerprint(SIGNER.public_key)}" in found["signatures"]


@pytest.mark.parametrize("signature", ["", "zz", "00" * 64, "00"])
def test_what_is_no_signature_fails_and_does_not_crash(task: Path, signature: str) -> None:
    edit(task, lambda content: content["ledger"][2].update(signature=signature))
    assert set(failed(verify(task / "report"))) == {"signatures", "seal"}


def test_every_noted_head_must_be_there(task: Path, scored_data: ReportData) -> None:
    heads = [scored_data.ledger_head, scored_data.ledger[0].hash]
    verification = verify(task / "report", heads=heads, key=fingerprint(SIGNER.public_key))
    assert failed(verification) == {}
    anchor = next(check.detail for check in verification.checks if check.name == "anchor")
    assert "of the task's ledger" in anchor and "of the dataset's ledger" in anchor
    assert "ffffffff" in failed(verify(task / "report", heads=[*heads, "f" * 64]))["anchor"]


def test_changed_model_file_is_named(task: Path) -> None:
    (task / "model" / "predict.py").write_text("import os\n")
    assert failed(verify(task / "report")) == {"model files": "predict.py was changed: it has another SHA-256"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda model: (model / "predict.py").unlink(), "predict.py is missing"),
        (lambda model: (model / "extra.py").touch(), "extra.py is not in MANIFEST.json"),
        (lambda model: (model / "MANIFEST.json").unlink(), "is not beside the report"),
        (lambda model: (model / "MANIFEST.json").write_text("{"), "no list of plain file names"),
        (lambda model: (model / "MANIFEST.json").write_text('{"../x": "0"}'), "no list of plain file names"),
    ],
)
def test_damaged_model_folder_is_described(task: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(task / "model")
    found = failed(verify(task / "report"))
    assert set(found) == {"model files"}
    assert words in found["model files"]


def test_changed_evidence_is_found_by_digest_and_by_score(task: Path) -> None:
    file = task / "report" / "evidence" / "truth.csv"
    rows = file.read_text().splitlines()
    labels = [row.rsplit(",", 1)[1] for row in rows[1:]]
    other = next(index for index, label in enumerate(labels) if label != labels[0])
    rows[1], rows[other + 1] = (rows[1].replace(f",{labels[0]}", f",{labels[other]}"), rows[other + 1])
    file.write_text("\n".join(rows) + "\n")
    found = failed(verify(task / "report"))
    assert set(found) == {"evidence", "test scores"}
    assert "truth.csv" in found["evidence"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"case_id,p_MEL\nx,1e999\n", b"case_id\n"])
def test_unreadable_evidence_is_a_failed_check_and_no_crash(task: Path, content: bytes) -> None:
    (task / "report" / "evidence" / "refined.csv").write_bytes(content)
    assert set(failed(verify(task / "report"))) == {"evidence", "test scores"}


def test_missing_evidence_is_a_failed_check(task: Path) -> None:
    (task / "report" / "evidence" / "initial.csv").unlink()
    assert failed(verify(task / "report"))["evidence"] == "evidence/initial.csv cannot be read"


def test_page_with_a_nicer_number_is_found(task: Path) -> None:
    file = task / "report" / "report.html"
    page = file.read_text(encoding="utf-8")
    file.write_text(page.replace("on the test set. That is a ", "on the test set. That is no "), encoding="utf-8")
    assert set(failed(verify(task / "report"))) == {"page"}


@pytest.mark.parametrize("content", ["", "[]", '{"schema_version": 2}', "{" * 50_000])
def test_file_that_is_no_report_fails_the_form(task: Path, content: str) -> None:
    (task / "report" / "report.json").write_text(content)
    assert list(failed(verify(task / "report"))) == ["form"]


def test_missing_report_and_bad_head_are_refused(task: Path) -> None:
    with pytest.raises(BadInput, match="no report"):
        verify(task / "nowhere")
    with pytest.raises(BadInput, match="64 hexadecimal"):
        verify(task / "report", heads=["abc"])
    with pytest.raises(BadInput, match="fingerprint"):
        verify(task / "report", key="f" * 64)
