"""Adds a numeric attribute to a stored dataset: every table, the audit, and at last dataset.json, from which on the attribute exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from clinloop.datasets import assemble
from clinloop.datasets.dataset import Annotation, CaseRow, Dataset
from clinloop.datasets.findings import SUSPICIOUS_AUC, AttributeFacts, Audit, Quartiles
from clinloop.datasets.predictors import predict_label
from clinloop.datasets.vault import custodian_audit


def add_attribute(
    dataset: Dataset, cases: Sequence[CaseRow], column: str, values: Mapping[str, str], about: Annotation
) -> None:
    """Give every case (train, val and test) the value of a new last attribute; repeatable after an interruption.

    Values are not part of the dataset's commitment; the ledger holds their digest.
    """
    names = [*dataset.attributes, column]
    rows = [case._replace(attributes={**case.attributes, column: values[case.case_id]}) for case in cases]
    rows.sort(key=lambda case: case.case_id)
    assemble.write_tables(dataset.folder, rows, names, dataset.targets, sealed=False)
    assemble.close_view(dataset.folder)
    seen = [case for case in rows if case.split != "test"]
    assemble.write_model(dataset.folder / "audit.json", _audit_with(dataset.audit, dataset, seen, about))
    custodian = custodian_audit(dataset.folder)
    missing = {**custodian.test_attributes_missing, column: 0}
    assemble.write_model(
        dataset.vault / "audit.json", custodian.model_copy(update={"test_attributes_missing": missing})
    )
    record = dataset.record.model_copy(
        update={"attributes": names, "annotations": [*dataset.record.annotations, about]}
    )
    assemble.write_model(dataset.folder / "dataset.json", record)


def _audit_with(audit: Audit, dataset: Dataset, seen: Sequence[CaseRow], about: Annotation) -> Audit:
    """Return the audit with the facts of the attribute and with where it comes from; from train and validation only."""
    column, alone = about.column, _auc_alone(seen, about.column, dataset.classes)
    facts = AttributeFacts(
        name=column,
        is_number=True,
        n_missing=0,
        missing_by_class=dict.fromkeys(dataset.classes, 0),
        values=[],
        by_class={
            name: _quartiles([float(case.attributes[column]) for case in seen if case.label == name])
            for name in dataset.classes
            if any(case.label == name for case in seen)
        },
        auc_alone=alone,
    )
    own = f"Attribute {column} "
    warned = [text for text in audit.warnings if not text.startswith(own)]
    noted = [text for text in audit.notes if not text.startswith(own)]
    if alone is not None and alone >= SUSPICIOUS_AUC:
        warned.append(
            f"{own}alone predicts the class with macro AUC {alone:.2f}: a model may learn it instead of the disease; declare it as a confounder."
        )
    (noted if about.is_clean else warned).append(f"{own}may have been learned from these very images: {about.overlap}.")
    noted.append(
        f"{own}is the probability of {about.class_name!r} by {about.run} of task {about.task}, not what a person saw."
    )
    attributes = [item for item in audit.attributes if item.name != column]
    return audit.model_copy(update={"attributes": [*attributes, facts], "warnings": warned, "notes": noted})


def _quartiles(values: Sequence[float]) -> Quartiles:
    low, middle, high = (float(edge) for edge in np.percentile(values, (25, 50, 75)))
    return Quartiles(n=len(values), mean=round(float(np.mean(values)), 4), q25=low, median=middle, q75=high)


def _auc_alone(seen: Sequence[CaseRow], column: str, classes: Sequence[str]) -> float | None:
    """Return the macro AUC of a model that sees nothing but the attribute; None with too few cases."""
    values = np.array([float(case.attributes[column]) for case in seen])
    model = predict_label({column: values}, [case.label for case in seen], [case.group for case in seen], classes)
    return None if model is None else model.macro_auc
