"""What pages say of one task: gathered once from store and files, without anything of the test set, whoever looks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from clinloop.beneath import Beneath
from clinloop.errors import Refusal
from clinloop.guarantee import Level
from clinloop.report.text import number
from clinloop.scoring import metrics
from clinloop.scoring.metrics import Scheme
from clinloop.services import Services
from clinloop.spec import PRESETS
from clinloop.store.rows import NoteRow, QuestionRow, RunRow, TaskRow
from clinloop.untrusted import clean_log
from clinloop.web import curves, words
from clinloop.web.words import Said

LOG_CAP = 4_000
_PER_CONFOUNDER = (
    ("raw_r", "How much its answers go along with it", "nearer 0 is better"),
    ("partial_r", "The same among cases with equal truth", "nearer 0 is better"),
    ("conflict_auc", "Right where it points the wrong way", "higher is better, 0.5 is guessing"),
    ("fp_share", "Share of false alarms that show it", "lower is better"),
)


class RunLook(NamedTuple):
    """A run as pages show it."""

    row: RunRow
    name: str
    state: Said
    decision: Said | None
    why: str
    """The reason of the decision, or what went wrong, in words."""
    since: str
    """The revision that its code is compared with."""
    is_incumbent: bool

    @property
    def value(self) -> str:
        """Its primary value on validation."""
        return number(self.row.score)


class Watched(NamedTuple):
    """A guard: a value that must not get worse."""

    title: str
    start: str
    now: str
    limit: str


class Suspicion(NamedTuple):
    """One number about a confounder."""

    title: str
    sense: str
    start: str
    now: str


class Budget(NamedTuple):
    """What of a task's budget is used."""

    granted: int
    left: int
    smokes_left: int
    seconds_per_run: int

    @property
    def used(self) -> int:
        """Charged runs."""
        return self.granted - self.left


class TaskLook(NamedTuple):
    """A task as pages show it."""

    task: TaskRow
    scheme: Scheme
    state: Said
    asked: QuestionRow | None
    questions: list[QuestionRow]
    notes: list[NoteRow]
    runs: list[RunLook]
    """Full runs, newest first."""
    trials: int
    active: RunLook | None
    baseline: RunRow | None
    incumbent: RunRow | None
    budget: Budget
    head: str
    level: Level
    place: str
    """What a queued run waits for."""
    points: list[tuple[float, float]]
    """Seconds and primary values of the active run so far."""
    log: str
    seconds_left: int | None
    seconds_of_phase: int

    @property
    def primary(self) -> str:
        """Title of the metric that decides."""
        return words.metric(self.task.spec.primary_metric, self.scheme)

    @property
    def incumbent_value(self) -> str:
        """Primary value of the best model so far."""
        return number(self.incumbent.score) if self.incumbent else "–"

    @property
    def curve(self) -> Markup:
        """The curve of the best model so far."""
        marks = [
            curves.Mark(look.row.number, look.row.score, look.row.decision == "accepted", look.row.is_active)
            for look in reversed(self.runs)
        ]
        return curves.running_best(marks, self.primary)

    @property
    def inside(self) -> Markup:
        """The curve of the active run."""
        return curves.inside(self.points, self.primary, self.budget.seconds_per_run)

    @property
    def spark(self) -> Markup:
        """The curve of the active run, without axes."""
        return curves.spark(self.points)

    @property
    def best_inside(self) -> str:
        """Best value of the active run so far."""
        values = [value for _, value in self.points]
        better = max if metrics.is_higher_better(self.task.spec.primary_metric) else min
        return number(better(values)) if values else "–"

    @property
    def guards(self) -> list[Watched]:
        """The values that must not get worse."""
        made: list[Watched] = []
        for guard in self.task.spec.guards:
            now = value_of(self.incumbent, guard.metric)
            title, limit = words.metric(guard.metric, self.scheme), words.limit(guard, now, self.scheme)
            made.append(Watched(title, number(value_of(self.baseline, guard.metric)), number(now), limit))
        return made

    def suspicions(self, attribute: str) -> list[Suspicion]:
        """Return the numbers about a confounder; none where a task has more than two classes."""
        found: list[Suspicion] = []
        for family, title, sense in _PER_CONFOUNDER:
            name = f"{family}_{attribute}"
            start, now = value_of(self.baseline, name), value_of(self.incumbent, name)
            if start is not None or now is not None:
                found.append(Suspicion(title, sense, number(start), number(now)))
        return found


def look_at(services: Services, task_id: str) -> TaskLook:
    """Return what pages say of a task.

    Raises:
        Unknown: no such task.
    """
    task, store = services.task(task_id), services.store
    rows, questions = store.runs(task_id), store.questions(task_id)
    asked = next((question for question in questions if question.answer is None), None)
    active = next((run for run in rows if run.is_active), None)
    full = [run for run in rows if run.mode == "full"]
    incumbent = store.incumbent(task_id)
    looks = _looks(full, incumbent, task.chosen_run)
    now = next((look for look in looks if look.row.is_active), None)
    if active is not None and now is None:
        now = _looks([active], None, None)[0]
    place = store.place(task_id, active.name) if active and active.status == "queued" else None
    folder = services.state.task(task_id)
    points = folder.run(active.name).read_validations() if active else []
    return TaskLook(
        task=task,
        scheme=metrics.scheme_of(task.spec),
        state=words.task_state(task, asked.kind if asked else None, active),
        asked=asked,
        questions=questions,
        notes=store.notes(task_id),
        runs=looks[::-1],
        trials=len(rows) - len(full),
        active=now,
        baseline=next((run for run in rows if run.decision == "accepted"), None),
        incumbent=incumbent,
        budget=_budget(services, task),
        head=store.head(f"task:{task_id}"),
        level=store.recorded_level(task_id),
        place=place.text if place and not place.units else "",
        points=[(point["seconds"], point["score"]) for point in points if "score" in point],
        log=read_log(services, active, "predict" if active.status == "predicting" else "train") if active else "",
        seconds_left=_seconds_left(active),
        seconds_of_phase=_seconds_of(task, active),
    )


def value_of(run: RunRow | None, metric: str) -> float | None:
    """Return a value of a run on validation; None where it has none."""
    found: Any = (run.scores or {}).get("metrics", {}).get(metric) if run else None
    return found["value"] if isinstance(found, dict) else found


def read_log(services: Services, run: RunRow, phase: str, *, cap: int = LOG_CAP) -> str:
    """Return the end of what a run printed; it was written by the agent's code."""
    folder = services.state.task(run.task_id).run(run.name)
    try:
        with Beneath(folder.root) as root:
            return clean_log(root.read_tail(folder.log(phase).name, cap=64 << 10), cap=cap)
    except (Refusal, OSError):
        return ""


def look_at_run(services: Services, task_id: str, name: str) -> RunLook:
    """Return one run.

    Raises:
        Unknown: no such task or run.
    """
    task, run = services.task(task_id), services.store.run(task_id, name)
    incumbent = services.store.incumbent(task_id)
    if run.mode == "smoke":
        return _looks([run], incumbent, task.chosen_run)[0]
    full = [row for row in services.store.runs(task_id) if row.mode == "full"]
    return next(look for look in _looks(full, incumbent, task.chosen_run) if look.row.name == name)


def _looks(runs: Sequence[RunRow], incumbent: RunRow | None, chosen: str | None) -> list[RunLook]:
    """Return runs in their order; each is compared with the code of the model that was kept before it."""
    made: list[RunLook] = []
    kept = "r1"
    for run in runs:
        said = words.decision(run, chosen=run.name == chosen)
        is_best = incumbent is not None and run.name == incumbent.name
        why = run.reason_text or run.message
        made.append(RunLook(run, words.run_name(run), words.run_state(run), said, why, kept, is_best))
        if run.decision == "accepted":
            kept = run.revision
    return made


def _budget(services: Services, task: TaskRow) -> Budget:
    left = services.store.balance(task.id)
    rows = services.store.ledger(f"task:{task.id}")
    granted = sum(row.amount for row in rows if row.event == "granted" and row.resource == "run")
    return Budget(granted, left.get("run", 0), left.get("smoke", 0), PRESETS[task.spec.budget].train_seconds)


def _seconds_left(run: RunRow | None) -> int | None:
    if run is None or run.status != "training" or not run.deadline_unix:
        return None
    return max(0, round(run.deadline_unix - time.time()))


def _seconds_of(task: TaskRow, run: RunRow | None) -> int:
    preset = PRESETS[task.spec.budget]
    return preset.smoke_seconds if run is not None and run.mode == "smoke" else preset.train_seconds
