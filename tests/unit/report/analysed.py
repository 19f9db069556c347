"""Analyses of drawn models for looks and sentences: two classes with a confounder, eight classes, and boxes. No number here is an oracle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinloop.scoring.analysis import (
    Analysis,
    Calibration,
    CalibrationBin,
    Cell,
    ConfounderAudit,
    ConfoundMetric,
    Confusion,
    CrossCheck,
    Curve,
    DecisionCurve,
    JointConfounding,
    LabelNoise,
    Subgroup,
)
from clinloop.scoring.results import Estimate

MODELS = ("initial", "refined")


def about(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half)


def change(before: float, after: float, half: float) -> tuple[Estimate, Estimate, Estimate]:
    return about(before, half), about(after, half), about(after - before, half)


def curves_of(name: str, model, truth: np.ndarray, scores: np.ndarray, threshold: float) -> list[Curve]:
    order = np.argsort(-scores)
    hits, alarms = np.cumsum(truth[order]), np.cumsum(~truth[order])
    keep = np.unique(np.linspace(0, len(order) - 1, 150).astype(int))
    sensitivity, false = hits / truth.sum(), alarms / (~truth).sum()
    precision = hits / (hits + alarms)
    positive = scores >= threshold
    found, wrong = positive[truth].mean(), positive[~truth].mean()
    right = truth[positive].mean() if positive.any() else 0.0
    return [
        Curve(
            model=model,
            name=name,
            kind="roc",
            x=[0.0, *false[keep].tolist()],
            y=[0.0, *sensitivity[keep].tolist()],
            at=(float(wrong), float(found)),
        ),
        Curve(
            model=model,
            name=name,
            kind="precision_recall",
            x=sensitivity[keep].tolist(),
            y=precision[keep].tolist(),
            at=(float(found), float(right)),
        ),
    ]


def calibration_of(name: str, model, truth: np.ndarray, scores: np.ndarray) -> Calibration:
    bins, ece = [], 0.0
    for low in np.arange(10) / 10:
        inside = (scores >= low) & (scores < low + 0.1)
        n = int(inside.sum())
        said, seen = (float(scores[inside].mean()), float(truth[inside].mean())) if n else (None, None)
        ece += n / len(scores) * abs((said or 0) - (seen or 0))
        bins.append(CalibrationBin(low=float(low), high=float(low + 0.1), n=n, mean_probability=said, share=seen))
    brier = float(((scores - truth) ** 2).mean())
    return Calibration(model=model, name=name, bins=bins, ece=about(ece, 0.02), brier=about(brier, 0.02))


def decision_of(name: str, truth: np.ndarray, before: np.ndarray, after: np.ndarray) -> DecisionCurve:
    thresholds = [round(0.01 * step, 2) for step in range(1, 80)]

    def benefit(positive: np.ndarray, t: float) -> float:
        return float((positive & truth).mean() - (positive & ~truth).mean() * t / (1 - t))

    return DecisionCurve(
        name=name,
        thresholds=thresholds,
        initial=[benefit(before >= t, t) for t in thresholds],
        refined=[benefit(after >= t, t) for t in thresholds],
        all=[benefit(np.ones_like(truth), t) for t in thresholds],
    )


def audit_of(
    attribute: str, truth: np.ndarray, present: np.ndarray, before: np.ndarray, after: np.ndarray, *, declared: bool
) -> ConfounderAudit:
    cells = []
    for positive, with_it in ((True, True), (True, False), (False, True), (False, False)):
        inside = (truth == positive) & (present == with_it)
        quartiles = [
            tuple(float(value) for value in np.quantile(scores[inside], (0.25, 0.5, 0.75)))
            if inside.sum() >= 20
            else None
            for scores in (before, after)
        ]
        cells.append(
            Cell(
                positive=positive,
                present=with_it,
                n=int(inside.sum()),
                groups=int(inside.sum()),
                initial=quartiles[0],
                refined=quartiles[1],
                initial_histogram=np.histogram(before[inside], 20, (0, 1))[0].tolist(),
                refined_histogram=np.histogram(after[inside], 20, (0, 1))[0].tolist(),
            )
        )
    values = {
        "auc_with": ("AUC among cases with it", 0.80, 0.83, 0.03, 0.2, None, None),
        "auc_without": ("AUC among cases without it", 0.71, 0.77, 0.03, 0.004, 0.02, None),
        "aligned_auc": ("AUC: class with it against others without", 0.93, 0.88, 0.02, 0.002, 0.014, None),
        "conflict_auc": ("AUC: class without it against others with", 0.38, 0.61, 0.05, 0.0002, 0.0018, None),
        "fp_share": ("Share of false positives that have it", 0.58, 0.41, 0.07, 0.003, 0.018, 0.21),
        "fn_share": ("Share of false negatives that have it", 0.12, 0.2, 0.06, 0.09, 0.3, 0.52),
        "raw_r": ("Correlation", 0.62, 0.45, 0.04, 0.0002, 0.0018, None),
        "partial_r": ("Correlation given the class", 0.48, 0.22, 0.05, 0.0002, 0.0018, None),
        "rank_partial_r": ("Rank correlation given the class", 0.46, 0.25, 0.05, 0.0002, 0.0018, None),
    }
    metrics = []
    for name, (title, one, other, half, p, p_holm, reference) in values.items():
        initial, refined, difference = change(one, other, half)
        metrics.append(
            ConfoundMetric(
                name=name,
                title=title,
                initial=initial,
                refined=refined,
                difference=difference,
                p=p,
                p_holm=p_holm,
                reference=reference,
            )
        )
    noise = [
        LabelNoise(
            share=share,
            partial_r_initial=0.48 - share,
            partial_r_refined=0.22 - share / 2,
            conflict_auc_initial=0.38 + share / 3,
            conflict_auc_refined=0.61 + share / 4,
        )
        for share in (0.0, 0.05, 0.1, 0.2)
    ]
    return ConfounderAudit(
        attribute=attribute,
        class_name="pneumothorax",
        is_declared=declared,
        is_predicted=declared,
        n=len(truth),
        auc_alone=0.74 if declared else 0.52,
        cells=cells,
        metrics=metrics,
        label_noise=noise if declared else [],
    )


def subgroups(metric: str, extra: Sequence[str] = ()) -> list[Subgroup]:
    rows = []
    rng = np.random.default_rng(1)
    named = [("age", v) for v in ("under 40", "40 to 60", "over 60")] + [("sex", v) for v in ("female", "male")]
    for place, (attribute, value) in enumerate([*named, *(("view", v) for v in ("AP", "PA", *extra))]):
        before = 0.74 + 0.05 * rng.random()
        gain = 0.07 if place != 2 else 0.02
        initial, refined, difference = change(before, before + gain, 0.045)
        few = value == "other"
        none = Estimate(None)
        rows.append(
            Subgroup(
                attribute=attribute,
                value=value,
                n=9 if few else 480 - 50 * place,
                groups=9 if few else 470 - 50 * place,
                metric=metric,
                initial=none if few else initial,
                refined=none if few else refined,
                difference=none if few else difference,
                note="too few" if few else "",
            )
        )
    return rows


def squeezed(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def binary_analysis() -> Analysis:
    """Pneumothorax with a drain that gives it away: the refined model leans on it less."""
    rng = np.random.default_rng(3)
    truth = rng.random(1200) < 0.27
    drain = rng.random(1200) < np.where(truth, 0.55, 0.2)
    noise = rng.normal(size=(2, 1200))
    scores = {
        "initial": squeezed(1.1 * truth + 2.2 * drain - 2.2 + noise[0]),
        "refined": squeezed(2.1 * truth + 0.9 * drain - 2.2 + noise[1]),
    }
    view = rng.random(1200) < 0.5
    tube = np.zeros(1200, bool)
    tube[:30] = True
    name = "pneumothorax"
    matrices = {}
    for model, values in scores.items():
        said = values >= 0.4
        matrices[model] = [[int(((truth == t) & (said == s)).sum()) for s in (False, True)] for t in (False, True)]
    initial, refined, difference = change(0.44, 0.2, 0.05)
    return Analysis(
        curves=[
            curve
            for label, flip in (("none", True), (name, False))
            for model in MODELS
            for curve in curves_of(
                label,
                model,
                ~truth if flip else truth,
                1 - scores[model] if flip else scores[model],
                0.6 if flip else 0.4,
            )
        ],
        calibration=[calibration_of(name, model, truth, scores[model]) for model in MODELS],
        decision_curves=[decision_of(name, truth, scores["initial"], scores["refined"])],
        confusion=[Confusion(model=model, matrix=matrices[model], names=["none", name]) for model in MODELS],
        subgroups=subgroups(f"auc_{name}", ["other"]),
        checks=[
            CrossCheck(test="DeLong", metric=f"auc_{name}", statistic=4.2, p=0.00003),
            CrossCheck(
                test="McNemar",
                metric="accuracy",
                statistic=None,
                p=None,
                note="Groups have several cases, which it takes as independent.",
            ),
        ],
        adjusted_p={"macro_auc": 0.002, f"auc_{name}": 0.002},
        confounders=[
            audit_of("view", truth, view, scores["initial"], scores["refined"], declared=False),
            audit_of("drain", truth, drain, scores["initial"], scores["refined"], declared=True),
            audit_of("tube", truth, tube, scores["initial"], scores["refined"], declared=False),
            audit_of("site", truth, view, scores["initial"], scores["refined"], declared=False),
        ],
        joint=[
            JointConfounding(
                attribute="drain", class_name=name, initial=initial, refined=refined, difference=difference
            )
        ],
        resamples=2000,
        seed=0,
        notes=["Two cases have no value of drain and are left out of its audit."],
    )


def many_class_analysis(classes: Sequence[str]) -> Analysis:
    """Eight classes that the refined model tells apart better."""
    rng = np.random.default_rng(4)
    labels = rng.choice(len(classes), 1600, p=[0.18, 0.42, 0.12, 0.05, 0.1, 0.04, 0.04, 0.05])
    eye = np.eye(len(classes))[labels]
    scores, curves, calibration, confusion = {}, [], [], []
    for model, skill in (("initial", 1.2), ("refined", 2.0)):
        logits = rng.normal(size=eye.shape) + skill * eye
        scores[model] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        matrix = np.zeros((len(classes), len(classes)), int)
        np.add.at(matrix, (labels, scores[model].argmax(axis=1)), 1)
        confusion.append(Confusion(model=model, matrix=matrix.tolist(), names=list(classes)))
    for place, name in enumerate(classes):
        truth = labels == place
        for model in MODELS:
            curves += curves_of(name, model, truth, scores[model][:, place], 0.2)
            calibration.append(calibration_of(name, model, truth, scores[model][:, place]))
    return Analysis(
        curves=curves,
        calibration=calibration,
        decision_curves=[
            decision_of(name, labels == place, scores["initial"][:, place], scores["refined"][:, place])
            for place, name in enumerate(classes)
        ],
        confusion=confusion,
        subgroups=[*subgroups("macro_auc"), *subgroups("auc_MEL")],
        checks=[CrossCheck(test="DeLong", metric="auc_MEL", statistic=3.1, p=0.002)],
        adjusted_p={"macro_auc": 0.006, "auc_MEL": 0.08},
        resamples=2000,
    )


def detection_analysis() -> Analysis:
    """Boxes of fractures: curves of boxes, and the ROC of images by their best box."""
    rng = np.random.default_rng(6)
    x, truth = np.linspace(0, 20, 120), rng.random(600) < 0.4
    curves = [
        Curve(
            model=model,
            name="fracture",
            kind="froc",
            x=x.tolist(),
            y=(top * (1 - np.exp(-2.2 * x))).tolist(),
            at=(0.4, float(top * (1 - np.exp(-0.88)))),
        )
        for model, top in (("initial", 0.72), ("refined", 0.84))
    ]
    for model, skill in (("initial", 1.2), ("refined", 2.0)):
        curves += curves_of("fracture", model, truth, squeezed(skill * truth - 1 + rng.normal(size=600)), 0.4)
    return Analysis(curves=curves, subgroups=subgroups("ap50"), resamples=2000)
