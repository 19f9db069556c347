"""The picture of a trade-off: runs as points, the primary metric against the guard that matters, better always up and to the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clinloop.report.choices import Point, Role, Scale, TradeoffPicture
from clinloop.report.figures import Palette, as_svg, style
from clinloop.untrusted import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "tradeoff"


def tradeoff_svg(found: TradeoffPicture, *, name: str = NAME) -> str:
    """Draw the runs as one <svg> that follows the page's colours, with their words as text alternative.

    `name` makes its ids unique in a page.
    """
    points, x, y = found.points, found.x, found.y

    def draw(figure: Figure, colours: Palette) -> None:
        axes = figure.add_subplot()
        style(axes, colours, grid="both")
        for role in ("other", "front", "rival", "incumbent"):
            _draw_role(axes, colours, [point for point in points if point.role == role], role)
        axes.margins(0.16)
        for limit, line in ((x.limit, axes.axvline), (y.limit, axes.axhline)):
            if limit is not None:
                line(limit, color=colours.muted, linewidth=1, linestyle=(0, (2, 3)), label="margin of the guard")
        if not x.is_higher_better:
            axes.invert_xaxis()
        if not y.is_higher_better:
            axes.invert_yaxis()
        axes.set_xlabel(_label(x, "to the right"))
        axes.set_ylabel(_label(y, "above"))
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1], labels[::-1],
            loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2, frameon=False, labelcolor=colours.ink, fontsize=8,
            handletextpad=0.5, columnspacing=1.4,
        )  # fmt: skip
        figure.draw_without_rendering()  # now it is known where the points lie in pixels
        _write_names(axes, colours, [point for point in points if point.role != "other"])

    label = f"{x.label} against {y.label}, one point for each run"
    text = as_svg(name, draw, size=(6.4, 4), label=label)
    told = (f"{point.run}: {point.words}" for point in points if point.role != "other")
    said = clean(" ".join(told), cap=4000).replace("&", "&amp;").replace("<", "&lt;")
    text = text.replace(f'"{name}-title"', f'"{name}-title {name}-desc"', 1)
    return text.replace("</title>", f'</title><desc id="{name}-desc">{said}</desc>', 1)


_LOOK: dict[Role, tuple[str, str, str]] = {
    "incumbent": ("refined", "s", "the model that counts"),
    "rival": ("initial", "o", "as sensible an answer"),
    "front": ("ink", "o", "no run beats it"),
    "other": ("muted", "o", "another run beats it"),
}


def _draw_role(axes: Axes, colours: Palette, points: Sequence[Point], role: Role) -> None:
    if not points:
        return
    field, marker, label = _LOOK[role]
    colour = getattr(colours, field)
    is_plain = role in ("front", "other")
    for point in points if not is_plain else ():
        for across, measure in ((True, point.x), (False, point.y)):
            if measure.low is None or measure.high is None:
                continue
            span, rest = [measure.low, measure.high], [(point.y if across else point.x).value] * 2
            axes.plot(*((span, rest) if across else (rest, span)), color=colour, linewidth=1, alpha=0.45)
    axes.plot(
        [point.x.value for point in points],
        [point.y.value for point in points],
        marker,
        color=colour,
        markerfacecolor=colours.ground if is_plain else colour,
        markersize=5 if role == "other" else 8,
        alpha=0.55 if role == "other" else 1,
        label=label,
    )


def _label(scale: Scale, side: str) -> str:
    better = "" if scale.is_higher_better else f"\n(lower is better, {side})"
    return f"{clean(scale.label, cap=60)} on validation{better}"


def _write_names(axes: Axes, colours: Palette, points: Sequence[Point]) -> None:
    """Write the name of each run beside its point, where no other name is yet; points in pixels tell what is close."""
    placed: list[tuple[float, float, float]] = []
    dots = [tuple(axes.transData.transform((point.x.value, point.y.value))) for point in points]
    for point, (left, top) in zip(points, dots, strict=True):
        text = f"{point.run} (baseline)" if point.is_baseline else point.run
        half = 2.6 * len(text)
        aside = half + 9
        sides = [(sign * aside, up) for up in (9, -9, 22, -22, 35, -35) for sign in (1, -1)]
        free = [
            (right, above)
            for right, above in sides
            if all(abs(left + right - x) > half + other + 6 or abs(top + above - y) > 12 for x, y, other in placed)
            and all(abs(left + right - x) > half + 7 or abs(top + above - y) > 11 for x, y in dots)
        ]
        right, above = (free or sides)[0]
        placed.append((left + right, top + above, half))
        axes.annotate(
            text, (point.x.value, point.y.value), xytext=(right * 0.72, above * 0.72), textcoords="offset points",
            ha="center", va="center", fontsize=8.5, color=getattr(colours, _LOOK[point.role][0]),
        )  # fmt: skip
