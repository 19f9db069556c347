"""Looks for what would make a score unbelievable: duplicates, leaks, siblings, labels that metadata give away."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from clinloop.datasets.case import Case, Excluded, Split
from clinloop.datasets.duplicates import NearDuplicates, UnionFind, by_value, near_duplicate_clusters, sibling_clusters
from clinloop.datasets.findings import (
    AttributeFacts,
    Audit,
    ClusterFacts,
    GroupFacts,
    MetadataModel,
    Quartiles,
    ReasonCount,
    SizeCount,
    ValueCount,
)
from clinloop.datasets.layouts.csv_manifest import as_number
from clinloop.datasets.pixels import ImageFacts

MAX_MODEL_CASES = 6000
"""Cases that the metadata-only model sees; more change its AUC little and cost seconds."""
SUSPICIOUS_AUC = 0.6

_MEASURES: dict[str, Callable[[ImageFacts], int]] = {
    "width": lambda facts: facts.width,
    "height": lambda facts: facts.height,
    "file size": lambda facts: facts.file_bytes,
}

_Features = npt.NDArray[np.float64]
_Labels = npt.NDArray[np.intp]


class Entry(NamedTuple):
    """A case with what is known of its image."""

    case: Case
    facts: ImageFacts


class Ties(NamedTuple):
    """What ties cases together; members are positions."""

    groups: list[list[int]]
    exact: list[list[int]]
    near: NearDuplicates
    siblings: list[list[int]]
    roots: list[int]
    """For each case the smallest member of everything that it is tied to."""

    def kinds(self) -> dict[str, list[list[int]]]:
        """Return the ties that count, by kind."""
        return {
            "same group": self.groups,
            "exact duplicate": self.exact,
            "near-duplicate": self.near.clusters,
            "sibling": self.siblings,
        }


def find_ties(entries: Sequence[Entry]) -> Ties:
    """Find everything that must stay in one split."""
    cases = [entry.case for entry in entries]
    exact = by_value(entry.facts.pixel_sha256 for entry in entries)
    repeated = {i for cluster in exact for i in cluster[1:]}
    first = [i for i in range(len(entries)) if i not in repeated]  # equal pixels need no comparison
    hashes = np.array([entries[i].facts.phash for i in first], dtype=np.uint64)
    thumbnails = np.frombuffer(b"".join(entries[i].facts.thumbnail for i in first), dtype=np.uint8).reshape(
        len(first), -1
    )
    near = near_duplicate_clusters(hashes, thumbnails)
    small, large = (
        [[first[i] for i in cluster] for cluster in clusters] for clusters in (near.clusters, near.too_large)
    )
    near = NearDuplicates(small, large, near.is_complete)
    groups, siblings = by_value(case.group for case in cases), sibling_clusters(cases)
    sets = UnionFind(len(entries))
    for cluster in (*groups, *exact, *near.clusters, *siblings):
        sets.join(cluster)
    return Ties(groups, exact, near, siblings, sets.roots().tolist())


class Leaks(NamedTuple):
    """Cases outside the publisher's test set that are tied to it."""

    by_kind: dict[str, list[int]]
    all: list[int]


def find_leaks(cases: Sequence[Case], ties: Ties) -> Leaks:
    """Return the cases that share a group, a picture or a file name's origin with a case of the publisher's test set."""
    is_test = [case.split == "test" for case in cases]
    by_kind: dict[str, list[int]] = {}
    for kind, clusters in ties.kinds().items():
        tied = [i for cluster in clusters if any(is_test[i] for i in cluster) for i in cluster if not is_test[i]]
        if tied:
            by_kind[kind] = sorted(tied)
    touching = {root for root, test in zip(ties.roots, is_test, strict=True) if test}
    return Leaks(by_kind, [i for i, root in enumerate(ties.roots) if root in touching and not is_test[i]])


def make_audit(
    entries: Sequence[Entry],
    ties: Ties,
    splits: Sequence[Split | None],
    *,
    classes: Sequence[str],
    group_kind: str,
    attributes: Sequence[str],
    excluded: Iterable[Excluded],
    unreadable: Iterable[str],
    notes: Sequence[str],
) -> Audit:
    """Return the audit of train and validation; nothing in it depends on a test case.

    `unreadable` holds one reason for each image that is not of the publisher's test set.
    """
    keep = [i for i, split in enumerate(splits) if split in {"train", "val"}]
    kept = [entries[i] for i in keep]
    position = {i: at for at, i in enumerate(keep)}
    labels = [entry.case.label for entry in kept]
    roots = [ties.roots[i] for i in keep]
    part = {name: [at for at, i in enumerate(keep) if splits[i] == name] for name in ("train", "val")}

    def inside(clusters: Iterable[Iterable[int]]) -> list[list[int]]:
        found = ([position[i] for i in cluster if i in position] for cluster in clusters)
        return [cluster for cluster in found if len(cluster) > 1]

    model = metadata_model(kept, roots, classes, attributes)
    joined = inside(by_value(map(str, ties.roots)))
    audit = Audit(
        counts={name: _count((labels[at] for at in members), classes) for name, members in part.items()},
        groups=GroupFacts(
            kind=group_kind,
            n_groups={name: len({roots[at] for at in members}) for name, members in part.items()},
            n_with_several=len(joined),
            cases_in_those=sum(map(len, joined)),
            largest=max(map(len, joined), default=1),
        ),
        supervision={
            name: dict(Counter(kept[at].case.supervision for at in members)) for name, members in part.items()
        },
        excluded=[ReasonCount(reason=item.reason, count=item.count) for item in excluded if item.split != "test"],
        unreadable=[ReasonCount(reason=reason, count=n) for reason, n in Counter(unreadable).most_common()],
        exact_duplicates=_facts(inside(ties.exact), labels),
        near_duplicates=_facts(inside(ties.near.clusters), labels),
        siblings=_facts(inside(ties.siblings), labels),
        unjoined_clusters=[len(cluster) for cluster in inside(ties.near.too_large)],
        image_sizes=_sizes(kept, classes),
        modes=dict(Counter(entry.facts.mode for entry in kept).most_common()),
        handling=dict(Counter(rule for entry in kept for rule in entry.facts.handling).most_common()),
        metadata_tags=dict(sorted(Counter(tag for entry in kept for tag in entry.facts.tags).items())),
        attributes=[_attribute(name, kept, classes, model) for name in attributes],
        metadata_model=model,
        notes=list(notes),
        warnings=[],
    )
    return audit.model_copy(update={"warnings": _warnings(audit, is_complete=ties.near.is_complete)})


def metadata_model(
    entries: Sequence[Entry], groups: Sequence[int], classes: Sequence[str], attributes: Sequence[str]
) -> MetadataModel | None:
    """Return how well image size, file size and attributes alone predict the label, None where there is too little to say.

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
        columns = {name: _column(entries, name) for name in (*_MEASURES, "image mode", *attributes)}
        informative = {
            name: column
            for name, column in columns.items()
            if len(np.unique(column[~np.isnan(column)])) > 1 or np.isnan(column).any()
        }
        if not informative:
            return None
        by_class = _cross_validated_auc(np.column_stack(list(informative.values())), y, folds, classes)
        alone = {
            name: _mean(_cross_validated_auc(column[:, None], y, folds, classes).values())
            for name, column in list(informative.items())[:15]
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
        return np.array([measure(entry.facts) for entry in entries], dtype=np.float64)
    is_mode = name == "image mode"
    texts = [entry.facts.mode if is_mode else entry.case.attributes.get(name, "") for entry in entries]
    if _is_number(texts):
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


def _attribute(
    name: str, entries: Sequence[Entry], classes: Sequence[str], model: MetadataModel | None
) -> AttributeFacts:
    texts = [entry.case.attributes.get(name, "") for entry in entries]
    labels = [entry.case.label for entry in entries]
    is_number = _is_number(texts)
    missing = [label for text, label in zip(texts, labels, strict=True) if not text]
    values: list[ValueCount] = []
    by_class: dict[str, Quartiles] = {}
    if is_number:
        for label in classes:
            numbers = [float(text) for text, own in zip(texts, labels, strict=True) if text and own == label]
            if numbers:
                low, middle, high = (float(edge) for edge in np.percentile(numbers, (25, 50, 75)))
                by_class[label] = Quartiles(
                    n=len(numbers), mean=round(float(np.mean(numbers)), 4), q25=low, median=middle, q75=high
                )
    else:
        for value, count in Counter(text for text in texts if text).most_common(12):
            own = _count((label for text, label in zip(texts, labels, strict=True) if text == value), classes)
            values.append(ValueCount(value=value, count=count, by_class=own))
    return AttributeFacts(
        name=name,
        is_number=is_number,
        n_missing=len(missing),
        missing_by_class=_count(missing, classes),
        values=values,
        by_class=by_class,
        auc_alone=model.auc_alone.get(name) if model else None,
    )


def _is_number(texts: Sequence[str]) -> bool:
    given = [text for text in texts if text]
    return bool(given) and all(as_number(text) is not None for text in given)


def _sizes(entries: Sequence[Entry], classes: Sequence[str]) -> list[SizeCount]:
    labels_of: dict[tuple[int, int], list[str]] = {}
    for entry in entries:
        labels_of.setdefault((entry.facts.width, entry.facts.height), []).append(entry.case.label)
    frequent = sorted(labels_of.items(), key=lambda item: (-len(item[1]), item[0]))[:8]
    return [SizeCount(width=w, height=h, count=len(own), by_class=_count(own, classes)) for (w, h), own in frequent]


def _facts(clusters: Sequence[Sequence[int]], labels: Sequence[str]) -> ClusterFacts:
    return ClusterFacts(
        n_clusters=len(clusters),
        n_cases=sum(map(len, clusters)),
        largest=max(map(len, clusters), default=0),
        n_with_several_labels=sum(len({labels[i] for i in cluster}) > 1 for cluster in clusters),
    )


def _count(labels: Iterable[str], classes: Sequence[str]) -> dict[str, int]:
    counts = Counter(labels)
    return {name: counts[name] for name in classes}


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 4)


def _warnings(audit: Audit, *, is_complete: bool) -> list[str]:
    """Return what a person must know before believing a score, in plain words."""
    found: list[str] = []
    model = audit.metadata_model
    if model is not None and model.macro_auc >= SUSPICIOUS_AUC:
        first = ", ".join(f"{name} {auc:.2f}" for name, auc in list(model.auc_alone.items())[:3])
        found.append(
            f"Metadata alone predicts the class with macro AUC {model.macro_auc:.2f} (most by {first}): a model may learn the source of an image "
            "instead of the disease; check the score within subgroups."
        )
    for title, facts in (("Exact duplicates", audit.exact_duplicates), ("Near-duplicates", audit.near_duplicates)):
        if facts.n_with_several_labels:
            found.append(
                f"{title} with different labels: {facts.n_with_several_labels} set(s); at least one label of each is wrong."
            )
    counts = [sum(audit.counts[split][name] for split in audit.counts) for name in audit.counts["train"]]
    if counts and max(counts) >= 10 * max(1, min(counts)):
        found.append(f"Classes are unbalanced: the largest has {max(counts)} cases, the smallest {min(counts)}.")
    few = [f"{name} ({n})" for name, n in audit.counts["val"].items() if n < 10]
    if few:
        found.append(f"Fewer than 10 validation cases: {', '.join(few)}; scores of these classes are mostly noise.")
    if audit.unjoined_clusters:
        sizes = ", ".join(map(str, audit.unjoined_clusters))
        found.append(
            f"Sets of look-alikes too large to be duplicates ({sizes} images) were not kept together; look at them."
        )
    if not is_complete:
        found.append(
            "The images are too plain for the search for near-duplicates, which was ended early; exact duplicates were all found."
        )
    if audit.groups.kind == "image":
        found.append(
            "No patient or lesion is known for an image: only duplicates and siblings are kept in one split, so scores may be too good."
        )
    return found
