"""What forms about tasks share: typed text survives an error, and the error stands at its field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from clinloop.errors import NotNow
from clinloop.services import Services
from clinloop.store.rows import QuestionKind, QuestionRow, TaskRow


class Filled(NamedTuple):
    """A form as it was sent, with what was wrong with it."""

    values: Mapping[str, str]
    errors: Mapping[str, str]
    """By field; "" is about the form as a whole."""

    def value(self, name: str, default: str = "") -> str:
        """Return what was typed into a field."""
        return self.values.get(name, default)

    def error(self, name: str) -> str:
        """Return what is wrong with a field."""
        return self.errors.get(name, "")


EMPTY = Filled({}, {})


def waiting_for(services: Services, task_id: str, kind: QuestionKind) -> tuple[TaskRow, QuestionRow]:
    """Return a task and what it asks.

    Raises:
        Unknown: no such task.
        NotNow: it does not wait for that (any more).
    """
    task, asked = services.task(task_id), services.store.open_question(task_id)
    if asked is None or asked.kind != kind:
        raise NotNow("This task does not wait for that, or not any more: somebody else may have answered meanwhile.")
    return task, asked
