"""One plain sentence for each figure and table of a report, computed from its numbers.

No sentence claims a difference that its interval does not show; without an interval it states both values and that nothing was tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from clinloop.report.cases import Gallery
from clinloop.report.data import FinalMetric, RunSummary, ValidationToTest
from clinloop.report.text import (
    Interval,
    bracketed,
    interval,
    is_shown,
    listed,
    minutes,
    number,
    p_text,
    percent,
    share,
    short,
    verdict,
)
from clinloop.scoring.analysis import (
    Calibration,
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

ALPHA = 0.05


def of_results(metrics: Sequence[FinalMetric], adjusted: Mapping[str, float | None]) -> str:
    """Say how many metrics got better, worse or neither, and how many of them remain after correction."""
    told = [verdict(metric) for metric in metrics]
    parts = [f"{told.count('better')} better in the refined model", f"{told.count('worse')} worse"]
    parts += [f"{told.count('no difference shown')} without a shown difference"]
    parts += [f"{told.count('not comparable')} not comparable"] if "not comparable" in told else []
    sentence = f"Of {len(metrics)} metrics: {listed(parts)}."
    changed = [metric for metric, what in zip(metrics, told, strict=True) if what in {"better", "worse"}]
    if adjusted and changed:
        left = sum((p := adjusted.get(metric.name)) is not None and p < ALPHA for metric in changed)
        sentence += f" After correction for testing all of them, {left} of {len(changed)} changes stay{'s' if left == 1 else ''} below p = 0.05."
    return sentence


def of_trajectory(runs: Sequence[RunSummary], title: str) -> str:
    """Say where the kept model began and ended, and how runs were decided."""
    charged = [run for run in runs if run.mode == "full"]
    kept = [run for run in charged if run.decision == "accepted" and run.primary is not None]
    failed = sum(run.primary is None for run in charged)
    if not kept:
        return f"None of {len(charged)} runs was accepted."
    counts = f"{len(kept)} of {len(charged)} runs were accepted"
    counts += f" and {failed} had no score." if failed else "."
    if chosen := [str(run.number) for run in charged if run.chosen]:
        counts += f" The clinician chose run {' and run '.join(chosen)}, whatever the rule said."
    first, last = kept[0], kept[-1]
    if first is last:
        return f"Run {first.number} was kept with {short(title)} {number(first.primary)} on validation; {counts}"
    return (
        f"{short(title)} of the kept model went from {number(first.primary)} (run {first.number}) to {number(last.primary)} "
        f"(run {last.number}) on validation; {counts}"
    )


def of_learning(runs: Sequence[RunSummary], incumbent: int, *, is_higher_better: bool) -> str:
    """Say when the refined run reached its best value, and how far it fell off after that."""
    run = next((run for run in runs if run.number == incumbent and run.mode == "full"), None)
    if run is None or len(run.validations) < 2:
        return "The refined run was not scored during its training."
    best = (max if is_higher_better else min)(run.validations, key=lambda point: point[1])
    end = run.validations[-1]
    after = "its last value" if best == end else f"the last value was {number(end[1])}"
    return (
        f"Run {run.number} was scored {len(run.validations)} times during training; the best value, {number(best[1])} after "
        f"{minutes(best[0])}, was " + ("its last." if best == end else f"not its last: {after}.")
    )


def of_class_auc(metrics: Sequence[FinalMetric]) -> str:
    """Say in how many classes the AUC changed, and which class is told apart worst."""
    found = [metric for metric in metrics if metric.name.startswith("auc_") and metric.refined.value is not None]
    if len(found) < 2:
        return ""
    told = [verdict(metric) for metric in found]
    worst = min(found, key=lambda metric: metric.refined.value or 0.0)
    return (
        f"The AUC is higher in {told.count('better')} of {len(found)} classes, lower in {told.count('worse')}, and in the rest no "
        f"difference is shown; told apart worst by the refined model is {worst.name.removeprefix('auc_')} with {bracketed(worst.refined)}."
    )


def of_curves(curves: Sequence[Curve], name: str, metrics: Mapping[str, FinalMetric]) -> str:
    """Say where both models stand on the curves of a class or of boxes."""
    at = {(curve.kind, curve.model): curve.at for curve in curves if curve.name == name}
    sentences: list[str] = []
    refined, initial = at.get(("froc", "refined")), at.get(("froc", "initial"))
    if refined is not None:
        beside = f"; the initial model {percent(initial[1])} at {number(initial[0], 2)}" if initial else ""
        sentences.append(
            f"At its operating point the refined model marks {percent(refined[1])} of the boxes of {name} at "
            f"{number(refined[0], 2)} false marks per image{beside}."
        )
    refined, initial = at.get(("roc", "refined")), at.get(("roc", "initial"))
    if refined is not None:
        beside = (
            f"; the initial model {percent(initial[1])} with false alarms in {percent(initial[0])}" if initial else ""
        )
        what = f"images with {name}" if any(curve.kind == "froc" for curve in curves) else name
        sentences.append(
            f"At its operating point the refined model finds {percent(refined[1])} of {what} with false alarms in "
            f"{percent(refined[0])} of the others{beside}."
        )
    sentences += [
        _of_difference(metrics[metric])
        for metric in (f"auc_{name}", "ap50", "image_auc")
        if metric in metrics and (metric.startswith("auc_") or ("froc", "refined") in at)
    ][:1]
    return " ".join(sentences) or f"The curves of both models for {name}; no operating point was fixed."


def _of_difference(metric: FinalMetric) -> str:
    what = {
        "better": "The difference is larger than chance explains",
        "worse": "The refined model is worse",
        "no difference shown": "A difference is not shown",
        "not comparable": "The two cannot be compared",
    }[verdict(metric)]
    title = f"AUC of {metric.name.removeprefix('auc_')}" if metric.name.startswith("auc_") else short(metric.title)
    return f"{title}: refined {bracketed(metric.refined)}, initial {bracketed(metric.initial)}. {what} ({p_text(metric.p)})."


def of_calibration(calibrations: Sequence[Calibration], name: str) -> str:
    """Say how far probabilities of a class are off, in which direction, and whether the two models differ."""
    found = {item.model: item for item in calibrations if item.name == name}
    refined, initial = found.get("refined"), found.get("initial")
    if refined is None or refined.ece.value is None:
        return f"Calibration for {name} could not be computed."
    n = sum(item.n for item in refined.bins)
    said = sum((item.mean_probability or 0.0) * item.n for item in refined.bins) / max(n, 1)
    seen = sum((item.share or 0.0) * item.n for item in refined.bins) / max(n, 1)
    sentence = (
        f"Probabilities of {name} from the refined model are off by {100 * refined.ece.value:.1f} points on average (interval "
        f"{_points(refined.ece)}); in all it expects {percent(said)} where {percent(seen)} are {name}."
    )
    if initial is None or initial.ece.value is None:
        return sentence
    sentence += f" The initial model is off by {100 * initial.ece.value:.1f} points ({_points(initial.ece)})"
    if _is_apart(refined.ece, initial.ece):
        return sentence + (": more." if initial.ece.value > refined.ece.value else ": less.")
    return sentence + "; the intervals overlap, so no difference is claimed."


def _points(estimate: Interval) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def _is_apart(one: Interval, other: Interval) -> bool:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low > other.high or other.low > one.high


def of_decision_curve(curve: DecisionCurve) -> str:
    """Say at which thresholds acting on the refined model is worth more than every other way."""
    best = [
        refined > max(initial, everybody, 0.0) + 1e-12
        for initial, refined, everybody in zip(curve.initial, curve.refined, curve.all, strict=True)
    ]
    ranges = [[threshold for threshold, _ in run] for is_best, run in groupby(zip(curve.thresholds, best, strict=True), key=lambda item: item[1]) if is_best]  # fmt: skip
    if not ranges:
        return f"At no threshold probability of {curve.name} does acting on the refined model have the largest net benefit."
    spans = [percent(run[0]) if len(run) == 1 else f"{100 * run[0]:.0f} to {percent(run[-1])}" for run in ranges[:3]]
    more = " and in further short ranges" if len(ranges) > 3 else ""
    return (
        f"Acting on the refined model has the largest net benefit at threshold probabilities of {listed(spans)}{more}; "
        "this compares point values, a difference was not tested."
    )


def of_confusion(confusions: Sequence[Confusion]) -> str:
    """Say how many decisions are right and which confusion is the most frequent."""
    found = {item.model: item for item in confusions}
    if "refined" not in found:
        return ""
    refined = found["refined"]
    total = sum(map(sum, refined.matrix))
    right = sum(row[place] for place, row in enumerate(refined.matrix))
    sentence = f"The refined model decides {share(right, total)} of the cases rightly"
    if "initial" in found:
        before = found["initial"].matrix
        sentence += f", the initial one {sum(row[place] for place, row in enumerate(before)):,}"
    wrong = [
        (count, row, column)
        for row, counts in enumerate(refined.matrix)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    if not wrong:
        return sentence + "."
    count, row, column = max(wrong, key=lambda item: (item[0], -item[1], -item[2]))
    return (
        f"{sentence}; its most frequent error is {refined.names[row]} taken for {refined.names[column]}: "
        f"{share(count, sum(refined.matrix[row]))} of {refined.names[row]}."
    )


def of_subgroups(subgroups: Sequence[Subgroup], titles: Mapping[str, str]) -> str:
    """Say in how many subgroups a change is shown, and between which values the refined model lies; `titles` of metrics by name."""
    known = [group for group in subgroups if group.refined.value is not None]
    left_out = len(subgroups) - len(known)
    if not known:
        return f"No subgroup has enough cases for a number ({left_out} are too small)."
    changed = sum(is_shown(group.difference) for group in known)
    few = f" {left_out} {'is' if left_out == 1 else 'are'} too small for a number." if left_out else ""
    sentences: list[str] = []
    for metric in dict.fromkeys(group.metric for group in known):
        of_metric = [group for group in known if group.metric == metric]
        low = min(of_metric, key=lambda group: group.refined.value or 0.0)
        high = max(of_metric, key=lambda group: group.refined.value or 0.0)
        apart = (
            "do not overlap"
            if _is_apart(low.refined, high.refined)
            else "overlap, so a difference between groups is not shown"
        )
        sentences.append(
            f"{short(titles.get(metric, metric))} of the refined model runs from {bracketed(low.refined)} in {low.attribute} = {low.value} (n = {low.n:,}) to "
            f"{bracketed(high.refined)} in {high.attribute} = {high.value}; these two intervals {apart}."
        )
    return (
        f"A change between the models is shown in {changed} of {len(known)} subgroups.{few} {' '.join(sentences[:2])}"
    )


def of_audit(audit: ConfounderAudit) -> str:
    """Say what an audit found: its own sentence, else the share of false positives beside chance and the partial correlation."""
    if audit.sentence:
        return audit.sentence
    found = {metric.name: metric for metric in audit.metrics}
    sentences: list[str] = []
    if (share_of := found.get("fp_share")) is not None and share_of.refined.value is not None:
        sentences.append(
            f"Of the false positives of the refined model {percent(share_of.refined.value)} have {audit.attribute}{_beside_chance(share_of)}."
        )
    if (partial := found.get("partial_r")) is not None and partial.refined.value is not None:
        changed = "a change is shown" if is_shown(partial.difference) else "a change is not shown"
        sentences.append(
            f"Given the class, the correlation with {audit.attribute} is {bracketed(partial.refined)} after and "
            f"{number(partial.initial.value)} before; {changed}."
        )
    return " ".join(sentences) or f"There are too few cases to say what the models owe to {audit.attribute}."


def _beside_chance(metric: ConfoundMetric) -> str:
    """Return what chance would give, and whether the interval of the refined model leaves it out."""
    chance, found = metric.reference, metric.refined
    if chance is None:
        return ""
    if found.low is None or found.high is None or found.low <= chance <= found.high:
        return f"; chance would give {percent(chance)}, and the interval does not leave that out"
    return f"; chance would give {percent(chance)}"


def of_joint(joint: Sequence[JointConfounding]) -> str:
    """Say which confounders remain correlated with the refined model when all are taken into account together."""
    left = [item.attribute for item in joint if is_shown(item.refined)]
    if not left:
        return (
            "With all confounders taken into account together, none is shown to be correlated with the refined model."
        )
    return f"With all confounders taken into account together, {listed(left)} remain{'s' if len(left) == 1 else ''} correlated with the refined model."


def of_label_noise(attribute: str, noise: Sequence[LabelNoise]) -> str:
    """Say what the partial correlation would be if some values of a predicted attribute were wrong."""
    known = sorted((item for item in noise if item.partial_r_refined is not None), key=lambda item: item.share)
    if not known:
        return ""
    parts = [f"{number(item.partial_r_refined, 2)} if {percent(item.share)} were wrong" for item in known if item.share]
    stated = next((item for item in known if not item.share), None)
    start = "" if stated is None else f"{number(stated.partial_r_refined, 2)} as the values stand, "
    return (
        f"Values of {attribute} were predicted by a model and may be wrong. The partial correlation of the refined model "
        f"would be {start}{listed(parts)}."
    )


def of_checks(checks: Sequence[CrossCheck], metrics: Mapping[str, FinalMetric]) -> list[str]:
    """Say of each cross-check whether it agrees with the bootstrap, and of those that are not valid once why."""
    lines: list[str] = []
    invalid: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        title = short(metrics[check.metric].title) if check.metric in metrics else check.metric
        p = metrics[check.metric].p if check.metric in metrics else None
        if check.p is None:
            invalid.setdefault((check.test, check.note or "not computed"), []).append(title)
        elif p is None:
            lines.append(f"{check.test} for {title}: {p_text(check.p)}; there is no bootstrap p-value beside it.")
        else:
            agrees = "agrees" if (check.p < ALPHA) == (p < ALPHA) else "does not agree"
            lines.append(
                f"{check.test} for {title}: {p_text(check.p)}, which {agrees} with the bootstrap ({p_text(p)}) at 0.05."
            )
    return lines + [
        f"{test} for {listed(list(dict.fromkeys(titles)))}: {note.rstrip('.')}."
        for (test, note), titles in invalid.items()
    ]


def of_drop(drop: ValidationToTest, metrics: Mapping[str, FinalMetric]) -> str:
    """Say how far the test value is from the validation value, and whether the latter lies within the test interval."""
    if drop.test is None or drop.drop is None:
        return "There is no test value to compare with."
    how = "a drop" if drop.drop >= 0 else "a rise"
    size = f"{how} of {number(abs(drop.drop))}"
    test = metrics[drop.metric].refined if drop.metric in metrics else None
    if test is None or test.low is None or test.high is None:
        return f"That is {size}; the test value has no interval, so it cannot be said whether chance explains it."
    if test.low <= drop.validation <= test.high:
        return f"That is {size}. The validation value lies inside the interval of the test value ({interval(test)}): drawing other test cases could explain it."
    return f"That is {size}. The validation value lies outside the interval of the test value ({interval(test)}): drawing other test cases does not explain it."


def of_gallery(gallery: Gallery) -> str:
    """Say how many validation cases were gained and lost."""
    same = gallery.n - gallery.gained - gallery.lost
    return (
        f"Of {gallery.n:,} validation cases the refined model gets {gallery.gained:,} right that the initial one got wrong, and "
        f"{gallery.lost:,} wrong that the initial one got right; in {same:,} both are right or both are wrong."
    )
