"""How well facts of a case predict its label without a network: each alone and all together, cross-validated by group."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from clinloop.datasets.findings import LabelModel

MAX_MODEL_CASES = 6000
"""Cases that a model of facts sees; more change its AUC little and cost seconds."""
N_BINS = 16

Column = npt.NDArray[np.float64]
"""(N,) one fact of every case, NaN = missing."""
_Labels = npt.NDArray[np.intp]
_Folds = Sequence[tuple[_Labels, _Labels]]


def predict_label(
    columns: Mapping[str, Column], labels: Sequence[str], groups: Sequence[int] | Sequence[str], classes: Sequence[str]
) -> LabelModel | None:
    """Return how well the columns predict the label, None where there is too little to say; cases of other classes are left out.

    Cross-validated by group; one-against-rest AUC, averaged over the classes. All columns together go through gradient boosting; one alone through
    the share of each class among like values, which finds any relation of one number as well and costs a hundredth. A column that is the same
    everywhere has 0.5.
    """
    known = np.flatnonzero(np.isin(labels, classes))
    group = np.unique(np.asarray(groups)[known], return_inverse=True)[1].astype(np.intp)
    if len(known) > MAX_MODEL_CASES:  # whole groups, in an order that has nothing to do with the label
        rank = np.random.default_rng(0).permutation(group.max() + 1)
        chosen = np.argsort(rank[group], kind="stable")[:MAX_MODEL_CASES]
        known, group = known[chosen], group[chosen]
    y = np.array([classes.index(labels[int(i)]) for i in known], dtype=np.intp)
    groups_of_class = [len(np.unique(group[y == label])) for label in np.unique(y)]
    if len(known) < 30 or sum(n >= 3 for n in groups_of_class) < 2:
        return None
    n_folds = max(3, min(5, *groups_of_class))
    seen = {name: column[known] for name, column in columns.items()}
    informative = {
        name: column
        for name, column in seen.items()
        if len(np.unique(column[~np.isnan(column)])) > 1 or (np.isnan(column).any() and not np.isnan(column).all())
    }
    if not informative:
        return None
    # One thread: OpenMP teams that wait for each other on a busy machine made this fit 12 times slower (measured).
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # rare classes with fewer members than folds: they are skipped in the average
        splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=0)
        folds = list(splitter.split(np.zeros(len(y)), y, group))
        by_class = _cross_validated_auc(np.column_stack(list(informative.values())), y, folds, classes)
        alone = dict.fromkeys(columns, 0.5)  # what is the same everywhere says nothing
        alone |= {
            name: _mean(_aucs(_shares_of_like(_bins(column), y, folds, len(classes)), y, classes).values())
            for name, column in informative.items()
        }
    return LabelModel(
        n_cases=len(known),
        n_folds=n_folds,
        macro_auc=_mean(by_class.values()),
        auc_by_class=by_class,
        auc_alone=dict(sorted(alone.items(), key=lambda item: -item[1])),
    )


def _cross_validated_auc(
    x: npt.NDArray[np.float64], y: _Labels, folds: _Folds, classes: Sequence[str]
) -> dict[str, float]:
    """Return the AUC of each class against the rest from out-of-fold probabilities."""
    scores = np.zeros((len(y), len(classes)))
    for fit, held_out in folds:
        if len(np.unique(y[fit])) < 2 or not len(held_out):
            continue
        model = HistGradientBoostingClassifier(max_iter=25, learning_rate=0.15, max_leaf_nodes=8, random_state=0)
        model.fit(x[fit], y[fit])
        scores[held_out[:, None], np.unique(y[fit])] = model.predict_proba(x[held_out])
    return _aucs(scores, y, classes)


def _bins(column: Column) -> _Labels:
    """Return the bin of each value: a value of its own where there are few, else a sixteenth of the cases; missing ones are a bin too."""
    known = column[~np.isnan(column)]
    edges = np.unique(known)
    if len(edges) > 2 * N_BINS:
        edges = np.unique(np.quantile(known, np.arange(1, N_BINS) / N_BINS))
    return np.where(np.isnan(column), len(edges) + 1, np.searchsorted(edges, column)).astype(np.intp)


def _shares_of_like(bins: _Labels, y: _Labels, folds: _Folds, n_classes: int) -> npt.NDArray[np.float64]:
    """Return out-of-fold class shares (N, C) among the cases of the same bin, one case of the fold's average mixed in."""
    scores = np.zeros((len(y), n_classes))
    for fit, held_out in folds:
        counts = np.zeros((bins.max() + 1, n_classes))
        np.add.at(counts, (bins[fit], y[fit]), 1.0)
        counts += counts.sum(axis=0) / max(1.0, counts.sum())
        scores[held_out] = (counts / counts.sum(axis=1, keepdims=True))[bins[held_out]]
    return scores


def _aucs(scores: npt.NDArray[np.float64], y: _Labels, classes: Sequence[str]) -> dict[str, float]:
    """Return the AUC of each class against the rest."""
    return {
        name: round(float(roc_auc_score(y == label, scores[:, label])), 4)
        for label, name in enumerate(classes)
        if 0 < int((y == label).sum()) < len(y)
    }


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 4)
