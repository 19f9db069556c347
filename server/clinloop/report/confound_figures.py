"""Figure 5 as inline SVG: what both models' answers owe to one confounder.

Upper row: probabilities in the four cells of class and confounder. Lower row: AUC by stratum, composition of errors beside chance, and
correlations, each with intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from clinloop.report.figures import Palette, as_svg, style
from clinloop.scoring.analysis import MIN_CELL, Cell, ConfounderAudit, ConfoundMetric
from clinloop.untrusted import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STRATA: Final = {
    "auc": "all\ncases",
    "auc_with": "all\nwith it",
    "auc_without": "all\nwithout it",
    "aligned_auc": "class with,\nothers\nwithout",
    "conflict_auc": "class\nwithout,\nothers with",
}
_ERRORS: Final = {"fp_share": "of false\npositives", "fn_share": "of false\nnegatives"}
_CORRELATIONS: Final = {"raw_r": "raw", "partial_r": "given\nclass", "rank_partial_r": "ranks,\ngiven\nclass"}


def confounder_svg(name: str, audit: ConfounderAudit) -> str:
    """Draw the audit of one confounder."""
    found = {metric.name: metric for metric in audit.metrics}
    panels = [
        (labels, title, bars)
        for labels, title, bars in (
            (_STRATA, "AUC of the class", False),
            (_ERRORS, "share that has it", True),
            (_CORRELATIONS, "correlation", True),
        )
        if any(key in found for key in labels)
    ]

    def draw(figure: Figure, colours: Palette) -> None:
        parts = figure.subfigures(2 if panels else 1, 1, height_ratios=(1.15, 1)[: 2 if panels else 1], squeeze=False)[
            :, 0
        ]
        left, right = parts[0].subplots(1, 2, sharex=True, sharey=True)
        _cells(left, colours, audit, "initial")
        _cells(right, colours, audit, "refined")
        if not panels:
            return
        widths = [max(2, sum(key in found for key in labels)) for labels, _, _ in panels]
        axes_of = parts[1].subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
        for axes, (labels, title, bars) in zip(axes_of, panels, strict=True):
            shown = [(found[key], label) for key, label in labels.items() if key in found]
            _panel(axes, colours, shown, bars=bars)
            axes.set_title(title, color=colours.ink, fontsize=9, loc="left")
        for axes, (labels, _, _) in zip(axes_of, panels, strict=True):
            if labels is _CORRELATIONS:
                _around_zero(axes, colours)
            else:
                axes.set_ylim(0, 1.02)
            if labels is _STRATA:
                axes.axhline(0.5, color=colours.muted, linewidth=0.8, linestyle=(0, (2, 3)))

    what = clean(audit.attribute, cap=40)
    return as_svg(name, draw, size=(7.4, 5.6 if panels else 3), label=f"Confound audit of {what}")


def _cells(axes: Axes, colours: Palette, audit: ConfounderAudit, model: Literal["initial", "refined"]) -> None:
    """Draw the distribution of probabilities in each cell as a ridge, its median as a line."""
    style(axes, colours, grid="x")
    colour, labels = getattr(colours, model), list[str]()
    for row, cell in enumerate(audit.cells):
        base = len(audit.cells) - 1 - row
        labels.append(_cell_label(cell, audit))
        counts = cell.initial_histogram if model == "initial" else cell.refined_histogram
        quartiles = cell.initial if model == "initial" else cell.refined
        axes.axhline(base, color=colours.grid, linewidth=0.8)
        if cell.n < MIN_CELL or quartiles is None or not counts:
            axes.text(0.5, base + 0.2, "too few", ha="center", color=colours.muted, fontsize=8)
            continue
        top = max([*counts, 1])
        edges = [index / len(counts) for index in range(len(counts) + 1)]
        heights = [base + 0.82 * count / top for count in counts]
        axes.stairs(heights, edges, baseline=base, fill=True, color=colour, alpha=0.55, linewidth=0)
        axes.plot([quartiles[0], quartiles[2]], [base - 0.07] * 2, color=colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot([quartiles[1]] * 2, [base - 0.14, base + 0.82], color=colours.ink, linewidth=1.3)
    axes.set_yticks([len(labels) - 1 - row + 0.3 for row in range(len(labels))], labels, fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.25, len(labels))
    axes.set_title(model, color=colour, fontsize=9, loc="left", fontweight="bold")
    axes.set_xlabel(f"probability of {clean(audit.class_name, cap=24)}")


def _cell_label(cell: Cell, audit: ConfounderAudit) -> str:
    what = clean(f"{audit.attribute} {audit.level}".strip(), cap=18)
    class_name = clean(audit.class_name, cap=14)
    return f"{class_name if cell.positive else 'no ' + class_name}\n{'with' if cell.present else 'without'} {what}\nn = {cell.n:,}"


def _panel(axes: Axes, colours: Palette, shown: Sequence[tuple[ConfoundMetric, str]], *, bars: bool) -> None:
    """Draw metrics before and after, with intervals, and what chance would give as a dash across both."""
    style(axes, colours, grid="y")
    for place, (metric, _) in enumerate(shown):
        for model, offset, colour in (
            (metric.initial, -0.19, colours.initial),
            (metric.refined, 0.19, colours.refined),
        ):
            if model.value is None:
                continue
            x = place + offset
            if bars:
                axes.bar(x, model.value, width=0.32, color=colour)
            elif model is metric.refined:
                axes.plot([x], [model.value], "o", color=colour, markersize=6)
            else:
                axes.plot([x], [model.value], "o", color=colour, markerfacecolor=colours.ground, markersize=6)
            if model.low is not None and model.high is not None:
                axes.plot([x, x], [model.low, model.high], color=colours.ink if bars else colour, linewidth=1.2)
        if metric.initial.value is None and metric.refined.value is None:
            axes.text(place, 0.02, clean(metric.note or "none", cap=12), ha="center", color=colours.muted, fontsize=8)
        if metric.reference is not None:
            axes.plot(
                [place - 0.45, place + 0.45], [metric.reference] * 2, color=colours.ink, linewidth=1.4, linestyle=(0, (2, 2))
            )  # fmt: skip
    axes.set_xticks(range(len(shown)), [label for _, label in shown], fontsize=7.5)
    axes.set_xlim(-0.6, len(shown) - 0.4)


def _around_zero(axes: Axes, colours: Palette) -> None:
    low, high = axes.get_ylim()
    bound = min(1.0, max(0.2, abs(low), abs(high)) * 1.08)
    axes.set_ylim(-bound if low < -0.02 else -0.1 * bound, bound)
    axes.axhline(0, color=colours.muted, linewidth=0.9)
