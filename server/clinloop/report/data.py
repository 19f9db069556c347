"""Everything that a report says, as one frozen value: the writer renders and dumps it, the verifier reads it back.

Files of a report folder, beside `report.json` and `report.html`:

                            (evidence/*.csv.age instead, when the test set is sealed: only the clinician's identity opens them)
    evidence/truth.csv      case_id,group,label,…    every test case once; ids are the random ids of the final run
    evidence/initial.csv    case_id,p_<class>,…      what the baseline predicted for the same cases (initial.json: boxes or masks)
    evidence/refined.csv    case_id,p_<class>,…      what the accepted model predicted (refined.json)
    seal.json               later rows of the task's ledger; one of them holds the SHA-256 of report.json
    ../model/MANIFEST.json  {file name: sha256}      the model folder beside the report folder
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from clinloop.report.cases import Gallery
from clinloop.report.choices import Choice, TradeoffPicture
from clinloop.report.limits import STANDARD_LIMITS
from clinloop.report.scorecard import Scorecard
from clinloop.report.suspects import Suspect
from clinloop.scoring.analysis import Analysis, Undeclared

SCHEMA_VERSION: Final = 1
GENESIS: Final = "0" * 64


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class AuditItem(_Value):
    """One finding of the data audit that a reader should know."""

    level: Literal["ok", "note", "warning"]
    """How much it matters."""
    text: str
    """The finding, with its number."""


class DatasetFacts(_Value):
    """The data that the task was done on, test included, because the test has been opened."""

    name: str
    """Name of the dataset on this server."""
    layout: str
    """Layout adapter that read it."""
    classes: tuple[str, ...]
    """Classes of the task in the order of the prediction columns."""
    counts: dict[str, dict[str, int]]
    """Images by split (`train`, `val`, `test`) and class."""
    group_kind: str
    """What a group is: patient, lesion, study or image."""
    groups: dict[str, int]
    """Number of groups by split; no group is in two splits."""
    split_rule: str = ""
    """How the test and validation parts were chosen."""
    image_rules: tuple[str, ...] = ()
    """What was done to the pixels, one sentence each."""
    commitment: str
    """Salted SHA-256 commitment to the split, made before the first run."""
    audit: tuple[AuditItem, ...] = ()
    """Highlights of the audit."""


class Guarantee(_Value):
    """How far the test set was out of the agent's reach."""

    level: Literal["L0", "L1", "L2", "L3"]
    """Level that `clinloop doctor` computed."""
    name: str
    """Its name, for example `honour`."""
    meaning: str
    """What the level does and does not promise, in one or two sentences."""


class BudgetFacts(_Value):
    """What the agent could spend and what it spent."""

    preset: str
    """Name of the budget preset."""
    runs_granted: int
    """Charged runs allowed, the baseline included."""
    runs_used: int
    """Charged runs, refunds taken off."""
    smoke_used: int
    """Free smoke tests."""
    seconds_per_run: int
    """Training time of one run."""


class RunSummary(_Value):
    """One run of the loop."""

    number: int
    """Run number; 0 is the baseline."""
    mode: Literal["full", "smoke"] = "full"
    """Whether it was charged."""
    status: str
    """Final state of the run: succeeded, failed, stopped or lost."""
    end_reason: str = ""
    """Why training ended: finished, deadline, crash, …"""
    revision: str
    """Revision of the workspace that it ran."""
    hypothesis: str = ""
    """Why the change should help, in the agent's words."""
    primary: float | None
    """Primary metric on validation, computed by the server from predict.py; None when the run has no score."""
    scores: dict[str, float | None] = Field(default_factory=dict)
    """All reported metrics on validation."""
    decision: Literal["accepted", "rejected", "none"]
    """Decision of the server; `none` when there was nothing to decide on."""
    reason_code: str = ""
    """Code of the decision's reason."""
    reason: str = ""
    """The reason in words."""
    started: str | None = None
    """UTC ISO-8601."""
    ended: str | None = None
    """UTC ISO-8601."""
    train_seconds: float | None = None
    """Wall-clock seconds of training."""
    diff_summary: str = ""
    """What changed against the revision before, for example `train.py +12 -3`."""
    validations: tuple[tuple[float, float], ...] = ()
    """Scores inside the run: (seconds since start, primary metric)."""
    incumbent_after: int | None = None
    """Number of the best accepted run after this one was decided."""
    inputs: tuple[int, ...] = ()
    """Earlier runs whose output this run could read."""
    ran_in: str = ""
    """Sandbox backend, image and its digest."""
    chosen: bool = False
    """The clinician made it the incumbent at some time, whatever the rule said."""
    claimed: float | None = None
    """Best value that training saw through `session.validate`; None when it never asked."""


class OperatingPoint(_Value):
    """A threshold that was fixed on validation and used unchanged on the test set."""

    model: Literal["initial", "refined"]
    """Which model it belongs to."""
    class_name: str
    """Class that the threshold decides about."""
    rule: str
    """Rule that chose it, in words."""
    threshold: float
    """A case is called positive when its probability is at least this."""
    validation_sensitivity: float | None
    """Sensitivity on validation at the threshold."""
    validation_specificity: float | None
    """Specificity on validation at the threshold."""


class Estimate(_Value):
    """A value with its 95 % interval; None where the metric is undefined."""

    value: float | None
    """Point value."""
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    """Upper end of the 95 % interval."""


class FinalMetric(_Value):
    """One metric on the test set, before and after."""

    name: str
    """Name in METRICS, with its class: `auc_MEL`."""
    title: str
    """Name for people."""
    direction: Literal["higher", "lower"] = "higher"
    """Which way is better."""
    initial: Estimate
    """The baseline."""
    refined: Estimate
    """The accepted model."""
    difference: Estimate
    """Refined minus initial, paired on the same resamples."""
    p: float | None
    """Two-sided paired bootstrap p-value."""
    n: int
    """Test cases."""
    unit: str
    """What was resampled: the group kind."""
    resamples: int
    """Number of bootstrap resamples."""
    seed: int
    """Seed of the resamples."""


class ValidationToTest(_Value):
    """How much of the validation value was left on the test set."""

    metric: str
    """Name of the primary metric."""
    validation: float
    """Validation value of the accepted model."""
    test: float | None
    """Its test value."""
    drop: float | None
    """Validation minus test."""


class CanaryCheck(_Value):
    """Validation cases mixed into the final run: a model that treats the test set apart answers them differently."""

    model: Literal["initial", "refined"]
    """Which model."""
    n: int
    """Canaries."""
    agreeing: int
    """Canaries with the same answer as on validation, within the tolerance."""
    largest_difference: float
    """Largest absolute difference of a probability."""


class OrderAudit(_Value):
    """Predictions must not depend on the order or the names of the files."""

    model: Literal["initial", "refined"]
    """Which model."""
    ok: bool
    """Whether they did not."""
    detail: str
    """What was compared and the largest difference."""


class Integrity(_Value):
    """What was checked around the one opening of the test set."""

    touched: str = "once"
    """How often the server opened the test set for this task, in words."""
    earlier_openings: int = 0
    """Other tasks on the same dataset for which the server had opened it before: what their results told may have been used here."""
    canaries: tuple[CanaryCheck, ...] = ()
    """Agreement on the canaries."""
    order: tuple[OrderAudit, ...] = ()
    """Order audit."""
    trees: dict[str, str] = Field(default_factory=dict)
    """Digest of the frozen code by model: `initial`, `refined`."""
    checkpoints: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the frozen checkpoint by model."""
    sealed_to: tuple[str, ...] = ()
    """age recipients to whom the test set, and with it the evidence, is sealed; empty = it was not sealed."""
    originals_readable: bool = False
    """For a sealed test set: the images that the dataset was made of could still be read on the machine when it was opened."""
    crash_notes: tuple[str, ...] = ()
    """Crashes and recoveries during finalize; empty = none."""


class EnvironmentFacts(_Value):
    """Where the runs ran."""

    image: str
    """Name of the sandbox image."""
    image_digest: str
    """SHA-256 of its locked requirements or of the image."""
    licence: str = ""
    """What to know of the licences of its packages; empty = nothing."""
    packages: dict[str, str] = Field(default_factory=dict)
    """Version by package."""
    backend: str
    """Sandbox backend."""
    tiers: dict[str, str] = Field(default_factory=dict)
    """Protection that was achieved, by kind: memory, disk, network, …"""
    hardware: dict[str, str] = Field(default_factory=dict)
    """Cores, memory, GPU."""


class LedgerRow(_Value):
    """One row of the append-only ledger.

    `hash` is the SHA-256 of the canonical JSON of [scope, seq, at, event, resource, amount, run, detail, prev].
    """

    scope: str
    """`dataset:<name>` or `task:<id>`."""
    seq: int
    """Position in its scope, from 0 without a hole."""
    at: str
    """UTC ISO-8601."""
    event: str
    """What happened."""
    resource: str | None = None
    """What was granted, reserved or refunded; None when nothing was."""
    amount: int = 0
    """Signed amount: positive for a grant or a refund, negative for a charge."""
    run: str | None = None
    """Name of the run that was charged or refunded, for example `run3`; None for grants."""
    detail: dict[str, JsonValue] = Field(default_factory=dict)
    """Facts of the event."""
    prev: str
    """Hash of the row before; at the start 64 zeros (dataset) or the dataset's head (task)."""
    hash: str
    """Hash of this row."""
    signature: str
    """Ed25519 signature of the hash: 128 hexadecimal digits."""


class Said(_Value):
    """What a person said or did while the task was worked on."""

    at: str
    """UTC ISO-8601."""
    by: str
    """Name, with the role in which it was done."""
    did: str
    """What, as it follows the name."""
    run: str | None = None
    """Run that it was about."""
    text: str = ""
    """The person's words, or what a confirmation changed."""


class ReportData(_Value):
    """Everything that the report of one task says."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this form."""
    created_at: str
    """UTC ISO-8601."""
    clinloop_version: str
    """Version of clinloop that wrote it."""
    task_id: str
    """Task."""
    task_type: Literal["classification", "detection", "segmentation"] = "classification"
    """Type of the task; decides how the evidence is scored again."""
    request: str
    """The clinician's words, verbatim."""
    spec: dict[str, JsonValue]
    """The frozen contract."""
    spec_sha256: str
    """SHA-256 of its canonical JSON."""
    primary_metric: str
    """Name of the metric that decided."""
    primary_title: str
    """The same for people."""
    assumptions: tuple[str, ...] = ()
    """What the agent assumed where the request was silent."""
    open_questions: tuple[str, ...] = ()
    """What the clinician should still answer."""
    people: tuple[Said, ...] = ()
    """What people said and did, oldest first."""
    dataset: DatasetFacts
    """The data."""
    guarantee: Guarantee
    """Guarantee level."""
    budget: BudgetFacts
    """Budget."""
    runs: tuple[RunSummary, ...]
    """All runs in order."""
    incumbent: int
    """Number of the run that was scored as `refined`: accepted by the rule, or chosen by the clinician."""
    choices: tuple[Choice, ...] = ()
    """What the clinician chose, in order; the ledger holds the same."""
    tradeoff: TradeoffPicture | None = None
    """The runs among which a choice could be made; None where the incumbent was the only sensible answer."""
    operating_points: tuple[OperatingPoint, ...] = ()
    """Thresholds of both models."""
    final: tuple[FinalMetric, ...]
    """Metrics on the test set, the primary one included."""
    validation_to_test: ValidationToTest
    """Drop from validation to test of the accepted model."""
    integrity: Integrity
    """Checks around the opening of the test set."""
    environment: EnvironmentFacts
    """Where the runs ran."""
    ledger: tuple[LedgerRow, ...]
    """Chained rows: first the dataset's, then the task's."""
    ledger_key: str = Field(pattern="^[0-9a-f]{64}$")
    """Ed25519 public key of the server that signed the rows: 64 hexadecimal digits."""
    ledger_head: str
    """Hash of the task's last row when the report was written."""
    analysis: Analysis | None = None
    """Everything that was computed of both models besides the final metrics; None in reports that are older than it."""
    undeclared: Undeclared | None = None
    """The same for attributes that the spec does not declare; the evidence does not hold them, so it cannot be computed again."""
    suspects: tuple[Suspect, ...] = ()
    """The strongest suspected shortcuts, at most five."""
    suspects_note: str = ""
    """How suspects were looked for, what was left out, and that a list that is empty proves nothing."""
    scorecard: Scorecard | None = None
    """How the task was worked on; None in reports from before there were scorecards."""
    gallery: Gallery | None = None
    """Validation cases gained and lost; None where the refined model is the initial one."""
    limits: tuple[str, ...] = STANDARD_LIMITS
    """What the numbers do not mean."""
