"""What predicts the label without what a picture shows: facts of the file, attributes, and probes of how it was taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from clinloop.datasets.acquisition import PROBES, SIZES, TEXTS
from clinloop.datasets.arrays import file_of
from clinloop.datasets.case import Case
from clinloop.datasets.findings import LabelModel
from clinloop.datasets.layouts.csv_manifest import as_number
from clinloop.datasets.pixels import ImageFacts
from clinloop.datasets.predictors import Column, predict_label


class Entry(NamedTuple):
    """A case with what is known of its image."""

    case: Case
    facts: ImageFacts


_TEXTS: dict[str, Callable[[Entry], str]] = {
    "image mode": lambda entry: entry.facts.mode,
    "file type": lambda entry: PurePosixPath(file_of(entry.case.source)).suffix.lower(),
    "metadata in the file": lambda entry: ", ".join(entry.facts.tags) or "none",
}
_MEASURES: dict[str, Callable[[Entry], int]] = {
    "width": lambda entry: entry.facts.width,
    "height": lambda entry: entry.facts.height,
    "file size": lambda entry: entry.facts.file_bytes,
}
FILE_FEATURES = (*SIZES, *TEXTS)
"""Facts of the file; what a scanner, a clinic or an export leaves behind."""


def metadata_model(
    entries: Sequence[Entry], groups: Sequence[int], classes: Sequence[str], attributes: Sequence[str]
) -> LabelModel | None:
    """Return how well facts of the files and attributes predict the label without pixels, None where there is too little to say."""
    columns = {name: _column(entries, name) for name in (*FILE_FEATURES, *attributes)}
    return predict_label(columns, [entry.case.label for entry in entries], groups, classes)


def probe_model(entries: Sequence[Entry], groups: Sequence[int], classes: Sequence[str]) -> LabelModel | None:
    """Return how well the probes of the pictures predict the label, None where there is too little to say."""
    values = np.array([entry.facts.probes for entry in entries], dtype=np.float64).reshape(len(entries), len(PROBES))
    columns = {name: values[:, at] for at, name in enumerate(PROBES)}
    return predict_label(columns, [entry.case.label for entry in entries], groups, classes)


def acquisition_of(entry: Entry) -> dict[str, str]:
    """Return the facts of a file and the probes of its picture as text, by name."""
    return {
        **{name: str(measure(entry)) for name, measure in _MEASURES.items()},
        **{name: text_of(entry) for name, text_of in _TEXTS.items()},
        **{name: f"{value:g}" for name, value in zip(PROBES, entry.facts.probes, strict=True)},
    }


def _column(entries: Sequence[Entry], name: str) -> Column:
    """Return one feature as numbers: NaN = missing, text = rank of its value."""
    if (measure := _MEASURES.get(name)) is not None:
        return np.array([measure(entry) for entry in entries], dtype=np.float64)
    text_of = _TEXTS.get(name, lambda entry: entry.case.attributes.get(name, ""))
    texts = [text_of(entry) for entry in entries]
    if name not in _TEXTS and is_number(texts):
        return np.array([float(text) if text else np.nan for text in texts], dtype=np.float64)
    ranks = {text: at for at, text in enumerate(sorted(set(texts) - {""}))}
    return np.array([ranks[text] if text else np.nan for text in texts], dtype=np.float64)


def is_number(texts: Sequence[str]) -> bool:
    """Tell whether all given values of an attribute are numbers."""
    given = [text for text in texts if text]
    return bool(given) and all(as_number(text) is not None for text in given)
