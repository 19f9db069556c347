"""The figures of a report, as inline SVG that follows the page's light or dark colours, and one PNG for use during the loop.

Figure numbers are those of the paper (arXiv 2604.17110): 3 = test bars before and after, 4 = running-best trajectory.
"""

from __future__ import annotations

import io
import re
import textwrap
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from clinloop.report.data import FinalMetric, RunSummary
from clinloop.report.text import p_text, short
from clinloop.untrusted import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase


class Palette(NamedTuple):
    """Colours by meaning. Source of the hues: Okabe and Ito, colour universal design (2008)."""

    ink: str
    muted: str
    grid: str
    initial: str
    refined: str
    failed: str
    ground: str


LIGHT: Final = Palette(
    ink="#1c2126",
    muted="#6b7680",
    grid="#dfe4e8",
    initial="#b36a00",
    refined="#0069a8",
    failed="#c44601",
    ground="#ffffff",
)
DARK: Final = Palette(
    ink="#e8ecef",
    muted="#9aa6b0",
    grid="#333c44",
    initial="#f0a830",
    refined="#56b4e9",
    failed="#ff8a4c",
    ground="#14181c",
)
# Colours that no figure uses otherwise; each is replaced by a CSS variable in the SVG.
_MARKED: Final = Palette(*(f"#0102{index:02x}" for index in range(1, len(Palette._fields) + 1)))
_DRAWING = threading.Lock()  # matplotlib's settings are global to the process
_SETTINGS: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "clinloop",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.unicode_minus": True,
}
_BARS: Final = 6
"""Metrics in one row of figure 3 at most."""


def css_variables(palette: Palette) -> str:
    """Return the CSS declarations that give the figures their colours."""
    return "".join(f"--{name}:{colour};" for name, colour in zip(Palette._fields, palette, strict=True))


def metric_bars_svg(metrics: Sequence[FinalMetric]) -> str:
    """Draw figure 3: grouped bars initial and refined with 95 % intervals and the p-value of each metric."""
    n_rows = max(1, -(-len(metrics) // _BARS))
    n_columns = -(-len(metrics) // n_rows)  # rows of equal length, so that none holds a lonely bar
    rows = [metrics[start : start + n_columns] for start in range(0, len(metrics), max(1, n_columns))]

    def draw(figure: Figure, colours: Palette) -> None:
        for index, row in enumerate(rows):
            axes = figure.add_subplot(len(rows), 1, index + 1)
            style(axes, colours, grid="y")
            for position, metric in enumerate(row):
                bar_pair(axes, position, metric, colours)
            labels = [tick(metric) for metric in row]
            axes.set_xticks(range(len(row)), labels)
            axes.set_xlim(-0.6, max(n_columns, 3) - 0.4)
            axes.set_ylim(0, 1.12)
            axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
            axes.set_ylabel("value on the test set")
        legend(figure.axes[0], colours)

    return as_svg(
        "metrics", draw, size=(7.4, 0.5 + 2.9 * len(rows)), label="Test metrics of the initial and the refined model"
    )


def trajectory_svg(runs: Sequence[RunSummary], primary_title: str) -> str:
    """Draw figure 4: validation value of every run, and the accepted model so far as a line."""

    def draw(figure: Figure, colours: Palette) -> None:
        draw_trajectory(figure, colours, runs, primary_title)

    return as_svg("trajectory", draw, size=(7.4, 3.6), label=f"{short(primary_title)} on validation by run")


def trajectory_png(runs: Sequence[RunSummary], primary_title: str) -> bytes:
    """Draw the trajectory as a PNG of 920 x 520 pixels for `read_validation(view="figure")`."""
    return render(lambda figure: draw_trajectory(figure, LIGHT, runs, primary_title), (9.2, 5.2), kind="png")


def learning_svg(runs: Sequence[RunSummary], primary_title: str, incumbent: int) -> str | None:
    """Draw the validation values inside each run over time; None when no run asked for at least two."""
    curves = [run for run in runs if run.mode == "full" and len(run.validations) > 1]
    if not curves:
        return None

    def draw(figure: Figure, colours: Palette) -> None:
        axes = figure.add_subplot()
        style(axes, colours, grid="y")
        for run in sorted(curves, key=lambda run: (run.number == incumbent, run.number == 0)):
            role = "refined" if run.number == incumbent else "initial" if run.number == 0 else "muted"
            seconds, values = zip(*run.validations, strict=True)
            emphasised = role != "muted"
            axes.plot(
                seconds,
                values,
                color=getattr(colours, role),
                linewidth=1.8 if emphasised else 0.9,
                marker="o" if emphasised else None,
                markersize=3,
                alpha=1 if emphasised else 0.6,
            )
            if emphasised:
                note(
                    axes,
                    f" run {run.number}",
                    (seconds[-1], values[-1]),
                    getattr(colours, role),
                    ha="left",
                    offset=(3, 0),
                )
        axes.margins(x=0.1)
        axes.set_xlabel("seconds of training")
        axes.set_ylabel(f"{clean(short(primary_title))} on validation")

    return as_svg("learning", draw, size=(7.4, 3), label=f"{short(primary_title)} on validation inside each run")


def class_auc_svg(metrics: Sequence[FinalMetric]) -> str | None:
    """Draw the AUC of each class before and after; None with fewer than two classes."""
    per_class = [metric for metric in metrics if metric.name.startswith("auc_") and metric.refined.value is not None]
    if len(per_class) < 2:
        return None

    def draw(figure: Figure, colours: Palette) -> None:
        axes = figure.add_subplot()
        style(axes, colours, grid="x")
        for row, metric in enumerate(reversed(per_class)):
            for model, offset in ((metric.initial, 0.14), (metric.refined, -0.14)):
                colour = colours.refined if model is metric.refined else colours.initial
                if model.low is not None and model.high is not None:
                    axes.plot([model.low, model.high], [row + offset] * 2, color=colour, linewidth=1.6)
                if model.value is not None:
                    face = colour if model is metric.refined else colours.ground
                    axes.plot([model.value], [row + offset], "o", color=colour, markerfacecolor=face, markersize=6)
        names = [clean(metric.name.removeprefix("auc_"), cap=24) for metric in reversed(per_class)]
        axes.set_yticks(range(len(names)), names)
        lows = [low for metric in per_class for low in (metric.initial.low, metric.refined.low) if low is not None]
        axes.set_xlim(max(0.0, min([0.5, *lows]) - 0.02), 1.01)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.axvline(0.5, color=colours.muted, linewidth=0.8, linestyle=(0, (2, 3)))
        axes.set_xlabel("AUC of the class against all others, 95 % interval (dotted: guessing)")

    return as_svg(
        "class-auc", draw, size=(7.4, 0.9 + 0.42 * len(per_class)), label="AUC of each class, initial and refined"
    )


def confusion_svg(classes: Sequence[str], initial: Sequence[Sequence[int]], refined: Sequence[Sequence[int]]) -> str:
    """Draw both confusion matrices; rows are true classes, shading is the share of the row, numbers are cases."""
    names = [clean(name, cap=12) for name in classes]
    side = 1.1 + 0.34 * max(len(classes), 4)

    def draw(figure: Figure, colours: Palette) -> None:
        from matplotlib.patches import Rectangle

        for index, (title, matrix, colour) in enumerate(
            (("initial", initial, colours.initial), ("refined", refined, colours.refined))
        ):
            axes = figure.add_subplot(1, 2, index + 1)
            style(axes, colours, grid=None)
            for row, counts in enumerate(matrix):
                for column, count in enumerate(counts):
                    share = count / max(sum(counts), 1)
                    axes.add_patch(
                        Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=share, linewidth=0)
                    )
                    ink = colours.ground if share > 0.55 else colours.ink if count else colours.muted
                    axes.text(column, row, str(count), ha="center", va="center", color=ink, fontsize=8)
            axes.set_xlim(-0.5, len(names) - 0.5)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 3 else 0, fontsize=8)
            axes.set_yticks(range(len(names)), names if index == 0 else [""] * len(names), fontsize=8)
            axes.set_title(title, color=colours.ink, fontsize=9, loc="left")
            axes.set_xlabel("predicted")
            if index == 0:
                axes.set_ylabel("true")
            axes.set_aspect("equal")
            for spine in axes.spines.values():
                spine.set_visible(True)

    return as_svg("confusion", draw, size=(7.4, min(side, 4.6)), label="Confusion matrices, initial and refined")


def tick(metric: FinalMetric) -> str:
    """Return the label of a metric below its bars."""
    title = clean(short(metric.title)) + (" (lower is better)" if metric.direction == "lower" else "")
    return textwrap.fill(title, 16, max_lines=4, placeholder=" …")


def bar_pair(axes: Axes, position: int, metric: FinalMetric, colours: Palette, *, top: float = 0.0) -> None:
    """Draw a metric before and after with its intervals, and its p-value above both and above `top`."""
    for model, offset, colour in ((metric.initial, -0.19, colours.initial), (metric.refined, 0.19, colours.refined)):
        if model.value is None:
            continue
        x = position + offset
        axes.bar(x, model.value, width=0.34, color=colour)
        top = max(top, model.value, model.high or 0)
        if model.low is not None and model.high is not None:
            errors = [[max(0.0, model.value - model.low)], [max(0.0, model.high - model.value)]]
            axes.errorbar(x, model.value, yerr=errors, fmt="none", color=colours.ink, elinewidth=1.1, capsize=3)
        axes.text(
            x, 0.02, f"{model.value:.3f}"[1:] if model.value < 1 else "1", ha="center", color=colours.ground, fontsize=8
        )
    note(axes, p_text(metric.p), (position, top), colours.muted, ha="center", offset=(0, 5))


def draw_trajectory(figure: FigureBase, colours: Palette, runs: Sequence[RunSummary], primary_title: str) -> None:
    """Draw figure 4 into a figure or a part of one."""
    axes = figure.add_subplot()
    style(axes, colours, grid="y")
    charged = [run for run in runs if run.mode == "full"]
    scored = [(run, run.primary) for run in charged if run.primary is not None]
    accepted = [(run.number, value) for run, value in scored if run.decision == "accepted"]
    rejected = [(run.number, value) for run, value in scored if run.decision != "accepted"]
    failed = [run.number for run in charged if run.primary is None]
    if accepted:
        last = max(run.number for run in charged)
        numbers, values = zip(*accepted, strict=True)
        axes.step(
            [*numbers, last],
            [*values, values[-1]],
            where="post",
            color=colours.refined,
            linewidth=1.6,
            label="accepted model so far",
        )
        axes.plot(numbers, values, "o", color=colours.refined, markersize=7, label="accepted run")
        for index, (x, y) in enumerate(accepted):
            if index in {0, len(accepted) - 1} or len(accepted) <= 8:
                note(axes, f"{y:.3f}", (x, y), colours.ink, ha="center", offset=(0, 7))
    if chosen := [(run.number, value) for run, value in scored if run.chosen]:
        axes.plot(
            *zip(*chosen, strict=True), "D", color=colours.initial, markerfacecolor="none", markersize=11,
            markeredgewidth=1.6, label="chosen by the clinician",
        )  # fmt: skip
    if rejected:
        axes.plot(
            *zip(*rejected, strict=True),
            "o",
            color=colours.muted,
            markerfacecolor=colours.ground,
            markersize=6,
            label="rejected run",
        )
    if failed:
        axes.plot(
            failed, [0.04] * len(failed), "X", color=colours.failed, markersize=7, label="run without a score",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    if not scored:
        axes.text(0.5, 0.5, "no run has a score yet", transform=axes.transAxes, ha="center", color=colours.muted)
        axes.set_yticks([])
    top = max([5, *(run.number for run in charged)])
    axes.set_xlim(-0.5, top + 0.5)
    axes.set_xticks(range(0, top + 1, 1 if top <= 16 else 2))
    axes.margins(y=0.18)
    axes.set_xlabel("run (0 = baseline)")
    axes.set_ylabel(f"{clean(short(primary_title))} on validation")
    legend(axes, colours)


def style(axes: Axes, colours: Palette, *, grid: Any) -> None:
    """Give axes the report's look."""
    for name, spine in axes.spines.items():
        spine.set_visible(name in {"left", "bottom"})
        spine.set_color(colours.grid)
    axes.set_facecolor("none")
    axes.tick_params(colors=colours.ink, length=0)
    axes.xaxis.label.set_color(colours.muted)
    axes.yaxis.label.set_color(colours.muted)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=colours.grid, linewidth=0.8)


def note(axes: Axes, text: str, at: tuple[float, float], colour: str, *, ha: Any, offset: tuple[float, float]) -> None:
    """Write a short text beside a point."""
    axes.annotate(text, at, xytext=offset, textcoords="offset points", ha=ha, color=colour, fontsize=8)


def legend(axes: Axes, colours: Palette) -> None:
    """Put the legend above the axes."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        from matplotlib.patches import Patch

        handles, labels = [Patch(color=colours.initial), Patch(color=colours.refined)], ["initial", "refined"]
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=4, frameon=False, labelcolor=colours.ink,
        fontsize=8, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip


def as_svg(name: str, draw: Callable[[Figure, Palette], None], *, size: tuple[float, float], label: str) -> str:
    """Return one <svg> without ids that clash, fonts, links or fixed size, its colours bound to CSS variables."""
    text = render(lambda figure: draw(figure, _MARKED), size, kind="svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text, count=2)
    text = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>',
        rf'<svg role="img" aria-labelledby="{name}-title" viewBox="\1" stroke-linejoin="round">',
        text,
        count=1,
    )
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # would hold for the whole page
    text = text.replace("xlink:href", "href").replace("'DejaVu Sans'", "inherit")
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    for field, colour in zip(Palette._fields, _MARKED, strict=True):
        text = text.replace(colour, f"var(--{field})")
    title = clean(label).replace("&", "&amp;").replace("<", "&lt;")
    return text.replace(">", f'><title id="{name}-title">{title}</title>', 1)


def render(draw: Callable[[Figure], None], size: tuple[float, float], *, kind: str) -> bytes:
    """Draw a figure of a size in inches and return it as `svg` or `png`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with _DRAWING, mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        file = io.BytesIO()
        if kind == "svg":
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        else:
            figure.savefig(file, format="png", dpi=100, facecolor=LIGHT.ground)
    return file.getvalue()
