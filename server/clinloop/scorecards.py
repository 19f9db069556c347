"""The scorecard of a task as it is now: that of its report when there is one, else what its ledger says so far."""

from __future__ import annotations

from clinloop.datasets.dataset import Dataset
from clinloop.delivery import run_summaries
from clinloop.report.conduct import Facts, facts_of
from clinloop.report.data import LedgerRow, ReportData
from clinloop.report.scorecard import Scorecard
from clinloop.report.stages import score
from clinloop.services import Services


def scorecard_of(services: Services, task_id: str) -> Scorecard:
    """Return how a task was worked on, as far as it has come.

    Raises:
        Unknown: there is no such task.
    """
    task, folder = services.store.task(task_id), services.state.task(task_id)
    file = folder.report / "report.json"
    if task.status == "evaluated" and file.is_file():
        data = ReportData.model_validate_json(file.read_bytes())
        return data.scorecard or score(facts_of(data))
    rows = [LedgerRow(**row._asdict()) for row in services.store.ledger(f"task:{task_id}")]
    warnings = Dataset.load(services.settings.state, task.dataset).audit.warnings
    spec = task.spec.model_dump(mode="json")
    return score(Facts(spec, warnings, run_summaries(services.store, folder, task), rows))
