"""What predicts the label without a pixel: sizes, bit depth, file type and attributes, each alone and all together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from clinloop.datasets.arrays import file_of
from clinloop.datasets.case import Case
from clinloop.datasets.findings import MetadataModel
from clinloop.datasets.layouts.csv_manifest import as_number
from clinloop.datasets.pixels import ImageFacts

MAX_MODEL_CASES = 6000
"""Cases that the metadata-only model sees; more change its AUC little and cost seconds."""

_Features = npt.NDArray[np.float64]
_Labels = npt.NDArray[np.intp]


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
FILE_FEATURES = (*_MEASURES, *_TEXTS)
"""Facts of the file; what a scanner, a clinic or an export leaves behind."""


def metadata_model(
    entries: Sequence[Entry], groups: Sequence[int], classes: Sequence[str], attributes: Sequence[str]
) -> MetadataModel | None:
    """Return how well facts of the files and attributes predict the label without pixels, None where there is too little to say.

    Cross-validated by group with gradient boosting; one-against-rest AUC, averaged over the classes.
    """
    if len(entries) > MAX_MODEL_CASES:  # whole groups, in an order that has nothing to do with the label
        order = np.random.default_rng(0).permutation(np.unique(groups))
        rank = {int(group): at for at, group in enumerate(order)}
        chosen = sorted(range(len(entries)), key=lambda i: rank[groups[i]])[:MAX_MODEL_CASES]
        entries, groups = [entries[i] for i in chosen], [groups[i] for i in chosen]
    y = np.array([classes.index(entry.case.label) for entry in entries], dtype=np.intp)
    group = np.array(groups, dtype=np.intp)
    groups_of_class = [len(np.unique(group[y == label])) for label in np.unique(y)]
    if len(entries) < 30 or sum(n >= 3 for n in groups_of_class) < 2:
        return None
    n_folds = max(3, min(5, *groups_of_class))
    # One thread: OpenMP teams that wait for each other on a busy machine made this fit 12 times slower (measured).
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # rare classes with fewer members than folds: they are skipped in the average
        folds = list(
            StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=0).split(np.zeros(len(y)), y, group)
        )
        columns = {name: _column(entries, name) for name in (*FILE_FEATURES, *attributes)}
        informative = {
            name: column
            for name, column in columns.items()
            if len(np.unique(column[~np.isnan(column)])) > 1 or np.isnan(column).any()
        }
        if not informative:
            return None
        by_class = _cross_validated_auc(np.column_stack(list(informative.values())), y, folds, classes)
        alone = dict.fromkeys(columns, 0.5)  # what is the same everywhere says nothing
        alone |= {
            name: _mean(_cross_validated_auc(column[:, None], y, folds, classes).values())
            for name, column in informative.items()
        }
    return MetadataModel(
        n_cases=len(entries),
        n_folds=n_folds,
        macro_auc=_mean(by_class.values()),
        auc_by_class=by_class,
        auc_alone=dict(sorted(alone.items(), key=lambda item: -item[1])),
    )


def _column(entries: Sequence[Entry], name: str) -> _Features:
    """Return one feature as numbers: NaN = missing, text = rank of its value."""
    if (measure := _MEASURES.get(name)) is not None:
        return np.array([measure(entry) for entry in entries], dtype=np.float64)
    text_of = _TEXTS.get(name, lambda entry: entry.case.attributes.get(name, ""))
    texts = [text_of(entry) for entry in entries]
    if name not in _TEXTS and is_number(texts):
        return np.array([float(text) if text else np.nan for text in texts], dtype=np.float64)
    ranks = {text: at for at, text in enumerate(sorted(set(texts) - {""}))}
    return np.array([ranks[text] if text else np.nan for text in texts], dtype=np.float64)


def _cross_validated_auc(
    x: _Features, y: _Labels, folds: Sequence[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]], classes: Sequence[str]
) -> dict[str, float]:
    """Return the AUC of each class against the rest from out-of-fold probabilities."""
    scores = np.zeros((len(y), len(classes)))
    for fit, held_out in folds:
        if len(np.unique(y[fit])) < 2 or not len(held_out):
            continue
        model = HistGradientBoostingClassifier(max_iter=25, learning_rate=0.15, max_leaf_nodes=8, random_state=0)
        model.fit(x[fit], y[fit])
        scores[held_out[:, None], np.unique(y[fit])] = model.predict_proba(x[held_out])
    return {
        name: round(float(roc_auc_score(y == label, scores[:, label])), 4)
        for label, name in enumerate(classes)
        if 0 < int((y == label).sum()) < len(y)
    }


def is_number(texts: Sequence[str]) -> bool:
    """Tell whether all given values of an attribute are numbers."""
    given = [text for text in texts if text]
    return bool(given) and all(as_number(text) is not None for text in given)


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 4)
