"""Looks for what would make a score unbelievable: duplicates, leaks, siblings, labels that metadata give away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from clinloop.datasets.case import Case, Excluded, Split
from clinloop.datasets.duplicates import NearDuplicates, UnionFind, by_value, near_duplicate_clusters, sibling_clusters
from clinloop.datasets.findings import (
    SUSPICIOUS_AUC,
    AttributeFacts,
    Audit,
    ClusterFacts,
    GroupFacts,
    LabelModel,
    Quartiles,
    ReasonCount,
    SizeCount,
    TruthFacts,
    ValueCount,
    chance_limit,
)
from clinloop.datasets.metadata import FILE_FEATURES, Entry, is_number, metadata_model, probe_model

MAX_VALUES = 12
"""Values of an attribute that are counted against the label."""
FEW = 0.5
"""With boxes or masks in a smaller share of the training cases, the image labels of the others are most of what there is to learn from."""


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
    targets: Sequence[str],
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
        supervision_by_class={name: _supervision([kept[at] for at in members]) for name, members in part.items()},
        truth=[_truth(name, kept, targets) for name in targets],
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
        probe_model=probe_model(kept, roots, classes),
        notes=list(notes),
        warnings=[],
    )
    return audit.model_copy(update={"warnings": _warnings(audit, is_complete=ties.near.is_complete)})


def _attribute(name: str, entries: Sequence[Entry], classes: Sequence[str], model: LabelModel | None) -> AttributeFacts:
    texts = [entry.case.attributes.get(name, "") for entry in entries]
    labels = [entry.case.label for entry in entries]
    numeric = is_number(texts)
    missing = [label for text, label in zip(texts, labels, strict=True) if not text]
    values: list[ValueCount] = []
    by_class: dict[str, Quartiles] = {}
    if numeric:
        for label in classes:
            numbers = [float(text) for text, own in zip(texts, labels, strict=True) if text and own == label]
            if (quartiles := _quartiles(numbers)) is not None:
                by_class[label] = quartiles
    if not numeric or len(set(texts) - {""}) <= MAX_VALUES:
        for value, count in Counter(text for text in texts if text).most_common(MAX_VALUES):
            own = _count((label for text, label in zip(texts, labels, strict=True) if text == value), classes)
            values.append(ValueCount(value=value, count=count, by_class=own))
    return AttributeFacts(
        name=name,
        is_number=numeric,
        n_missing=len(missing),
        missing_by_class=_count(missing, classes),
        values=values,
        by_class=by_class,
        auc_alone=model.auc_alone.get(name) if model else None,
    )


def _supervision(entries: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Return level of supervision -> class -> cases, strongest first."""
    counts: dict[str, Counter[str]] = {level: Counter() for level in ("mask", "box", "image", "none")}
    for entry in entries:
        counts[entry.case.supervision][entry.case.label] += 1
    return {level: dict(found) for level, found in counts.items() if found}


def _truth(target: str, entries: Sequence[Entry], targets: Sequence[str]) -> TruthFacts:
    """Return how often and how large a target was drawn; a mask shows the first target."""
    drawn = [[box for box in entry.facts.boxes or () if box.target == target] for entry in entries]
    area = [
        100 * box.width * box.height / (entry.facts.stored[0] * entry.facts.stored[1])
        for entry, own in zip(entries, drawn, strict=True)
        for box in own
    ]
    masks = (
        [100 * entry.facts.mask_share for entry in entries if entry.facts.mask_sha256] if target == targets[0] else []
    )
    covered = [share for share in masks if share]
    return TruthFacts(
        target=target,
        n_boxes=len(area),
        n_with_boxes=sum(map(bool, drawn)),
        most_boxes=max(map(len, drawn), default=0),
        box_percent=_quartiles(area),
        n_masks=len(masks),
        n_empty_masks=len(masks) - len(covered),
        mask_percent=_quartiles(covered),
    )


def _quartiles(numbers: Sequence[float]) -> Quartiles | None:
    if not numbers:
        return None
    low, middle, high = (round(float(edge), 4) for edge in np.percentile(numbers, (25, 50, 75)))
    return Quartiles(n=len(numbers), mean=round(float(np.mean(numbers)), 4), q25=low, median=middle, q75=high)


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


def _warnings(audit: Audit, *, is_complete: bool) -> list[str]:
    """Return what a person must know before believing a score, in plain words."""
    found: list[str] = []
    model = audit.metadata_model
    by_class = {name: sum(counts[name] for counts in audit.counts.values()) for name in audit.counts["train"]}
    if model is not None and model.macro_auc >= SUSPICIOUS_AUC:
        first = ", ".join(f"{name} {auc:.2f}" for name, auc in list(model.auc_alone.items())[:3])
        found.append(
            f"Metadata alone predicts the class with macro AUC {model.macro_auc:.2f} (most by {first}): a model may learn the source of an image "
            "instead of the disease; check the score within subgroups."
        )
    suspects = {
        name: auc
        for name, auc in (model.auc_alone if model else {}).items()
        if auc >= chance_limit(by_class.values()) and name not in FILE_FEATURES
    }
    if suspects:
        named = ", ".join(f"{name} {auc:.2f}" for name, auc in list(suspects.items())[:8])
        found.append(
            f"Attributes that alone predict the class (macro AUC): {named}. Each may be a confounder that a model learns instead of the disease; "
            "name it as one in the request, and compare the score with and without it."
        )
    probes = audit.probe_model
    if probes is not None and probes.macro_auc >= chance_limit(by_class.values()):
        first = ", ".join(f"{name} {auc:.2f}" for name, auc in list(probes.auc_alone.items())[:3])
        found.append(
            f"Border, corners, exposure, blur and colour cast of the picture alone predict the class with macro AUC {probes.macro_auc:.2f} (most by "
            f"{first}): a model may learn how a picture was taken. Some of it may be the disease itself: a dark lesion darkens its picture."
        )
    found += _truth_warnings(audit)
    for title, facts in (("Exact duplicates", audit.exact_duplicates), ("Near-duplicates", audit.near_duplicates)):
        if facts.n_with_several_labels:
            found.append(
                f"{title} with different labels: {facts.n_with_several_labels} set(s); at least one label of each is wrong."
            )
    if missing := [name for name, n in by_class.items() if not n]:
        found.append(
            f"No training or validation case is {', '.join(missing)}: nothing here says how a model behaves on such images."
        )
    counts = [n for n in by_class.values() if n]
    if counts and max(counts) >= 10 * max(1, min(counts)):
        found.append(f"Classes are unbalanced: the largest has {max(counts)} cases, the smallest {min(counts)}.")
    few = [f"{name} ({n})" for name, n in audit.counts["val"].items() if n < 10 and by_class[name]]
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


def _truth_warnings(audit: Audit) -> list[str]:
    """Return what is uneven in boxes and masks."""
    if not audit.truth:
        return []
    found: list[str] = []
    train = audit.supervision["train"]
    drawn, total = train.get("mask", 0) + train.get("box", 0), sum(train.values())
    if total and drawn / total < FEW:
        kind = "masks" if train.get("mask") else "boxes"
        found.append(
            f"Only {drawn} of {total} training cases have {kind}, the other {total - drawn} an image-level label: code that reads {kind} alone leaves "
            "most of the training set unused."
        )
    if rare := [f"{item.target} ({item.n_boxes})" for item in audit.truth if item.n_boxes < 20 and not item.n_masks]:
        found.append(f"Fewer than 20 boxes: {', '.join(rare[:8])}; a score of these targets is mostly noise.")
    return found
