"""Text for readers: numbers, intervals and p-values in one style, and sentences about results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from clinloop.report.data import FinalMetric


class Interval(Protocol):
    """A value with its 95 % interval: an estimate of the report or of the analysis."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed digits and a real minus sign; a dash when there is none."""
    return "–" if value is None else f"{_rounded(value, digits):.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """Return a number with its sign."""
    return "–" if value is None else f"{_rounded(value, digits):+.{digits}f}".replace("-", "−")


def _rounded(value: float, digits: int) -> float:
    """Round, so that nothing is shown as minus zero."""
    return round(value, digits) + 0.0


def interval(estimate: Interval, *, show_sign: bool = False) -> str:
    """Return `low to high`, a dash when the interval is undefined."""
    if estimate.low is None or estimate.high is None:
        return "–"
    show = signed if show_sign else number
    return f"{show(estimate.low)} to {show(estimate.high)}"


def bracketed(estimate: Interval) -> str:
    """Return `0.81 (0.78 to 0.84)`."""
    return f"{number(estimate.value)} ({interval(estimate)})"


def p_text(p: float | None) -> str:
    """Return `p = 0.012` or `p < 0.001`."""
    if p is None:
        return "p –"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def percent(value: float | None) -> str:
    """Return a share as a whole percentage."""
    return "–" if value is None else f"{100 * value:.0f}\u00a0%"


def share(part: int, whole: int) -> str:
    """Return a share of counted cases: `12 of 40 (30 %)`."""
    return f"{part:,} of {whole:,} ({percent(part / whole)})" if whole else f"{part:,} of 0"


def listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 2 else words)


def minutes(seconds: float) -> str:
    """Return a duration in the unit that reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def verdict(metric: FinalMetric) -> str:
    """Return what the paired interval says about the change: better, worse, or no difference shown."""
    low, high = metric.difference.low, metric.difference.high
    if low is None or high is None:
        return "not comparable"
    if low > 0 or high < 0:
        return "better" if (low > 0) == (metric.direction == "higher") else "worse"
    return "no difference shown"


def is_shown(difference: Interval) -> bool:
    """Tell whether the interval of a difference leaves out zero."""
    return difference.low is not None and difference.high is not None and (difference.low > 0 or difference.high < 0)


def short(title: str) -> str:
    """Return a title without its explanation in brackets."""
    return title.split(" (", 1)[0]


def explanation(title: str) -> str:
    """Return what stands in brackets at the end of a title."""
    return title.removeprefix(short(title)).strip(" ()")
