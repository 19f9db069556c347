"""Plain words for the states of tasks and runs, for metrics, decisions and times, as clinicians read them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from clinloop.errors import BadInput
from clinloop.report.text import number
from clinloop.scoring import metrics
from clinloop.scoring.metrics import Scheme
from clinloop.spec import Guard, TaskSpec
from clinloop.store.rows import QuestionKind, RunRow, TaskRow

Tone = Literal["", "good", "wait", "bad", "busy"]


class Said(NamedTuple):
    """A state in words, with the tone and the sign of its chip."""

    text: str
    tone: Tone = ""
    sign: str = "dot"


_TASK: Mapping[str, Said] = {
    "preparing": Said("Being prepared", "busy", "clock"),
    "open": Said("Agent's turn", "", "line"),
    "paused": Said("Paused", "wait", "pause"),
    "evaluating": Said("Final test is being prepared", "busy", "clock"),
    "awaiting_unseal": Said("Waits for the key of the test set", "wait", "key"),
    "unsealed": Said("Final test is running", "busy", "play"),
    "evaluated": Said("Done", "good", "check"),
    "invalid": Said("Final test failed", "bad", "cross"),
    "declined": Said("Declined", "", "minus"),
}
_WAITS: Mapping[QuestionKind, Said] = {
    "spec": Said("Waits for your confirmation", "wait", "hand"),
    "finalize": Said("Waits for your yes to the final test", "wait", "hand"),
    "tradeoff": Said("Waits for your choice", "wait", "scales"),
}
_RUN: Mapping[str, Said] = {
    "queued": Said("Waits in the queue", "wait", "clock"),
    "training": Said("Training", "busy", "play"),
    "predicting": Said("Reading the validation images", "busy", "play"),
    "scoring": Said("Being scored", "busy", "play"),
    "succeeded": Said("Finished", "good", "check"),
    "failed": Said("Failed", "bad", "cross"),
    "stopped": Said("Stopped", "", "stop"),
    "lost": Said("Lost by a fault of the server", "bad", "cross"),
}
_DECISION: Mapping[str, Said] = {
    "accepted": Said("Kept", "good", "check"),
    "rejected": Said("Not kept", "", "minus"),
}
RISKS: Mapping[str, str] = {
    "sensitivity_first": "A miss is worse than a false alarm",
    "balanced": "Both errors are equally bad",
    "specificity_first": "A false alarm is worse than a miss",
}
ACCEPTANCE: Mapping[str, str] = {
    "guarded": "A new model is kept if it is better by more than chance and nothing that is watched gets worse",
    "confirmed": "As above, and a second training run has to show the same",
    "paper": "A new model is kept if its value is higher, by however little",
}
_KINDS: Mapping[str, str] = {
    "classification": "Say which class an image belongs to",
    "detection": "Find things in an image and mark each with a box",
    "segmentation": "Outline something in an image",
}
_PRESETS: Mapping[str, str] = {"paper": "large", "quick": "small", "demo": "demonstration"}


def task_state(task: TaskRow, asked: QuestionKind | None, active: RunRow | None) -> Said:
    """Return the state of a task; `asked` is what it waits for, `active` the run that is under way."""
    if asked is not None:
        return _WAITS[asked]
    if active is not None and task.status in ("open", "paused"):
        said = run_state(active)
        return said._replace(text=f"{run_name(active)}: {said.text.lower()}")
    return _TASK.get(task.status, Said(task.status))


def run_state(run: RunRow) -> Said:
    """Return the state of a run."""
    return _RUN.get(run.status, Said(run.status))


def decision(run: RunRow, *, chosen: bool = False) -> Said | None:
    """Return whether a run was kept; None before it was decided, and where there was nothing to decide."""
    if chosen:
        return Said("Chosen by the clinician", "good", "check")
    return _DECISION.get(run.decision)


def run_name(run: RunRow) -> str:
    """Return the name of a run for people."""
    if run.mode == "smoke":
        return f"Trial {run.number}"
    return "Run 0 (start model)" if run.number == 0 else f"Run {run.number}"


def metric(name: str, scheme: Scheme) -> str:
    """Return the title of a metric; its name where no such metric exists."""
    try:
        return metrics.title(name, scheme)
    except BadInput:
        return name


def kind(spec: TaskSpec) -> str:
    """Return what the model is to do."""
    return _KINDS[spec.task_type]


def budget(spec: TaskSpec) -> str:
    """Return the name of the budget."""
    return _PRESETS[spec.budget]


def rule(text: str) -> str:
    """Return the rule that fixes the threshold, in words."""
    if text == "youden":
        return "Where sensitivity and specificity together are highest"
    if text == "max_f1":
        return "Where the balance of found and wrongly marked things is best"
    if text == "none":
        return "None; outlines have no threshold"
    name, _, value = text.partition("=" if text.startswith("cost") else ">=")
    if name == "cost":
        return f"Least harm, where one miss counts as much as {value} false alarms"
    return f"{name.capitalize()} of at least {share(float(value))}, and the other as high as that allows"


def limit(guard: Guard, now: float | None, scheme: Scheme) -> str:
    """Return how far a watched value may get worse."""
    if now is None:
        return f"may get worse by at most {number(guard.margin)}"
    try:
        higher = metrics.is_higher_better(guard.metric)
    except BadInput:
        higher = True
    return (
        f"must stay at {number(now - guard.margin)} or above"
        if higher
        else f"must stay at {number(now + guard.margin)} or below"
    )


def share(value: float) -> str:
    """Return a share as a percentage without needless digits."""
    return f"{100 * value:g}\u00a0%"


def duration(seconds: float) -> str:
    """Return a length of time: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 and whole < 600 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 // 60 else "")


def at(text: str | None) -> str:
    """Return a time of the store for people: `26 Nov 2026, 14:53 UTC`."""
    if not text:
        return "–"
    try:
        return f"{datetime.fromisoformat(text):%-d %b %Y, %H:%M} UTC"
    except ValueError:
        return text


def short(text: str, cap: int = 120) -> str:
    """Return the start of a text, cut at a word."""
    line = " ".join(text.split())
    return line if len(line) <= cap else line[:cap].rsplit(" ", 1)[0] + " …"
