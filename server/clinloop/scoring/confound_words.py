"""What a confound audit says in words: titles of its numbers, and a computed sentence for a clinician.

A change is claimed only where the 95 % interval of the paired difference excludes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from clinloop.scoring.analysis import MIN_CELL, ConfounderAudit, ConfoundMetric
from clinloop.scoring.metrics import Scheme

TOO_FEW = "too few"
_ALPHA = 0.05
_ANSWERS = {"classification": "probability", "detection": "best score", "segmentation": "answer"}


class Words(NamedTuple):
    """What a task type calls things."""

    answer: str
    """What a model gives a case."""
    has_medians: bool
    """Whether the answer is more than yes or no."""

    @classmethod
    def of(cls, scheme: Scheme) -> Words:
        """Return the words of a task."""
        return cls(_ANSWERS[scheme.task_type], scheme.task_type != "segmentation")


def titles(class_name: str, name: str, words: Words) -> dict[str, str]:
    """Return the titles of the numbers that apply, by name."""
    found = {
        "auc": f"AUC for {class_name} over all cases",
        "auc_with": f"AUC for {class_name} among cases with {name}",
        "auc_without": f"AUC for {class_name} among cases without {name}",
        "conflict_auc": f"AUC of {class_name} without {name} against other cases with it",
        "aligned_auc": f"AUC of {class_name} with {name} against other cases without it",
        "fp_share": f"Share of the false positives that have {name}",
        "fn_share": f"Share of the false negatives that have {name}",
        "raw_r": f"Correlation of the {words.answer} of {class_name} with {name}",
        "partial_r": f"Correlation of the {words.answer} of {class_name} with {name}, given the class",
        "rank_partial_r": f"Rank correlation of the {words.answer} of {class_name} with {name}, given the class",
    }
    if words.has_medians:
        found |= {
            "median_positive_with": f"Median {words.answer} of cases of {class_name} with {name}",
            "median_positive_without": f"Median {words.answer} of cases of {class_name} without {name}",
            "median_negative_with": f"Median {words.answer} of other cases with {name}",
            "median_negative_without": f"Median {words.answer} of other cases without {name}",
        }
    return found


def sentence(audit: ConfounderAudit, words: Words) -> str:
    """Return what an audit found; where cells are too small, that they are."""
    name, known = _name(audit), {metric.name: metric for metric in audit.metrics}
    parts = [
        _medians(audit, known, name, words),
        _errors(known["fp_share"], name),
        _conflict(known["conflict_auc"], audit, name),
        _correlation(known["partial_r"], name, words),
    ]
    said = [part for part in parts if part]
    if not said:
        return f"{_nothing(audit, known, name)}."
    if known["conflict_auc"].note == TOO_FEW and (few := _few(audit, name)):
        said.append(f"how both are ranked when they disagree cannot be said: {few}")
    price = _price(known["auc"])
    text = "; ".join([*said, *([price] if price else [])])
    return f"{text[0].upper()}{text[1:]}.{_noise(audit, name)}"


def _name(audit: ConfounderAudit) -> str:
    if not audit.level:
        return audit.attribute
    is_range = audit.level.startswith(("above ", "at least "))
    return f"{audit.attribute} {audit.level}" if is_range else f"{audit.attribute} = {audit.level}"


def _medians(audit: ConfounderAudit, known: Mapping[str, ConfoundMetric], name: str, words: Words) -> str:
    """Say what cases without the class got, with and without the attribute: where a shortcut shows as false suspicion."""
    having, lacking = (known.get(f"median_negative_{side}") for side in ("with", "without"))
    if having is None or lacking is None:
        return ""
    if having.initial.value is None or having.refined.value is None:
        return ""
    text = (
        f"among cases without {audit.class_name}, those with {name} got a median {words.answer} of "
        f"{_two(having.initial.value)} before and {_two(having.refined.value)} after{_unless_clear(having)}"
    )
    if lacking.initial.value is not None and lacking.refined.value is not None:
        text += f", those without it {_two(lacking.initial.value)} and {_two(lacking.refined.value)}"
    return text


def _errors(metric: ConfoundMetric, name: str) -> str:
    if metric.initial.value is None or metric.refined.value is None or metric.reference is None:
        return ""
    return (
        f"of the false alarms {_percent(metric.initial.value)} had {name} before and {_percent(metric.refined.value)} after"
        f"{_unless_clear(metric)}, where chance would give {_percent(metric.reference)}"
    )


def _conflict(metric: ConfoundMetric, audit: ConfounderAudit, name: str) -> str:
    if metric.initial.value is None or metric.refined.value is None:
        return ""
    verdict = _verdict(metric, "better", "worse")
    return (
        f"{audit.class_name} without {name} was told from other cases with it with an AUC of {_two(metric.initial.value)} "
        f"before and {_two(metric.refined.value)} after ({verdict})"
    )


def _correlation(metric: ConfoundMetric, name: str, words: Words) -> str:
    before, after = metric.initial.value, metric.refined.value
    if before is None or after is None:
        return ""
    if before * after < 0:
        verdict = _verdict(metric, "with the opposite sign", "with the opposite sign")
    else:
        more, less = ("stronger", "weaker") if before + after > 0 else ("weaker", "stronger")
        verdict = _verdict(metric, more, less)
    return f"the correlation of the {words.answer} with {name} given the class was {_two(before)} before and {_two(after)} after ({verdict})"


def _price(metric: ConfoundMetric) -> str:
    before, after = metric.initial.value, metric.refined.value
    if before is None or after is None:
        return ""
    return f"the AUC over all cases was {_two(before)} before and {_two(after)} after ({_verdict(metric, 'higher', 'lower')})"


def _verdict(metric: ConfoundMetric, rise: str, fall: str) -> str:
    """Return what the change is called: only where the interval of the difference excludes 0, and with what the correction says."""
    low, high = metric.difference.low, metric.difference.high
    if low is None or high is None:
        return "change not tested"
    if low <= 0 <= high:
        return "no clear change"
    word = rise if low > 0 else fall
    if metric.p_holm is not None and metric.p_holm > _ALPHA:
        return f"{word}, though not after correction for the number of comparisons"
    return word


def _unless_clear(metric: ConfoundMetric) -> str:
    verdict = _verdict(metric, "", "")
    return f" ({verdict})" if verdict in {"change not tested", "no clear change"} else ""


def _nothing(audit: ConfounderAudit, known: Mapping[str, ConfoundMetric], name: str) -> str:
    if known["partial_r"].note != TOO_FEW:
        return f"Nothing can be said about {name}: what it could be compared with does not vary"
    return f"Nothing can be said about {name}: {_few(audit, name) or 'the cases come from too few groups'}"


def _few(audit: ConfounderAudit, name: str) -> str:
    """Say how small the smallest cell is; "" where it has enough cases."""
    cell = min(audit.cells, key=lambda cell: cell.n)
    if cell.n >= MIN_CELL:
        return ""
    which = f"{audit.class_name} {'with' if cell.present else 'without'} {name}"
    cases = (
        f"cases of {which}"
        if cell.positive
        else f"cases {'with' if cell.present else 'without'} {name} but not {audit.class_name}"
    )
    return f"there are {cell.n} {cases}, too few ({MIN_CELL} are needed)"


def _noise(audit: ConfounderAudit, name: str) -> str:
    """Say how much of the dependence wrong values of a predicted attribute would hide."""
    rows = {row.share: row for row in audit.label_noise}
    if 0.0 not in rows or 0.1 not in rows:
        return ""
    now, then = rows[0.0].partial_r_refined, rows[0.1].partial_r_refined
    if now is None or then is None:
        return ""
    if abs(then) >= abs(now):
        return ""
    return (
        f" The values of {name} are predictions: with a further 10 % of them wrong the correlation given the class after training would read "
        f"{_two(then)} instead of {_two(now)}, so random errors among them make a dependence look smaller than it is."
    )


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
