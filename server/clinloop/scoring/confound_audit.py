"""The confound audit: what two models' answers owe to each attribute of the data, before and after, in numbers and in a sentence.

Every declared confounder is audited; of the other attributes those that alone tell most of the class. Intervals and p-values come from
the paired group bootstrap. They are corrected for their number (Holm) within two families: declared confounders, and attributes that
nobody declared; so looking at many attributes costs nothing where a confounder was named in advance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from clinloop.scoring.analysis import MIN_CELL, ConfounderAudit, ConfoundMetric, JointConfounding
from clinloop.scoring.bootstrap import Floats, draw_counts, p_two_sided
from clinloop.scoring.confound_cells import cells_of, prevalence
from clinloop.scoring.confound_joint import JointNumbers
from clinloop.scoring.confound_noise import label_noise
from clinloop.scoring.confound_numbers import NAMES, NO_VARIANCE, TESTED, Numbers
from clinloop.scoring.confound_words import Words, sentence, titles
from clinloop.scoring.crosschecks import holm
from clinloop.scoring.detection import BoxCases
from clinloop.scoring.estimates import estimate
from clinloop.scoring.evaluate import AnyCases
from clinloop.scoring.exposures import Exposure, exposures
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.results import Estimate
from clinloop.scoring.segmentation import MaskCases
from clinloop.scoring.truth import TruthCase
from clinloop.scoring.weighted import Cases, Weighting, order

MAX_FOUND = 12
"""Audits of attributes that nobody declared."""
STRONG = 0.1
"""Distance of an attribute's own AUC from 0.5 from which, of several classes, more than the one it tells most of is audited."""
_CHUNK = 100_000
"""Cases x resamples at once: about the size of a processor's cache."""


class _Side(NamedTuple):
    """One class against the others, as two models see it."""

    class_name: str
    initial: Cases
    refined: Cases


class _Pair(NamedTuple):
    """An exposure and a class."""

    exposure: Exposure
    side: _Side
    auc_alone: float | None

    @property
    def strength(self) -> float:
        """How far the attribute alone is from telling nothing, in either direction."""
        return 0.0 if self.auc_alone is None else abs(self.auc_alone - 0.5)


class _Drawn(NamedTuple):
    """A number of two models: as it is (2,), and on each resample (2, B)."""

    values: Floats
    resampled: Floats


def audit(
    truth: Sequence[TruthCase], scheme: Scheme, initial: AnyCases, refined: AnyCases, *, resamples: int, seed: int
) -> tuple[list[ConfounderAudit], list[JointConfounding]]:
    """Audit two models on the cases of `truth`, which are those of `initial` and `refined` in the same order.

    Boxes and masks are audited per image: by the best score, and by whether anything was found.
    """
    sides = _sides(scheme, initial, refined)
    pairs = _chosen(exposures(truth, scheme.confounders).found, sides)
    joined = _joined(pairs)
    resamples = resamples if initial.n_groups > 1 else 0
    numbers = [(Numbers(pair.side.initial, pair.exposure), Numbers(pair.side.refined, pair.exposure)) for pair in pairs]
    drawn, joint = _draw(numbers, [group.numbers for group in joined], initial, resamples=resamples, seed=seed)
    words = Words.of(scheme)
    audits = [
        _audit_of(pair, both, found, words, seed=seed) for pair, both, found in zip(pairs, numbers, drawn, strict=True)
    ]
    return _corrected(audits, words), [
        row for group, found in zip(joined, joint, strict=True) for row in group.rows(found)
    ]


def notes(truth: Sequence[TruthCase], scheme: Scheme) -> list[str]:
    """Return which attributes of the truth are not audited, and why."""
    found = exposures(truth, scheme.confounders)
    undeclared = sum(not item.is_declared for item in found.found)
    more = f"Of {undeclared} attributes and levels that nobody declared, the {MAX_FOUND} that alone tell most of the class are audited."
    return [*found.notes, *([more] if undeclared > MAX_FOUND else [])]


def _sides(scheme: Scheme, initial: AnyCases, refined: AnyCases) -> list[_Side]:
    """Return the classes that count as positive: the positive one, where there is none every class."""
    if not isinstance(initial, Cases):
        return [_Side(scheme.detected, _of_images(initial), _of_images(refined))]
    assert isinstance(refined, Cases), "both models answer the same task"
    positive = scheme.positive_index
    places = range(len(scheme.classes)) if positive is None else [positive]
    return [_Side(scheme.classes[place], _against(initial, place), _against(refined, place)) for place in places]


def _against(cases: Cases, place: int) -> Cases:
    """Return a class against all others."""
    p = cases.probabilities[:, place]
    return Cases(
        truth=(cases.truth == place).astype(np.intp),
        probabilities=np.stack([1 - p, p], axis=1),
        groups=cases.groups,
        n_groups=cases.n_groups,
        thresholds=np.array([np.nan, cases.thresholds[place]]),
    )


def _of_images(cases: AnyCases) -> Cases:
    """Return boxes by their best score, masks by whether a pixel was found."""
    if isinstance(cases, BoxCases):
        return cases.images
    assert isinstance(cases, MaskCases), "classifications have classes"
    found = cases.is_found.astype(np.float64)
    return Cases(
        truth=cases.has_target.astype(np.intp),
        probabilities=np.stack([1 - found, found], axis=1),
        groups=cases.groups,
        n_groups=cases.n_groups,
        thresholds=np.array([np.nan, 0.5]),
    )


def _chosen(found: Sequence[Exposure], sides: Sequence[_Side]) -> list[_Pair]:
    """Return what is audited: declared confounders first, then the attributes that alone tell most of a class."""
    declared: list[_Pair] = []
    others: list[_Pair] = []
    for item in found:
        pairs = sorted(
            (_Pair(item, side, _auc_alone(item, side.initial)) for side in sides), key=lambda pair: -pair.strength
        )
        (declared if item.is_declared else others).append(pairs[0])
        others += [pair for pair in pairs[1:] if pair.strength >= STRONG]
    return [*declared, *sorted(others, key=lambda pair: -pair.strength)[:MAX_FOUND]]


def _auc_alone(item: Exposure, cases: Cases) -> float | None:
    """Return the AUC of the value alone for the class; None where either side has too few cases."""
    is_positive, is_negative = item.known & (cases.truth == 1), item.known & (cases.truth == 0)
    if min(int(is_positive.sum()), int(is_negative.sum())) < MIN_CELL:
        return None
    curve = order(item.value, cases.groups, is_positive, is_negative)
    return float(Weighting(cases, np.ones((cases.n_groups, 1))).auc_of(curve)[0])


class _Joined(NamedTuple):
    """The declared confounders of one class together."""

    class_name: str
    items: tuple[Exposure, ...]
    numbers: tuple[JointNumbers, JointNumbers]

    def rows(self, found: _Drawn) -> list[JointConfounding]:
        """Return a row for each confounder from (2, C) values and (2, C, B) resampled ones."""
        rows: list[JointConfounding] = []
        for place, item in enumerate(self.items):
            initial, refined, difference, p = _estimates(
                _Drawn(found.values[:, place], found.resampled[:, place]), ("", "")
            )
            rows.append(
                JointConfounding(
                    attribute=item.attribute,
                    class_name=self.class_name,
                    initial=initial,
                    refined=refined,
                    difference=difference,
                    p=p,
                )
            )
        adjusted = holm([row.p for row in rows])
        return [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]


def _joined(pairs: Sequence[_Pair]) -> list[_Joined]:
    """Return the declared confounders together, for each class that one is audited against, where there are two and enough cases know them all."""
    declared = [pair for pair in pairs if pair.exposure.is_declared]
    items = tuple({pair.exposure.attribute: pair.exposure for pair in declared if not pair.exposure.is_word}.values())
    if len(items) < 2:
        return []
    known = np.logical_and.reduce([item.known for item in items])
    if int(known.sum()) < MIN_CELL * (len(items) + 2):
        return []
    found: list[_Joined] = []
    for side in {pair.side.class_name: pair.side for pair in declared}.values():
        both = JointNumbers(side.initial, items, known), JointNumbers(side.refined, items, known)
        found.append(_Joined(side.class_name, items, both))
    return found


def _draw(
    numbers: Sequence[tuple[Numbers, Numbers]],
    joined: Sequence[tuple[JointNumbers, JointNumbers]],
    cases: AnyCases,
    *,
    resamples: int,
    seed: int,
) -> tuple[list[_Drawn], list[_Drawn]]:
    """Return all numbers, (2, M) and (2, M, B), as they are and on the same resamples for both models."""
    n_groups = cases.n_groups
    values, joint_values = _under(numbers, joined, np.ones((n_groups, 1)))
    resampled = [np.empty((2, len(NAMES), resamples)) for _ in numbers]
    joint_resampled = [np.empty((2, len(found[0]), resamples)) for found in joint_values]
    chunk, done = max(16, min(2048, _CHUNK // max(1, len(cases.groups)))), 0
    for counts in draw_counts(n_groups, resamples, seed=seed, chunk=chunk):
        end = done + counts.shape[1]
        some, joint_some = _under(numbers, joined, counts)
        for target, part in zip([*resampled, *joint_resampled], [*some, *joint_some], strict=True):
            target[:, :, done:end] = part
        done = end
    return (
        [_Drawn(value[:, :, 0], drawn) for value, drawn in zip(values, resampled, strict=True)],
        [_Drawn(value[:, :, 0], drawn) for value, drawn in zip(joint_values, joint_resampled, strict=True)],
    )


def _under(
    numbers: Sequence[tuple[Numbers, Numbers]], joined: Sequence[tuple[JointNumbers, JointNumbers]], counts: Floats
) -> tuple[list[Floats], list[Floats]]:
    """Return (2, M, b) of every pair under weightings (G, b); models share what depends on them and the weighting alone."""
    weightings: dict[int, Weighting] = {}
    for both in numbers:
        for one in both:
            weightings.setdefault(id(one.cases), Weighting(one.cases, counts))
    return (
        [np.stack([one.under(weightings[id(one.cases)]) for one in both]) for both in numbers],
        [np.stack([one.under(counts) for one in both]) for both in joined],
    )


def _audit_of(pair: _Pair, both: tuple[Numbers, Numbers], drawn: _Drawn, words: Words, *, seed: int) -> ConfounderAudit:
    item, class_name = pair.exposure, pair.side.class_name
    title = titles(class_name, item.name, words)
    references = _references(both[0])
    metrics: list[ConfoundMetric] = []
    for place, name in enumerate(NAMES):
        if name not in title:
            continue
        why = (both[0].notes.get(name, ""), both[1].notes.get(name, ""))
        initial, refined, difference, p = _estimates(_Drawn(drawn.values[:, place], drawn.resampled[:, place]), why)
        note = why[0] or why[1] or (NO_VARIANCE if difference.value is None else "")
        metrics.append(
            ConfoundMetric(
                name=name,
                title=title[name],
                initial=initial,
                refined=refined,
                difference=difference,
                p=p if name in TESTED else None,
                reference=references.get(name),
                note=note,
            )
        )
    return ConfounderAudit(
        attribute=item.attribute,
        level=item.level,
        class_name=class_name,
        is_declared=item.is_declared,
        is_predicted=item.is_predicted,
        n=int(item.known.sum()),
        auc_alone=pair.auc_alone,
        cells=cells_of(*both),
        metrics=metrics,
        label_noise=label_noise(*both, seed=seed) if item.is_predicted else [],
    )


def _references(numbers: Numbers) -> dict[str, float | None]:
    """Return how often chance would give the exposure among the false answers: as often as among all cases of their class."""
    cells, present = numbers.cells, numbers.exposure.present
    return {
        "fp_share": prevalence(cells["negative_with"] | cells["negative_without"], present),
        "fn_share": prevalence(cells["positive_with"] | cells["positive_without"], present),
    }


def _estimates(drawn: _Drawn, why: tuple[str, str]) -> tuple[Estimate, Estimate, Estimate, float | None]:
    """Return before, after, the difference and its p-value; nothing of a model for which there is a reason not to."""
    before, after = (
        Estimate(None) if reason else estimate(value, resampled)
        for value, resampled, reason in zip(drawn.values, drawn.resampled, why, strict=True)
    )
    if before.value is None or after.value is None:
        return before, after, Estimate(None), None
    differences = drawn.resampled[1] - drawn.resampled[0]
    return (
        before,
        after,
        estimate(drawn.values[1] - drawn.values[0], differences),
        p_two_sided(differences) if len(differences) else None,
    )


def _corrected(audits: Sequence[ConfounderAudit], words: Words) -> list[ConfounderAudit]:
    """Return the audits with p-values corrected within declared and within other attributes, and with their sentences."""
    adjusted: dict[tuple[object, ...], float | None] = {}
    for is_declared in (True, False):
        family: dict[tuple[object, ...], float | None] = {}
        for place, one in enumerate(audits):
            if one.is_declared == is_declared:
                family |= {_test(place, one, metric): metric.p for metric in one.metrics}
        adjusted |= dict(zip(family, holm(list(family.values())), strict=True))
    result: list[ConfounderAudit] = []
    for place, one in enumerate(audits):
        metrics = [replace(metric, p_holm=adjusted[_test(place, one, metric)]) for metric in one.metrics]
        result.append(replace(one, metrics=metrics, sentence=sentence(replace(one, metrics=metrics), words)))
    return result


def _test(place: int, one: ConfounderAudit, metric: ConfoundMetric) -> tuple[object, ...]:
    """Return what tells one test from another: the AUC over all cases is the same test for every attribute of a class."""
    return (one.is_declared, one.class_name) if metric.name == "auc" else (place, metric.name)
