"""Curves of pages as small SVG drawings without styles of their own; the colours are in page.css, and each has a table beside it in the page.

The figures of the report come from matplotlib, whose drawings carry style attributes, which pages forbid, and take 0.2 s each.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import NamedTuple

from markupsafe import Markup, escape

from clinloop.report.text import number

WIDTH, HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 22, 44
Point = tuple[float, float]


class Mark(NamedTuple):
    """One run in the curve of the best model so far."""

    run: int
    value: float | None
    """None: no score."""
    kept: bool
    now: bool = False
    """It is under way."""


def running_best(marks: Sequence[Mark], title: str) -> Markup:
    """Draw the value of every run, and the kept model so far as a line."""
    values = [mark.value for mark in marks if mark.value is not None]
    last = max([5, *(mark.run for mark in marks)])
    frame = _Frame((-0.4, last + 0.4), _padded(values))
    parts = [frame.grid(), frame.x_labels(_whole(last), "run (0 = start model)")]
    best: list[Point] = []
    for mark in marks:
        if mark.kept and mark.value is not None:
            if best:
                best.append((mark.run, best[-1][1]))
            best.append((mark.run, mark.value))
    if best:
        best.append((max(mark.run for mark in marks), best[-1][1]))
        parts.append(f'<polyline class="best" points="{frame.points(best)}"/>')
    parts += [_mark(mark, frame) for mark in marks]
    return _drawing(parts, f"{title}: value of each run on validation, and the best model so far")


def inside(points: Sequence[Point], title: str, seconds: float) -> Markup:
    """Draw the values that one run reached while it trained."""
    frame = _Frame((0, max([seconds, 1, *(x for x, _ in points)])), _padded([y for _, y in points]))
    marks = [round(frame.x[1] * part / 4) for part in range(5)]
    parts = [frame.grid(), frame.x_labels(marks, "seconds of training")]
    if len(points) > 1:
        parts.append(f'<polyline class="inside" points="{frame.points(points)}"/>')
    parts += [f'<circle class="accepted" cx="{x}" cy="{y}" r="3.5"/>' for x, y in map(frame.at, points)]
    return _drawing(parts, f"{title} on validation while the run trained")


def spark(points: Sequence[Point]) -> Markup:
    """Draw a curve without axes, for a list; the text beside it says its last value."""
    if len(points) < 2:
        return Markup("")
    first, last = points[0][0], points[-1][0]
    low, high = min(y for _, y in points), max(y for _, y in points)
    wide, tall = (last - first) or 1, (high - low) or 1
    line = [(240 * (x - first) / wide, 42 - 36 * (y - low) / tall) for x, y in points]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
    return Markup(  # noqa: S704 - numbers only
        '<svg class="spark" viewBox="0 0 240 48" preserveAspectRatio="none" aria-hidden="true">'
        f'<polygon class="area" points="0,48 {text} 240,48"/><polyline class="inside" points="{text}"/></svg>'
    )


class _Frame:
    """Where values lie in a drawing."""

    def __init__(self, x: Point, y: Point) -> None:
        self.x, self.y = x, y

    def at(self, point: Point) -> tuple[float, float]:
        (x_low, x_high), (y_low, y_high) = self.x, self.y
        x = _LEFT + (point[0] - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)
        y = HEIGHT - _BOTTOM - (point[1] - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    def points(self, points: Sequence[Point]) -> str:
        return " ".join(f"{x},{y}" for x, y in map(self.at, points))

    def grid(self) -> str:
        step = _step(self.y[1] - self.y[0])
        lines: list[str] = []
        for count in range(ceil(self.y[0] / step - 1e-9), floor(self.y[1] / step + 1e-9) + 1):
            value = count * step
            y = self.at((self.x[0], value))[1]
            lines.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
            lines.append(
                f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{number(value, 2 if step >= 0.01 else 3)}</text>'
            )
        return "".join(lines)

    def x_labels(self, values: Sequence[int], title: str) -> str:
        texts = [
            f'<text x="{self.at((value, 0))[0]}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{value}</text>'
            for value in values
        ]
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        return "".join(texts) + f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(title)}</text>'


def _mark(mark: Mark, frame: _Frame) -> str:
    if mark.now:
        x = frame.at((mark.run, 0))[0]
        return f'<rect class="now" x="{x - 9}" y="{_TOP}" width="18" height="{HEIGHT - _TOP - _BOTTOM}" rx="4"/>'
    if mark.value is None:
        x, y = frame.at((mark.run, 0))[0], HEIGHT - _BOTTOM - 9
        return f'<path class="failed" d="M{x - 5} {y - 5}l10 10m0-10l-10 10"/>'
    x, y = frame.at((mark.run, mark.value))
    if not mark.kept:
        return f'<circle class="rejected" cx="{x}" cy="{y}" r="5"/>'
    label = f'<text class="value" x="{x}" y="{y - 11}" text-anchor="middle">{number(mark.value)}</text>'
    return f'<circle class="accepted" cx="{x}" cy="{y}" r="6"/>{label}'


def _drawing(parts: Sequence[str], title: str) -> Markup:
    return Markup(  # noqa: S704 - numbers, and texts that are escaped
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _padded(values: Sequence[float]) -> Point:
    """Return limits with some room, at least 0.025 apart; within 0 and 1 where all values are, because they are shares then."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = max(0.025, (high - low) * 0.18)
    bottom, top = low - room, high + room
    if low >= 0 and high <= 1:
        bottom, top = max(0.0, bottom), min(1.0, top)
    return bottom, top


def _step(span: float) -> float:
    """Return 1, 2 or 5 times a power of ten, such that a span has three to seven of them."""
    power = 10.0 ** floor(log10(span / 3))
    return next(power * digit for digit in (5, 2, 1) if span / (power * digit) >= 3)


def _whole(last: int) -> range:
    return range(0, last + 1, 1 if last <= 16 else 5)
