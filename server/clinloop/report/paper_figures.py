"""Figures 3, 4 and 5 of the paper, drawn from our numbers beside the paper's, as files of their own (SVG and PNG)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinloop.files import write_atomic
from clinloop.paper import DRAIN_SHARE_OF_NEGATIVES, EVOLUTION, NUMBERS, PaperMetric
from clinloop.report.confounding import SUBGROUPS, Confounding
from clinloop.report.data import FinalMetric, ReportData
from clinloop.report.figures import LIGHT, bar_pair, draw_trajectory, legend, note, render, style, tick
from clinloop.report.text import number, percent
from clinloop.targets import TARGETS, TaskName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = LIGHT
_PAPER_MARKER = {"marker": "D", "markersize": 4.5, "markerfacecolor": _COLOURS.ground, "linestyle": "none"}


def write_figure(folder: Path, name: str, draw: Callable[[Figure], None], size: tuple[float, float]) -> None:
    """Write `name`.svg and `name`.png into a folder; the size is in inches."""
    write_atomic(folder / f"{name}.svg", render(draw, size, kind="svg").decode())
    partial = folder / f".{name}.png"
    partial.write_bytes(render(draw, size, kind="png"))
    partial.replace(folder / f"{name}.png")


def draw_bars(folder: Path, tasks: Mapping[TaskName, ReportData]) -> None:
    """Write figure 3: test metrics of the initial and the refined model with 95 % intervals and p, the paper's values as diamonds."""
    rows: list[tuple[TaskName, list[FinalMetric]]] = [(name, _with_paper(name, data)) for name, data in tasks.items()]

    def draw(figure: Figure) -> None:
        for index, (name, metrics) in enumerate(rows):
            axes = figure.add_subplot(len(rows), 1, index + 1)
            style(axes, _COLOURS, grid="y")
            for position, metric in enumerate(metrics):
                _beside_paper(axes, position, metric, NUMBERS[name].get(metric.name))
            axes.set_xticks(range(len(metrics)), [tick(metric) for metric in metrics])
            axes.set_xlim(-0.6, max(5, max(len(own) for _, own in rows) - 1) + 0.6)
            axes.set_ylim(0, 1.15)
            axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
            axes.set_ylabel("value on the test set")
            axes.set_title(TARGETS[name].title, color=_COLOURS.ink, fontsize=9, loc="right")
        _bar_legend(figure.axes[0])

    write_figure(folder, "figure-3", draw, (8.4, 0.4 + 3.1 * len(rows)))


def _with_paper(name: TaskName, data: ReportData) -> list[FinalMetric]:
    """Return the metrics to draw, at most seven: those of the paper, then the others."""
    quoted = [metric for metric in data.final if metric.name in NUMBERS[name]]
    return [*quoted, *(metric for metric in data.final if metric not in quoted)][:7]


def _beside_paper(axes: Axes, position: int, metric: FinalMetric, quoted: PaperMetric | None) -> None:
    """Draw a metric of ours, and the paper's values over its bars."""
    theirs = [value for value in (quoted.initial, quoted.refined) if value is not None] if quoted else []
    bar_pair(axes, position, metric, _COLOURS, top=max((value.high or value.value for value in theirs), default=0.0))
    if quoted is not None:
        _mark_paper(axes, position, quoted)


def _mark_paper(axes: Axes, position: int, quoted: PaperMetric) -> None:
    for value, offset in ((quoted.initial, -0.19), (quoted.refined, 0.19)):
        if value is None:
            continue
        if value.low is not None and value.high is not None:
            axes.plot([position + offset] * 2, [value.low, value.high], color=_COLOURS.failed, linewidth=1.2)
        axes.plot([position + offset], [value.value], color=_COLOURS.failed, **_PAPER_MARKER)  # pyright: ignore[reportArgumentType]


def _bar_legend(axes: Axes, at: tuple[float, float] = (-0.02, 1)) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=_COLOURS.initial, label="initial"),
        Patch(color=_COLOURS.refined, label="refined"),
        Line2D([], [], color=_COLOURS.failed, label="the paper's value", **_PAPER_MARKER),  # pyright: ignore[reportArgumentType]
    ]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=at, ncols=3, frameon=False, fontsize=8,
        labelcolor=_COLOURS.ink, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip


def draw_evolution(folder: Path, name: TaskName, data: ReportData) -> None:
    """Write figure 4: the accepted model so far on validation; for the task of the paper's figure 4 its own course beside it."""

    def draw(figure: Figure) -> None:
        if name != "wrist-5pct":
            draw_trajectory(figure, _COLOURS, data.runs, data.primary_title)
            return
        own, paper = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.2, 1])[0]
        draw_trajectory(own, _COLOURS, data.runs, data.primary_title)
        _draw_paper_evolution(paper)

    write_figure(folder, "figure-4", draw, (13, 3.8) if name == "wrist-5pct" else (7.4, 3.6))


def _draw_paper_evolution(figure: Any) -> None:
    axes = figure.add_subplot()
    style(axes, _COLOURS, grid="y")
    best: list[tuple[int, float]] = []
    rejected: list[tuple[int, float]] = []
    for run, value in EVOLUTION:
        if value is not None:
            (best if not best or value > best[-1][1] else rejected).append((run, value))
    numbers, values = zip(*best, strict=True)
    axes.step(
        [*numbers, EVOLUTION[-1][0]],
        [*values, values[-1]],
        where="post",
        color=_COLOURS.failed,
        linewidth=1.6,
        label="best so far",
    )
    axes.plot(numbers, values, "o", color=_COLOURS.failed, markersize=7)
    axes.plot(
        *zip(*rejected, strict=True), "o", color=_COLOURS.muted, markerfacecolor=_COLOURS.ground, label="no improvement"
    )
    for x, y in (best[0], best[-1]):
        note(axes, number(y), (x, y), _COLOURS.ink, ha="center", offset=(0, 7))
    axes.margins(y=0.18)
    axes.set_xticks(range(1, 18, 2))
    axes.set_xlabel("completed run (the paper, digitised from its figure 4)")
    axes.set_ylabel("mAP50 on validation")
    legend(axes, _COLOURS)


def draw_confounding(folder: Path, data: ReportData, found: Confounding) -> None:
    """Write figure 5: A predicted probability in the four subgroups, B who the false positives are, C how far predictions follow the confounder."""

    def draw(figure: Figure) -> None:
        spread, share, correlation = figure.subplots(1, 3, width_ratios=[2.2, 1.1, 1.3])
        _draw_subgroups(spread, found)
        _draw_shares(share, data, found)
        _draw_correlations(correlation, data, found)
        _bar_legend(spread, (0.04, 1.01))

    write_figure(folder, "figure-5", draw, (11, 4))


def _draw_subgroups(axes: Axes, found: Confounding) -> None:
    style(axes, _COLOURS, grid="y")
    for place in range(len(SUBGROUPS)):
        for model, offset, colour in (("initial", -0.2, _COLOURS.initial), ("refined", 0.2, _COLOURS.refined)):
            values = found.probabilities[model][place]
            if not len(values):
                continue
            boxes = axes.boxplot(
                [values], positions=[place + offset], widths=0.32, whis=(5, 95), showfliers=False, patch_artist=True,
                medianprops={"color": _COLOURS.ink}, whiskerprops={"color": colour}, capprops={"color": colour},
            )  # fmt: skip
            for box in boxes["boxes"]:
                box.set(facecolor=colour, edgecolor=colour, alpha=0.75)
    for model, colour in (("initial", _COLOURS.initial), ("refined", _COLOURS.refined)):
        threshold = found.thresholds.get(model)
        if threshold is not None:
            axes.axhline(threshold, color=colour, linewidth=1, linestyle=(0, (4, 3)))
    disease, confounder = found.positive, found.confounder
    names = [
        f"{disease if sick else f'no {disease}'}\n{confounder if has else f'no {confounder}'}"
        for sick, has in SUBGROUPS
    ]
    counts = [len(values) for values in found.probabilities["initial"]]
    axes.set_xticks(
        range(len(names)), [f"{name}\nn = {count}" for name, count in zip(names, counts, strict=True)], fontsize=7.5
    )
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel(f"predicted probability of {disease}")
    axes.set_title("A", loc="left", color=_COLOURS.ink, fontsize=10, fontweight="bold")
    axes.text(
        1,
        0.96,
        "boxes: quartiles, whiskers: 5 to 95 %, dashed: threshold",
        transform=axes.transAxes,
        ha="right",
        fontsize=7,
        color=_COLOURS.muted,
    )


def _draw_shares(axes: Axes, data: ReportData, found: Confounding) -> None:
    style(axes, _COLOURS, grid="y")
    _pairs(axes, data, [f"fp_share_{found.confounder}"])
    for share, colour, who in (
        (found.share_of_negatives, _COLOURS.ink, "all negatives"),
        (DRAIN_SHARE_OF_NEGATIVES, _COLOURS.failed, "the paper's"),
    ):
        axes.axhline(share, color=colour, linewidth=1, linestyle=(0, (2, 2)))
        note(axes, f"{who}: {percent(share)}", (0.95, share), colour, ha="right", offset=(0, 3))
    axes.set_xticks([0], [f"false positives\nwith {found.confounder}"])
    axes.set_ylim(0, 1.05)
    axes.set_title("B", loc="left", color=_COLOURS.ink, fontsize=10, fontweight="bold")


def _draw_correlations(axes: Axes, data: ReportData, found: Confounding) -> None:
    style(axes, _COLOURS, grid="y")
    _pairs(axes, data, [f"raw_r_{found.confounder}", f"partial_r_{found.confounder}"])
    axes.set_xticks([0, 1], [f"correlation with\n{found.confounder}", "the same,\ngiven the label"])
    axes.set_ylim(0, 1.05)
    axes.set_title("C", loc="left", color=_COLOURS.ink, fontsize=10, fontweight="bold")


def _pairs(axes: Axes, data: ReportData, names: Sequence[str]) -> None:
    ours = {metric.name: metric for metric in data.final}
    for position, name in enumerate(names):
        if name in ours:
            _beside_paper(axes, position, ours[name], NUMBERS["pneumothorax"].get(name))
    axes.set_xlim(-0.6, len(names) - (0 if len(names) == 1 else 0.4))
