"""What the browser sees: a state folder with tasks in many states, made by really running them, and a server process on a free port."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clinloop import clinician, evaluation, runs, tasks
from clinloop.principal import Principal
from clinloop.services import Services
from clinloop.spec import TaskSpec
from clinloop.store.rows import RunRow
from clinloop.tradeoffs import tradeoffs_of
from clinloop.workspace import Workspace

REQUEST = "Tell melanoma from nevus and keratosis for me, and do not let a melanoma slip through."
SPEC: dict[str, Any] = {
    "objective": "Tell melanomas from nevi and keratoses; a missed melanoma is the worst error.",
    "budget": "demo",
    "acceptance": "guarded",
    "emphasised_classes": [{"class_name": "melanoma", "why": "a missed melanoma can kill"}],
    "risk_preference": "sensitivity_first",
    "assumptions": ["All images show skin.", "One image is one patient."],
    "open_questions": ["May a keratosis be called a nevus?"],
}
DOCTOR = Principal("Dr. Weber", frozenset(["clinician"]))
SLOW = "    import time; time.sleep(0.25)\n"


class Stage:
    """Tasks of one state folder."""

    def __init__(self, services: Services) -> None:
        self.services = services.for_principal(Principal("codex", frozenset(["agent"])))
        self.doctor = services.for_principal(DOCTOR)
        self.made: dict[str, str] = {}
        """Tasks that several tests look at."""

    def task(self, request: str = REQUEST, **spec: Any) -> str:
        """Begin a task; its agent is codex."""
        made = TaskSpec.model_validate(SPEC | spec)
        return tasks.create(self.services, dataset_name="moles", request=request, spec=made, template="linear").id

    def change(self, task_id: str, old: str, new: str) -> None:
        """Edit train.py as an agent does."""
        folder = self.services.state.task(task_id)
        Workspace(folder.workspace, folder.revisions).replace("train.py", old, new)

    def start(self, task_id: str, hypothesis: str = "") -> RunRow:
        """Start a run."""
        return runs.start(self.services, task_id, mode="full", hypothesis=hypothesis).run

    def run(self, task_id: str, hypothesis: str = "") -> RunRow:
        """Do a run to its end."""
        return self.end(self.start(task_id, hypothesis))

    def end(self, run: RunRow) -> RunRow:
        """Wait for the end of a run."""

        def ended() -> RunRow | None:
            runs.recover(self.services, run.task_id)
            now = self.services.store.run(run.task_id, run.name)
            return None if now.is_active else now

        return until(ended, 90)

    def slow_run(self, task_id: str) -> RunRow:
        """Start a run that takes some 15 seconds and asks for its value every second."""
        self.change(task_id, "VALIDATE_EVERY = 20", "VALIDATE_EVERY = 4")
        self.change(task_id, "    error = (softmax", f"{SLOW}    error = (softmax")
        return self.start(task_id, "Slower steps and more looks show how the value grows.")

    def evaluated(self, task_id: str) -> None:
        """Take a task to its final result."""
        best = self.services.store.incumbent(task_id)
        assert best is not None
        evaluation.start(self.services, task_id, best.name)

        def ended() -> bool:
            runs.recover(self.services, task_id)
            return self.services.store.task(task_id).status in ("evaluated", "invalid")

        until(ended, 120)

    def worked_on(self) -> str:
        """Return a task with a baseline, a better run, one that failed, and a note; made once."""
        if "worked" in self.made:
            return self.made["worked"]
        task_id = self.task(
            "Sort these three kinds of moles, all equally well.", emphasised_classes=[], acceptance="paper"
        )
        self.run(task_id)
        self.change(task_id, "EPOCHS = 60", "EPOCHS = 240")
        self.run(task_id, "Four times as many passes fit the colours better.")
        self.change(
            task_id,
            "session = open_session()",
            "session = open_session()\nraise ValueError('<script>alert(1)</script>')",
        )
        self.run(task_id, "A check of the input images stops bad ones early.")
        self.change(task_id, "\nraise ValueError('<script>alert(1)</script>')", "")
        clinician.write_note(self.doctor, task_id, "Please look at the dark moles first.")
        self.made["worked"] = task_id
        return task_id

    def traded(self, request: str = "Choose for me: which of these two models is it to be?") -> str:
        """Return a task that waits for a choice: its second run has values that gain on all classes and lose melanomas."""
        task_id = self.task(request, tradeoffs="clinician")
        store, base = self.services.store, self.run(task_id)
        scores = copy.deepcopy(base.scores or {})
        for metric, change in (("macro_auc", 0.03), ("auc_melanoma", -0.1)):
            for part in ("value", "low", "high"):
                scores["metrics"][metric][part] = min(0.999, scores["metrics"][metric][part] + change)
        row, _ = store.reserve_run(
            task_id=task_id,
            mode="full",
            request_id="traded",
            revision=base.revision,
            tree_sha256="0" * 64,
            hypothesis="Rough naevi are told apart by their grain.",
            inputs=[],
        )
        store.settle_run(
            task_id,
            row.name,
            "succeeded",
            end_reason="finished",
            message="",
            score=scores["metrics"]["macro_auc"]["value"],
            scores=scores | {"primary": scores["metrics"]["macro_auc"]["value"]},
            decision="rejected",
            reason="guard_worse:auc_melanoma",
            reason_text="Rejected: macro_auc gains, but the guard auc_melanoma is worse than its margin.",
        )
        store.ask_choice(task_id, tradeoffs_of(self.services, task_id).asked())
        return task_id


def until(condition: Callable[[], Any], within_s: float) -> Any:
    """Return the first truthy value of a condition."""
    deadline = time.monotonic() + within_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"not reached in {within_s} s"
        time.sleep(0.1)


class Server:
    """A `clinloop serve --http` of its own process."""

    def __init__(self, state: Path, log: Path) -> None:
        command = [sys.executable, "-m", "clinloop", "serve", "--state", str(state), "--http", "127.0.0.1:0"]
        command += ["--sandbox", "none", "--i-accept-no-isolation"]
        self._file = log.open("wb")
        self.process = subprocess.Popen(command, stdout=self._file, stderr=subprocess.STDOUT)
        text = until(lambda: re.search(rb"Agents: (http://[^/]+)/mcp", log.read_bytes()), 30)
        self.address = text.group(1).decode()

    def stop(self) -> int:
        """Stop it and return its exit code."""
        self.process.terminate()
        code = self.process.wait(timeout=15)
        self._file.close()
        return code
