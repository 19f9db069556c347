"""Looks for suspected shortcuts of a model: what the audit found there to be learned, against what the model's answers on validation go with."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from clinloop.datasets.acquisition import PROBES, SIZES, TEXTS, read_acquisition
from clinloop.datasets.dataset import CaseRow, Dataset
from clinloop.datasets.findings import chance_limit
from clinloop.errors import BadPredictions, Refusal
from clinloop.report.suspects import Available, Kind, Suspect, note, rank
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.shortcuts import Column, find_shortcuts
from clinloop.scoring.truth import TruthCase

_log = logging.getLogger(__name__)


def look_for_suspects(
    dataset: Dataset,
    truth: Sequence[TruthCase],
    predictions: Path,
    embeddings: tuple[Path, Path],
    *,
    scheme: Scheme,
    operating_rule: str = "",
    seed: int = 0,
) -> tuple[tuple[Suspect, ...], str]:
    """Return the suspects of a model, from its predictions and embeddings of the validation cases in `truth`, and how they were looked for.

    A fault in what the model wrote, or of the scoring process, is said in the second value: a report does without suspects.
    """
    has_embeddings, without = all(path.exists() for path in embeddings), ""
    try:
        columns = _columns(dataset, [case.case_id for case in truth])
        try:
            found = find_shortcuts(
                predictions,
                truth,
                scheme=scheme,
                columns=columns,
                embeddings=embeddings if has_embeddings else None,
                operating_rule=operating_rule,
                seed=seed,
            )
        except BadPredictions as refusal:
            if not has_embeddings:
                raise
            without = str(refusal)
            found = find_shortcuts(
                predictions, truth, scheme=scheme, columns=columns, operating_rule=operating_rule, seed=seed
            )
        return rank(available(dataset), found), note(found, n_facts=len(columns), without=without)
    except (
        Exception
    ) as fault:  # the test set is open by now: nothing that is optional may keep the report from being written
        _log.exception("suspected shortcuts could not be computed")
        why = str(fault) if isinstance(fault, Refusal) else "a fault of the server; its log says more."
        return (), f"Shortcuts were not looked for: {why}"


def available(dataset: Dataset) -> dict[str, Available]:
    """Return the facts that alone tell the classes apart better than chance on train and validation, as the audit found them."""
    audit = dataset.audit
    by_class = [sum(counts[name] for counts in audit.counts.values()) for name in audit.counts["train"]]
    limit = chance_limit(by_class)
    alone = {item.name: item.auc_alone or 0.0 for item in audit.attributes}
    for model in (audit.metadata_model, audit.probe_model):
        alone |= {name: auc for name, auc in (model.auc_alone if model else {}).items() if name not in alone}
    return {name: Available(_kind(name, dataset.attributes), auc) for name, auc in alone.items() if auc >= limit}


def _kind(name: str, attributes: Sequence[str]) -> Kind:
    if name in attributes:
        return "attribute"
    return "size" if name in SIZES else "metadata" if name in TEXTS else "probe"


def _columns(dataset: Dataset, case_ids: Sequence[str]) -> dict[str, Column]:
    """Return every known fact of the cases: numbers where all values are, else texts; an attribute hides a fact of its name."""
    cases: Mapping[str, CaseRow] = {case.case_id: case for case in dataset.cases("val")}
    taken = read_acquisition(dataset.folder)
    columns: dict[str, Column] = {}
    if taken:
        columns |= {name: [float(taken[case_id][name]) for case_id in case_ids] for name in (*SIZES, *PROBES)}
        columns |= {name: [taken[case_id][name] for case_id in case_ids] for name in TEXTS}
    for name in dataset.attributes:
        texts = [cases[case_id].attributes.get(name, "") for case_id in case_ids]
        columns[name] = _numbers(texts) or texts
    return columns


def _numbers(texts: Sequence[str]) -> list[float | None] | None:
    """Return the values as numbers (None = missing), None where one is no number."""
    try:
        values = [float(text) if text else None for text in texts]
    except ValueError:
        return None
    return [value if value is not None and math.isfinite(value) else None for value in values] if any(texts) else None
