"""Puts the analysis of two models together: curves, calibration, decision curves, confusion, subgroups, cross-checks, confounders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from clinloop.scoring.analysis import Analysis, Confusion
from clinloop.scoring.checks import class_checks, image_checks
from clinloop.scoring.confound_audit import audit
from clinloop.scoring.confound_audit import notes as audit_notes
from clinloop.scoring.crosschecks import holm
from clinloop.scoring.curves import box_curves, threshold_curves
from clinloop.scoring.detection import BoxCases
from clinloop.scoring.evaluate import AnyCases
from clinloop.scoring.joining import join_rows
from clinloop.scoring.metrics import DEFAULT_RULES, Scheme
from clinloop.scoring.predictions import Prediction
from clinloop.scoring.probabilities import MODELS, calibrations, decision_curves
from clinloop.scoring.segmentation import MaskCases
from clinloop.scoring.subgroups import subgroups
from clinloop.scoring.tables import FEW_GROUPS, by_finding
from clinloop.scoring.truth import TruthCase
from clinloop.scoring.weighted import Cases, confusion


class Predicted(NamedTuple):
    """What a model says about the cases of a truth, and its operating points."""

    rows: Mapping[str, Prediction]
    thresholds: Mapping[str, float]
    """By class; of boxes by what is detected."""


def in_order(truth: Sequence[TruthCase]) -> list[TruthCase]:
    """Return the cases by id with every attribute in every case, by name, so that nothing depends on how a truth was written down."""
    names = sorted({name for case in truth for name in case.attributes})
    filled = [case._replace(attributes={name: case.attributes.get(name, "") for name in names}) for case in truth]
    return sorted(filled, key=lambda case: case.case_id)


def analyse(
    truth: Sequence[TruthCase],
    scheme: Scheme,
    initial: Predicted,
    refined: Predicted,
    *,
    primary: str,
    p_values: Mapping[str, float | None],
    resamples: int,
    seed: int,
) -> Analysis:
    """Return the analysis of two models on the same cases; `p_values` are those of the reported metrics, corrected for their number."""
    ordered = in_order(truth)

    def models_of(places: Sequence[int]) -> tuple[AnyCases, AnyCases]:
        chosen = [ordered[place] for place in places]
        found = [
            join_rows(chosen, scheme, model.rows, rule=DEFAULT_RULES[scheme.task_type], thresholds=model.thresholds)[0]
            for model in (initial, refined)
        ]
        return found[0], found[1]

    models = models_of(range(len(ordered)))
    resamples = resamples if models[0].n_groups > 1 else 0
    part = _part(models, scheme, resamples=resamples, seed=seed)
    confounders, joint = audit(ordered, scheme, *models, resamples=resamples, seed=seed)
    rows, notes = subgroups(ordered, scheme, models_of, primary=primary, resamples=resamples, seed=seed)
    if models[0].n_groups < FEW_GROUPS:
        notes.insert(0, f"Only {models[0].n_groups} groups: intervals and p-values are unreliable.")
    return Analysis(
        curves=part.curves,
        calibration=part.calibration,
        decision_curves=part.decision_curves,
        confusion=part.confusion,
        subgroups=rows,
        checks=part.checks,
        adjusted_p=dict(zip(p_values, holm(list(p_values.values())), strict=True)),
        confounders=confounders,
        joint=joint,
        resamples=resamples,
        seed=seed,
        notes=[*notes, *audit_notes(ordered, scheme)],
    )


def _part(models: tuple[AnyCases, AnyCases], scheme: Scheme, *, resamples: int, seed: int) -> Analysis:
    """Return what depends on the task type."""
    match models:
        case Cases() as initial, Cases() as refined:
            return _of_classes((initial, refined), scheme, resamples=resamples, seed=seed)
        case BoxCases() as initial, BoxCases() as refined:
            return _of_boxes((initial, refined), scheme)
        case MaskCases() as initial, MaskCases() as refined:
            matrices = [by_finding(model.has_target, model.is_found) for model in (initial, refined)]
            return Analysis(confusion=_by_image(scheme, matrices))
        case _:
            raise ValueError("two models of one task have predictions of one type")


def _of_classes(models: tuple[Cases, Cases], scheme: Scheme, *, resamples: int, seed: int) -> Analysis:
    names, places = scheme.classes, shown_classes(scheme)
    return Analysis(
        curves=[
            curve
            for place in places
            for model, cases in zip(MODELS, models, strict=True)
            for curve in threshold_curves(
                model, names[place], cases.truth == place, cases.probabilities[:, place], cases.thresholds[place]
            )
        ],
        calibration=calibrations(models, scheme, places, resamples=resamples, seed=seed),
        decision_curves=decision_curves(models, names, places),
        confusion=[
            Confusion(model=model, matrix=confusion(cases), names=list(names))
            for model, cases in zip(MODELS, models, strict=True)
        ],
        checks=class_checks(*models, names, places),
    )


def _of_boxes(models: tuple[BoxCases, BoxCases], scheme: Scheme) -> Analysis:
    return Analysis(
        curves=[
            curve for model, cases in zip(MODELS, models, strict=True) for curve in box_curves(model, cases, scheme)
        ],
        confusion=_by_image(scheme, [by_finding(cases.has_box, cases.best >= cases.threshold) for cases in models]),
        checks=image_checks(*models),
    )


def shown_classes(scheme: Scheme) -> list[int]:
    """Return the places of the classes that are told one by one: the declared positive of two alone, as the other is its mirror."""
    if scheme.positive and len(scheme.classes) == 2:
        return [scheme.classes.index(scheme.positive)]
    return list(range(len(scheme.classes)))


def _by_image(scheme: Scheme, matrices: Sequence[list[list[int]]]) -> list[Confusion]:
    names = [f"no {scheme.detected}", scheme.detected]
    return [Confusion(model=model, matrix=matrix, names=names) for model, matrix in zip(MODELS, matrices, strict=True)]
