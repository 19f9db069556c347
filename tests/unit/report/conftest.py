"""One realistic report: eight classes, twelve runs, hostile words of an agent."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from clinloop.report import stages
from clinloop.report.conduct import facts_of
from clinloop.report.data import (
    GENESIS,
    AuditItem,
    BudgetFacts,
    CanaryCheck,
    DatasetFacts,
    EnvironmentFacts,
    Estimate,
    FinalMetric,
    Guarantee,
    Integrity,
    LedgerRow,
    OperatingPoint,
    OrderAudit,
    ReportData,
    RunSummary,
    ValidationToTest,
)
from clinloop.report.evidence import Evidence, truth_csv
from clinloop.report.hashes import row_hash, sha256_json
from clinloop.report.write import seal_report, write_report
from clinloop.scoring import service
from clinloop.signing import Signer

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
HOSTILE = (
    "<script>alert(1)</script> <img src=https://evil.example/x.png onerror=alert(2)> "
    "\u202egnp.exe\u2066 {{ 7*7 }} $\\alpha$ 🩺🔬 \x1b[31mred\x1b[0m ]]> --> &amp; | `x` "
)
PLAIN = "Class weights by inverse frequency, because the loss hardly sees melanoma and the wish puts melanoma first. "


MODEL_FILES = {"checkpoint": b"weights", "clinloop_runtime/io.py": b"pass\n", "predict.py": b"pass\n"}
MANIFEST = {name: hashlib.sha256(content).hexdigest() for name, content in MODEL_FILES.items()}
TREES = {"initial": "11" * 32, "refined": "22" * 32}
CHECKPOINTS = {"initial": "aa" * 32, "refined": MANIFEST["checkpoint"]}


SIGNER = Signer(Path(tempfile.mkdtemp(prefix="clinloop-test-key-")))


class Ledger:
    """Appends rows the way the store does, signed with a key of its own."""

    def __init__(self, rows: list[LedgerRow] | None = None) -> None:
        self.rows = rows or []

    def append(self, scope: str, event: str, *, resource=None, amount=0, run=None, prev=None, **detail) -> str:
        mine = [row for row in self.rows if row.scope == scope]
        row = LedgerRow(
            scope=scope,
            seq=len(mine),
            at=f"2026-11-20T14:{len(self.rows):02d}:07.120000+00:00",
            event=event,
            resource=resource,
            amount=amount,
            run=run,
            detail=detail if mine else detail | {"signer": SIGNER.public_key},
            prev=mine[-1].hash if mine else prev or GENESIS,
            hash="",
            signature="",
        )
        digest = row_hash(row)
        self.rows.append(row.model_copy(update={"hash": digest, "signature": SIGNER.sign(digest)}))
        return self.rows[-1].hash


def make_evidence(seed: int = 7, cases: int = 320) -> Evidence:
    rng = np.random.default_rng(seed)
    ids = [f"{value:012x}" for value in sorted(rng.integers(0, 16**12, cases).tolist())]
    labels = rng.choice(len(CLASSES), cases, p=[0.18, 0.42, 0.12, 0.05, 0.1, 0.04, 0.04, 0.05])
    labels[: len(CLASSES)] = range(len(CLASSES))
    groups = rng.integers(0, cases * 2 // 3, cases)

    def predictions(skill: float) -> bytes:
        logits = rng.normal(size=(cases, len(CLASSES))) + skill * np.eye(len(CLASSES))[labels]
        values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["case_id", *(f"p_{name}" for name in CLASSES)])
        writer.writerows([case, *(f"{value:.9f}" for value in row)] for case, row in zip(ids, values, strict=True))
        return text.getvalue().encode()

    truth = truth_csv(
        service.TruthCase(case, f"lesion-{group}", CLASSES[k])
        for case, group, k in zip(ids, groups, labels, strict=True)
    )
    return Evidence(truth=truth, initial=predictions(1.4), refined=predictions(2.3))


SCORES = [0.786, 0.801, 0.822, 0.815, None, 0.841, 0.838, 0.866, 0.859, 0.871, 0.869, 0.8695]
ACCEPTED = (0, 1, 2, 5, 7, 9)


def make_runs() -> tuple[RunSummary, ...]:
    runs, best = [], 0
    for n, score in enumerate(SCORES):
        accepted = n in ACCEPTED
        best = n if accepted else best
        runs.append(
            RunSummary(
                number=n,
                status="succeeded" if score else "lost",
                end_reason="deadline" if score else "the server was killed",
                revision=f"{n:02d}a7c49be0f2d1",
                hypothesis="" if n == 0 else HOSTILE if n == 3 else PLAIN * 12 if n == 6 else PLAIN,
                primary=score,
                scores={"macro_auc": score},
                decision="none" if score is None else "accepted" if accepted else "rejected",
                reason_code="" if score is None else "baseline" if n == 0 else "gain" if accepted else "within_noise",
                reason=""
                if score is None
                else "The first scored run is always kept."
                if n == 0
                else "Gain +0.021 (0.006 to 0.035), and no guard got worse."
                if accepted
                else "Gain −0.002 (−0.015 to 0.012) is within noise.",
                started="2026-11-20T14:00:00+00:00",
                ended="2026-11-20T14:40:00+00:00",
                train_seconds=2391.0 if score else 14.0,
                diff_summary="" if n == 0 else "train.py +12 −3",
                validations=tuple((240.0 * i, score - 0.2 / i) for i in range(1, 10)) if score else (),
                incumbent_after=best,
                inputs=(5,) if n == 9 else (),
            )
        )
    return tuple(runs)


def make_ledger(evidence: Evidence, runs: tuple[RunSummary, ...], spec_sha256: str, request: str) -> Ledger:
    book = Ledger()
    head = book.append("dataset:isic", "ingested", commitment="c0ffee" * 10 + "beef", images=1200)
    task = "task:t-7f3a"
    contract = {"dataset_head": head, "spec_sha256": spec_sha256, "request": request, "template": "classification"}
    book.append(task, "contract", prev=head, **contract)
    book.append(task, "granted", resource="run", amount=31)
    book.append(task, "granted", resource="smoke", amount=60)
    book.append(task, "reserved", resource="smoke", amount=-1, run="smoke1", hypothesis="does it run at all")
    for run in runs:
        name = f"run{run.number}"
        book.append(
            task, "reserved", resource="run", amount=-1, run=name, revision=run.revision, hypothesis=run.hypothesis
        )
        if run.number == 4:
            book.append(task, "settled", run=name, status="lost", end_reason="server", score=None, decision="none")
            book.append(task, "refunded", resource="run", amount=1, run=name)
        else:
            book.append(task, "settled", run=name, status=run.status, score=run.primary, decision=run.decision)
    frozen = {
        model: {"tree_sha256": TREES[model], "checkpoint_sha256": CHECKPOINTS[model]}
        for model in ("initial", "refined")
    }
    book.append(task, "unsealing", **frozen)
    book.append(task, "scored", evidence=evidence.digests(), model=MANIFEST)
    return book


def read_truth(evidence: Evidence) -> list[service.TruthCase]:
    return service.read_truth(evidence.truth)


def estimate(value: float, half: float) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


def drawn_metrics() -> tuple[FinalMetric, ...]:
    """Metrics for looks only; the verifier's tests compute theirs."""
    values = {
        "macro_auc": ("Macro AUC", 0.779, 0.862, 0.018, 0.0004),
        "f1": ("Macro F1", 0.468, 0.629, 0.041, 0.002),
        "balanced_accuracy": ("Balanced accuracy", 0.51, 0.66, 0.04, 0.004),
        "auc_MEL": ("AUC of MEL", 0.742, 0.816, 0.03, 0.01),
        "sensitivity_MEL": ("Sensitivity for MEL at the operating point", 0.678, 0.742, 0.06, 0.21),
        "specificity_MEL": ("Specificity for MEL at the operating point", 0.813, 0.81, 0.03, 0.9),
        "sens_at_spec80_MEL": ("Sensitivity for MEL at 80 % specificity", 0.602, 0.709, 0.07, 0.06),
        "brier": ("Brier score", 0.71, 0.52, 0.03, 0.0004),
        **{
            f"auc_{name}": (f"AUC of {name}", 0.7 + 0.02 * i, 0.8 + 0.02 * i, 0.03, 0.01)
            for i, name in enumerate(CLASSES[1:])
        },
    }
    return tuple(
        FinalMetric(
            name=name,
            title=title,
            direction="lower" if name == "brier" else "higher",
            initial=estimate(before, half),
            refined=estimate(after, half),
            difference=estimate(after - before, half * 1.2),
            p=p,
            n=320,
            unit="lesion",
            resamples=2000,
            seed=0,
        )
        for name, (title, before, after, half, p) in values.items()
    )


def make_data(evidence: Evidence, final: tuple[FinalMetric, ...], **changes) -> ReportData:
    runs = make_runs()
    request = "Tell melanoma from the other lesions for me,\nand do not let a melanoma slip through. <b>Thank you</b>"
    spec = {
        "task_type": "classification",
        "objective": "Diagnose eight kinds of skin lesion in dermoscopy, melanoma first.",
        "target_classes": list(CLASSES),
        "emphasised_classes": [{"class_name": "MEL", "why": "a missed melanoma can kill"}],
        "risk_preference": "sensitivity_first",
        "primary_metric": "macro_auc",
        "operating_point": "sensitivity>=0.9",
        "guards": [{"metric": "auc_MEL", "margin": 0.02}],
        "confounders": [],
        "acceptance": "guarded",
        "budget": "paper",
    }
    ledger = make_ledger(evidence, runs, sha256_json(spec), request)
    primary = next(metric.refined.value for metric in final if metric.name == "macro_auc")
    split = dict(zip(CLASSES, (58, 134, 38, 16, 32, 13, 13, 16), strict=True))
    values = {
        "created_at": "2026-11-20T15:10:00+00:00",
        "clinloop_version": "0.1.0",
        "task_id": "t-7f3a",
        "request": request,
        "spec": spec,
        "spec_sha256": sha256_json(spec),
        "primary_metric": "macro_auc",
        "primary_title": "Macro AUC",
        "assumptions": ("All eight classes matter; melanoma matters most.",),
        "open_questions": ("Is a sensitivity of 90 % for melanoma enough?",),
        "dataset": DatasetFacts(
            name="isic",
            layout="isic2019",
            classes=CLASSES,
            counts={"train": {k: v * 2 for k, v in split.items()}, "val": split, "test": split},
            group_kind="lesion",
            groups={"train": 420, "val": 205, "test": 190},
            split_rule="The official test set is kept; validation is 20 % of the rest, grouped and stratified.",
            image_rules=(
                "Re-encoded as JPEG of quality 95.",
                "Cache of 64 pixels: short side resized, centre cropped.",
            ),
            commitment="c0ffee" * 10 + "beef",
            audit=(
                AuditItem(level="ok", text="No lesion is in two parts."),
                AuditItem(level="warning", text="Metadata alone reach an AUC of 0.71 for MEL."),
                AuditItem(level="note", text="31 images were left out: _downsampled siblings."),
            ),
        ),
        "guarantee": Guarantee(
            level="L0",
            name="honour",
            meaning="Code that the agent submitted could not see the test set. The agent's own shell on this machine could have.",
        ),
        "budget": BudgetFacts(preset="paper", runs_granted=31, runs_used=11, smoke_used=1, seconds_per_run=2400),
        "runs": runs,
        "incumbent": 9,
        "operating_points": tuple(
            OperatingPoint(
                model=model,
                class_name="MEL",
                rule="sensitivity at least 0.9",
                threshold=threshold,
                validation_sensitivity=0.9,
                validation_specificity=0.55,
            )
            for model, threshold in (("initial", 0.11), ("refined", 0.17))
        ),
        "final": final,
        "validation_to_test": ValidationToTest(
            metric="macro_auc", validation=0.871, test=primary, drop=0.871 - primary
        ),
        "integrity": Integrity(
            canaries=(
                CanaryCheck(model="initial", n=24, agreeing=24, largest_difference=0.0),
                CanaryCheck(model="refined", n=24, agreeing=24, largest_difference=2.1e-7),
            ),
            order=(OrderAudit(model="refined", ok=True, detail="64 cases in two orders; largest difference 1e-7"),),
            trees=TREES,
            checkpoints=CHECKPOINTS,
        ),
        "environment": EnvironmentFacts(
            image="cpu",
            image_digest="5e" * 32,
            packages={"torch": "2.9.0", "timm": "1.0.22", "numpy": "2.3.4"},
            backend="bubblewrap",
            tiers={"memory": "cgroup", "network": "none", "disk": "tmpfs", "user": "separate uid"},
            hardware={"cpus": "2", "memory": "8 GiB", "gpu": "none"},
        ),
        "ledger": tuple(ledger.rows),
        "ledger_key": SIGNER.public_key,
        "ledger_head": ledger.rows[-1].hash,
    }
    plain = ReportData.model_validate(values | changes)
    return plain.model_copy(update={"scorecard": stages.score(facts_of(plain))})


@pytest.fixture(scope="session")
def evidence() -> Evidence:
    return make_evidence()


@pytest.fixture(scope="session")
def data(evidence: Evidence) -> ReportData:
    return make_data(evidence, drawn_metrics())


@pytest.fixture(scope="session")
def scored_data(evidence: Evidence) -> ReportData:
    """A report whose test scores are those of its evidence."""
    points = {"initial": 0.11, "refined": 0.17}
    found = service.final_scores(
        evidence.initial,
        evidence.refined,
        read_truth(evidence),
        scheme=service.Scheme(tuple(CLASSES)),
        metrics=["macro_auc", "f1", "brier", "auc_MEL", "sensitivity_MEL", "specificity_MEL"],
        operating_points_initial={"MEL": {"threshold": points["initial"]}},
        operating_points_refined={"MEL": {"threshold": points["refined"]}},
        resamples=300,
        seed=5,
        unit="lesion",
    )

    def shown(estimate: service.Estimate) -> Estimate:
        return Estimate(value=estimate.value, low=estimate.low, high=estimate.high)

    return make_data(
        evidence,
        tuple(
            FinalMetric(
                name=metric.name,
                title=metric.name,
                direction=metric.direction,
                initial=shown(metric.initial),
                refined=shown(metric.refined),
                difference=shown(metric.difference),
                p=metric.p,
                n=metric.n,
                unit=metric.unit,
                resamples=metric.resamples,
                seed=metric.seed,
            )
            for metric in found
        ),
    )


def write_task(data: ReportData, evidence: Evidence, task: Path) -> Path:
    """Write model/ and a sealed report/ into a folder, and return it."""
    for name, content in MODEL_FILES.items():
        (task / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (task / "model" / name).write_bytes(content)
    (task / "model" / "MANIFEST.json").write_text(json.dumps(MANIFEST))
    paths = write_report(data, task / "report", evidence)
    book = Ledger(list(data.ledger))
    book.append("task:t-7f3a", "evaluated", report_sha256=hashlib.sha256(paths.json.read_bytes()).hexdigest())
    seal_report(task / "report", [row for row in book.rows if row.scope == "task:t-7f3a"])
    return task


@pytest.fixture(scope="session")
def honest(scored_data: ReportData, evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task folder as finalize leaves it: model/ and a sealed report/."""
    return write_task(scored_data, evidence, tmp_path_factory.mktemp("task"))
