"""What one run gives and takes against another, in a clinician's words: counts of 100 cases, from numbers as they were sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, NamedTuple

from clinloop.errors import BadInput
from clinloop.scoring.metrics import Scheme, is_higher_better, resolve
from clinloop.scoring.results import error_bound
from clinloop.scoring.tradeoffs import Loss

_NORMAL_975 = 1.959964


class About(NamedTuple):
    """What the words are about."""

    scheme: Scheme
    primary: str
    classes: tuple[str, ...] = ()
    """Classes that matter most; none: the positive class of two, else the task as a whole."""
    risk: str = "balanced"
    """Risk preference of the spec; specificity_first names false alarms first."""


class Sent(NamedTuple):
    """A value as sent, with half the width of its 95 % interval (None: nothing is known of it)."""

    value: float
    half: float | None


def named(metric: str, scheme: Scheme) -> str:
    """Return a short name of a metric for people: "AUC of MEL"."""
    try:
        found, place = resolve(metric, scheme)
    except BadInput:
        return metric
    short = found.title.partition(" (")[0].partition(" at the operating point")[0]
    if place is None:
        return short
    member = found.members(scheme)[place]
    return f"{short}: {member}" if found.per_confounder else f"{short} of {member}"


def words(new: Mapping[str, Any], old: Mapping[str, Any], about: About, *, is_gain_known: bool = False) -> str:
    """Say in one sentence what a run gives and takes against another; both are scores as sent.

    is_gain_known: the rule has found the gain on the primary metric beyond noise, in a paired test of these two runs. Otherwise a difference
    counts as clear where it is larger than the two 95 % intervals allow for independent samples. That is cautious, because both runs
    answered the same cases.
    """
    match about.scheme.task_type:
        case "classification":
            parts = [part for name in _classes(about) for part in _of_class(new, old, name, about.risk)]
        case "detection":
            parts = _of_boxes(new, old, about)
        case "segmentation":
            parts = _of_masks(new, old, about)
    unclear = [part.removeprefix(_UNCLEAR) for part in parts if part.startswith(_UNCLEAR)]
    clear = [part for part in parts if not part.startswith(_UNCLEAR)]
    if unclear:
        clear.append(f"no clear difference in {' or in '.join(unclear)}")
    clear.append(_of_metric(new, old, about, is_gain_known))
    sentence = "; ".join(part for part in clear if part)
    return sentence[:1].upper() + sentence[1:] + "."


def loss_words(loss: Loss, new: Mapping[str, Any], old: Mapping[str, Any], scheme: Scheme, than: str) -> str:
    """Say which guard a run breaks, by how much, and whether that is beyond noise."""
    name = named(loss.metric, scheme)
    if loss.by is None:
        return f"Breaks the guard {name}: it became undefined."
    ours, theirs = _metric(new, loss.metric), _metric(old, loss.metric)
    noise = "" if ours and theirs and _is_clear(ours, theirs) else ", which may be noise"
    return f"Breaks the guard {name}: {_plain(loss.by)} worse than {than}, margin {loss.margin:g}{noise}."


def rates(scores: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Return sensitivity and specificity of a class at its operating point, as sent; None where one is unknown."""
    found, spared = (_rate(scores, family, name) for family in ("sensitivity", "specificity"))
    return None if found is None or spared is None else (found.value, spared.value)


_UNCLEAR = "\0"
"""Marks a part that is no clear difference."""


def _classes(about: About) -> Sequence[str]:
    scheme = about.scheme
    if scheme.positive:
        return (scheme.positive,)
    if about.classes:
        return about.classes[:2]
    return ()  # of several classes none matters more than another: `_of_metric` speaks of all


def _of_class(new: Mapping[str, Any], old: Mapping[str, Any], name: str, risk: str) -> list[str]:
    found = _change(
        new, old, "sensitivity", name, "finds {n} {more} of 100 cases of " + name, f"how many cases of {name} it finds"
    )
    alarms = _change(
        new,
        old,
        "specificity",
        name,
        "calls {n} {more} of 100 others " + name,
        f"how many others it calls {name}",
        turned=True,
    )
    parts = [alarms, found] if risk == "specificity_first" else [found, alarms]
    return [part for part in parts if part]


def _change(
    new: Mapping[str, Any],
    old: Mapping[str, Any],
    family: str,
    name: str,
    clear: str,
    unclear: str,
    *,
    turned: bool = False,
) -> str:
    ours, theirs = _rate(new, family, name), _rate(old, family, name)
    return _said(ours, theirs, clear, unclear, turned=turned)


def _said(ours: Sent | None, theirs: Sent | None, clear: str, unclear: str, *, turned: bool = False) -> str:
    """Put a difference into words as a count of 100; `turned`: of what the share leaves over."""
    if ours is None or theirs is None:
        return ""
    difference = theirs.value - ours.value if turned else ours.value - theirs.value
    count = round(100 * difference)
    if count == 0 or not _is_clear(ours, theirs):
        return _UNCLEAR + unclear
    return clear.format(n=abs(count), more="more" if count > 0 else "fewer")


def _of_boxes(new: Mapping[str, Any], old: Mapping[str, Any], about: About) -> list[str]:
    what = about.scheme.detected
    what = "targets" if what == "any target" else f"boxes of {what}"
    found = _said(
        _metric(new, "recall"),
        _metric(old, "recall"),
        f"finds {{n}} {{more}} of 100 {what}",
        f"how many {what} it finds",
    )
    drawn = _said(
        _metric(new, "precision"),
        _metric(old, "precision"),
        "of 100 boxes that it draws {n} {more} are false",
        "how many of its boxes are false",
        turned=True,
    )
    parts = [drawn, found] if about.risk == "specificity_first" else [found, drawn]
    return [part for part in parts if part]


def _of_masks(new: Mapping[str, Any], old: Mapping[str, Any], about: About) -> list[str]:
    what = about.scheme.detected
    found = _said(
        _metric(new, "image_sensitivity"),
        _metric(old, "image_sensitivity"),
        f"marks something in {{n}} {{more}} of 100 images with {what}",
        f"the images with {what} in which it marks something",
    )
    alarms = _said(
        _metric(new, "image_specificity"),
        _metric(old, "image_specificity"),
        f"marks something in {{n}} {{more}} of 100 images without {what}",
        f"the images without {what} in which it marks something",
        turned=True,
    )
    parts = [alarms, found] if about.risk == "specificity_first" else [found, alarms]
    return [part for part in parts if part]


def _of_metric(new: Mapping[str, Any], old: Mapping[str, Any], about: About, is_gain_known: bool) -> str:
    name = named(about.primary, about.scheme)
    ours, theirs = _metric(new, about.primary), _metric(old, about.primary)
    if ours is None or theirs is None:
        return f"{name} is undefined for one of the two"
    difference = ours.value - theirs.value
    gain = difference if is_higher_better(about.primary) else -difference
    if abs(gain) < 1e-9 or not (_is_clear(ours, theirs) or (is_gain_known and gain > 0)):
        return f"no clear difference in {name} ({_plain(ours.value)} and {_plain(theirs.value)})"
    better = "better" if gain > 0 else "worse"
    return f"{name} is {better}, {_plain(ours.value)} instead of {_plain(theirs.value)}"


def _is_clear(ours: Sent, theirs: Sent) -> bool:
    if ours.half is None or theirs.half is None:
        return False
    return abs(ours.value - theirs.value) > sqrt(ours.half**2 + theirs.half**2)


def _metric(scores: Mapping[str, Any], name: str) -> Sent | None:
    estimate = scores["metrics"].get(name)
    if estimate is None or estimate["value"] is None:
        return None
    low, high = estimate["low"], estimate["high"]
    return Sent(estimate["value"], None if low is None or high is None else (high - low) / 2)


def _rate(scores: Mapping[str, Any], family: str, name: str) -> Sent | None:
    """Return a rate of a class: with its interval where it was asked for, else that of the operating point with what its cases allow."""
    if (found := _metric(scores, f"{family}_{name}")) is not None and found.half is not None:
        return found
    value = scores["operating_points"].get(name, {}).get(family)
    row = next((row for row in scores["per_class"] if row["class_name"] == name), None)
    if value is None or row is None:
        return found
    groups = row["groups"] if family == "sensitivity" else scores["groups"] - row["groups"]
    return Sent(value, _NORMAL_975 * error_bound(groups))


def _plain(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")
