"""What the store hands out: one frozen value per task and per run."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from clinloop.spec import TaskSpec

Mode = Literal["full", "smoke"]
QuestionKind = Literal["spec", "finalize", "tradeoff"]


@dataclass(frozen=True)
class TaskRow:
    """One task."""

    id: str
    dataset: str
    request: str
    spec: TaskSpec
    template: str
    seed: int
    settings: dict[str, Any]
    init_key: str
    status: str
    phase: str
    final_run: str | None
    result: dict[str, Any] | None
    created_at: str
    ended_at: str | None
    owner: str
    chosen_run: str | None
    chosen_at: str | None


@dataclass(frozen=True)
class QuestionRow:
    """What a task waits, or waited, for a person to say."""

    task_id: str
    number: int
    kind: QuestionKind
    asked: dict[str, Any]
    asked_at: str
    answer: dict[str, Any] | None
    answered_by: str | None
    answered_at: str | None


@dataclass(frozen=True)
class NoteRow:
    """What a person told the agent of a task, or did to the task."""

    task_id: str
    number: int
    kind: Literal["note", "act"]
    """Words to the agent, or what a person did to the task."""
    author: str
    text: str
    written_at: str
    delivered_at: str | None

    @property
    def line(self) -> str:
        """The note as the agent reads it: an act follows the name as a sentence."""
        return f"{self.author}{':' if self.kind == 'note' else ''} {self.text}"


@dataclass(frozen=True)
class RunRow:
    """One run or smoke test."""

    task_id: str
    name: str
    number: int
    mode: Mode
    request_id: str
    revision: str
    tree_sha256: str
    hypothesis: str
    inputs: list[str]
    gpus: int
    status: str
    end_reason: str
    message: str
    stop_requested: bool
    sandbox_ref: str | None
    facts: dict[str, Any]
    created_at: str
    started_at: str | None
    deadline_unix: float | None
    ended_at: str | None
    score: float | None
    scores_json: str | None
    decision: str
    reason: str
    reason_text: str

    @cached_property
    def scores(self) -> dict[str, Any] | None:
        """What the server measured on validation; None before. Read when it is asked for: most who list runs do not ask."""
        return json.loads(self.scores_json) if self.scores_json else None

    @property
    def is_active(self) -> bool:
        """True while a supervisor owes this run an end."""
        return self.ended_at is None

    @property
    def ran_in(self) -> str:
        """Sandbox backend, image and the start of its digest; empty before it starts."""
        found = self.facts
        return f"{found['backend']}, image {found['image']} {found['environment'][:12]}" if "image" in found else ""

    @property
    def counts(self) -> bool:
        """False for a run that says nothing about its code: lost, or stopped before it started."""
        return self.status != "lost" and (self.status != "stopped" or self.started_at is not None)


def task_row(row: sqlite3.Row) -> TaskRow:
    """Return the task of a database row."""
    values: dict[str, Any] = dict(row)
    fields: dict[str, Any] = {
        **values,
        "spec": _spec(values["spec"]),
        "settings": json.loads(values["settings"]),
        "result": json.loads(values["result"]) if values["result"] else None,
    }
    return TaskRow(**fields)


@lru_cache(maxsize=1024)
def _spec(text: str) -> TaskSpec:
    """Return a contract, which is frozen, so that all may share it: every call about a task reads it several times."""
    return TaskSpec.model_validate_json(text)


def question_row(row: sqlite3.Row) -> QuestionRow:
    """Return the question of a database row."""
    values: dict[str, Any] = dict(row)
    answer = json.loads(values["answer"]) if values["answer"] else None
    fields: dict[str, Any] = {**values, "asked": json.loads(values["asked"]), "answer": answer}
    return QuestionRow(**fields)


def run_row(row: sqlite3.Row) -> RunRow:
    """Return the run of a database row."""
    values: dict[str, Any] = dict(row)
    fields: dict[str, Any] = {
        **values,
        "inputs": json.loads(values["inputs"]),
        "facts": json.loads(values["facts"]),
        "stop_requested": bool(values["stop_requested"]),
        "scores_json": values["scores"],
    }
    del fields["scores"]
    return RunRow(**fields)
