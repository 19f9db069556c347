"""Figures of an analysis as inline SVG: ROC, precision-recall or FROC, calibration, decision curves, and subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from clinloop.report.figures import Palette, as_svg, legend, style
from clinloop.report.text import short
from clinloop.scoring.analysis import Calibration, Curve, DecisionCurve, Subgroup
from clinloop.untrusted import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS: Final = 4
"""Small panels side by side."""
MAX_SUBGROUPS: Final = 26
"""Rows of the figure of subgroups; the table has all."""
_AXES: Final = {
    "froc": ("false marks per image", "boxes found"),
    "roc": ("1 − specificity (false alarms)", "sensitivity"),
    "precision_recall": ("recall (sensitivity)", "precision (PPV)"),
}
_TITLES: Final = {"froc": "FROC of boxes", "roc": "ROC", "precision_recall": "Precision and recall"}
MOST_FALSE_MARKS: Final = 8.0
"""Right end of a FROC curve: the largest rate of LUNA16 (Setio et al. 2017); more false marks are of no use."""


def curves_svg(name: str, curves: Sequence[Curve], shares: Mapping[str, float]) -> str:
    """Draw the curves of one class side by side; `shares` is the share of each class, where a precision-recall curve of guessing lies."""
    kinds = _kinds(curves)

    def draw(figure: Figure, colours: Palette) -> None:
        for index, kind in enumerate(kinds):
            axes = figure.add_subplot(1, len(kinds), index + 1)
            of_kind = [curve for curve in curves if curve.kind == kind]
            _curve_panel(axes, colours, of_kind, shares.get(of_kind[0].name))
            axes.set_xlabel(_AXES[kind][0])
            axes.set_ylabel(_AXES[kind][1])
            unit = "" if "froc" not in kinds or kind == "froc" else " of images" if kind == "roc" else " of boxes"
            axes.set_title(_TITLES[kind] + unit, color=colours.ink, fontsize=9, loc="left")
            if index == 0:
                _model_legend(figure, colours)

    what = clean(curves[0].name, cap=40)
    return as_svg(name, draw, size=(7.4, 3.7 if len(kinds) < 3 else 3.1), label=f"Curves of {what}")


def curve_panels_svg(name: str, curves: Sequence[Curve], shares: Mapping[str, float]) -> str:
    """Draw the curves of several classes as small panels: a column for each class, a row for each kind of curve."""
    kinds, names = _kinds(curves), list(dict.fromkeys(curve.name for curve in curves))
    blocks = [names[start : start + COLUMNS] for start in range(0, len(names), COLUMNS)]
    rows = len(blocks) * len(kinds)

    def draw(figure: Figure, colours: Palette) -> None:
        for block, members in enumerate(blocks):
            for line, kind in enumerate(kinds):
                for column, member in enumerate(members):
                    place = (block * len(kinds) + line) * COLUMNS + column + 1
                    axes = figure.add_subplot(rows, COLUMNS, place)
                    found = [curve for curve in curves if curve.name == member and curve.kind == kind]
                    if not found:
                        axes.set_axis_off()
                        continue
                    _curve_panel(axes, colours, found, shares.get(member))
                    _small(axes, colours, clean(member, cap=18) if line == 0 else "")
                    if column == 0:
                        axes.set_ylabel(_AXES[kind][1], fontsize=8)
                    axes.set_xlabel(_AXES[kind][0].split(" (")[0], fontsize=8)
        _model_legend(figure, colours)

    return as_svg(name, draw, size=(7.4, 0.3 + 1.95 * rows), label=f"Curves of {len(names)} further classes")


def calibration_svg(name: str, calibrations: Sequence[Calibration]) -> str:
    """Draw what happened over what was said for one class, and below how often each probability was said."""

    def draw(figure: Figure, colours: Palette) -> None:
        left, right = figure.subplots(1, 2)
        _calibration_panel(left, colours, calibrations)
        left.set_box_aspect(1)
        left.set_xlabel("probability that the model states")
        left.set_ylabel("share that has it")
        style(right, colours, grid="y")
        for item in calibrations:
            width = 0.42 * (item.bins[0].high - item.bins[0].low) if item.bins else 0.04
            shift = -0.5 * width if item.model == "initial" else 0.5 * width
            middles = [(one.low + one.high) / 2 + shift for one in item.bins]
            right.bar(middles, [one.n for one in item.bins], width=width, color=getattr(colours, item.model))
        right.set_box_aspect(1)
        right.set_xlim(0, 1)
        right.set_xlabel("probability that the model states")
        right.set_ylabel("cases")
        right.locator_params(axis="y", nbins=5)
        _model_legend(figure, colours)

    what = clean(calibrations[0].name, cap=40)
    return as_svg(name, draw, size=(7.4, 3.7), label=f"Calibration for {what}")


def calibration_panels_svg(name: str, calibrations: Sequence[Calibration]) -> str:
    """Draw the calibration of several classes as small panels."""
    names = list(dict.fromkeys(item.name for item in calibrations))
    rows = -(-len(names) // COLUMNS)

    def draw(figure: Figure, colours: Palette) -> None:
        for place, member in enumerate(names):
            axes = figure.add_subplot(rows, COLUMNS, place + 1)
            _calibration_panel(axes, colours, [item for item in calibrations if item.name == member])
            _small(axes, colours, clean(member, cap=18))
            if place % COLUMNS == 0:
                axes.set_ylabel("share", fontsize=8)
            axes.set_xlabel("probability", fontsize=8)
        _model_legend(figure, colours)

    return as_svg(name, draw, size=(7.4, 0.3 + 1.95 * rows), label=f"Calibration of {len(names)} further classes")


def decision_svg(name: str, curve: DecisionCurve) -> str:
    """Draw the net benefit of acting on each model, on everybody and on nobody, by threshold probability."""

    def draw(figure: Figure, colours: Palette) -> None:
        axes = figure.add_subplot()
        _decision_panel(axes, colours, curve)
        axes.set_xlabel("threshold probability from which one would act")
        axes.set_ylabel("net benefit")
        legend(axes, colours)

    return as_svg(name, draw, size=(7.4, 3), label=f"Decision curve for {clean(curve.name, cap=40)}")


def decision_panels_svg(name: str, curves: Sequence[DecisionCurve]) -> str:
    """Draw the decision curves of several classes as small panels."""
    rows = -(-len(curves) // COLUMNS)

    def draw(figure: Figure, colours: Palette) -> None:
        for place, curve in enumerate(curves):
            axes = figure.add_subplot(rows, COLUMNS, place + 1)
            _decision_panel(axes, colours, curve)
            axes.set_title(clean(curve.name, cap=18), color=colours.ink, fontsize=8.5, loc="left")
            axes.locator_params(nbins=3)
            axes.tick_params(labelsize=7.5)
            axes.set_xlabel("threshold", fontsize=8)
            if place % COLUMNS == 0:
                axes.set_ylabel("net benefit", fontsize=8)
        _model_legend(figure, colours)

    return as_svg(name, draw, size=(7.4, 0.3 + 1.7 * rows), label=f"Decision curves of {len(curves)} further classes")


def subgroups_svg(name: str, subgroups: Sequence[Subgroup], title: str) -> str | None:
    """Draw one metric, called `title`, in every subgroup before and after with intervals; None where no subgroup has a number."""
    rows = [group for group in subgroups if group.refined.value is not None or group.initial.value is not None]
    rows = rows[:MAX_SUBGROUPS]
    if not rows:
        return None

    def draw(figure: Figure, colours: Palette) -> None:
        axes = figure.add_subplot()
        style(axes, colours, grid="x")
        place, places, labels = 0.0, list[float](), list[str]()
        before = rows[0].attribute
        for group in rows:
            if group.attribute != before:
                place, before = place + 0.6, group.attribute
            places.append(place)
            labels.append(f"{clean(group.attribute, cap=20)} = {clean(group.value, cap=20)}  (n = {group.n:,})")
            for model, offset in ((group.initial, -0.16), (group.refined, 0.16)):
                refined = model is group.refined
                colour = colours.refined if refined else colours.initial
                if model.low is not None and model.high is not None:
                    axes.plot([model.low, model.high], [place + offset] * 2, color=colour, linewidth=1.5)
                if model.value is not None:
                    face = colour if refined else colours.ground
                    axes.plot([model.value], [place + offset], "o", color=colour, markerfacecolor=face, markersize=5.5)
            place += 1
        axes.set_yticks(places, labels, fontsize=8)
        axes.set_ylim(places[-1] + 0.6, -0.6)
        axes.set_xlabel(f"{clean(short(title), cap=60)}, 95 % interval")
        _model_legend(figure, colours)

    attributes = len({group.attribute for group in rows})
    size = (7.4, 1.0 + 0.34 * len(rows) + 0.2 * attributes)
    return as_svg(name, draw, size=size, label="Subgroups, initial and refined")


def _kinds(curves: Sequence[Curve]) -> list[str]:
    found = {curve.kind for curve in curves}
    return [kind for kind in _AXES if kind in found]


def _curve_panel(axes: Axes, colours: Palette, curves: Sequence[Curve], share: float | None) -> None:
    """Draw one kind of curve of one class for both models, the operating points marked, and guessing as dots."""
    style(axes, colours, grid="both")
    kind = curves[0].kind
    if kind == "roc" or (kind == "precision_recall" and share is not None):
        ends = (0.0, 1.0) if kind == "roc" else (share or 0.0, share or 0.0)
        axes.plot((0, 1), ends, color=colours.muted, linewidth=0.8, linestyle=(0, (2, 3)))
    for curve in sorted(curves, key=lambda curve: curve.model):
        refined = curve.model == "refined"
        colour = colours.refined if refined else colours.initial
        axes.plot(curve.x, curve.y, color=colour, linewidth=1.9 if refined else 1.0)
        if curve.at is not None:
            face = colour if refined else colours.ground
            axes.plot(
                [curve.at[0]], [curve.at[1]], "o", color=colour, markerfacecolor=face, markersize=6.5, clip_on=False,
                zorder=5,
            )  # fmt: skip
    axes.set_ylim(0, 1.02)
    if kind == "froc":
        axes.set_xlim(0, min(MOST_FALSE_MARKS, max([0.5, *(curve.x[-1] for curve in curves if curve.x)])) * 1.02)
        axes.set_box_aspect(1)
    else:
        axes.set_xlim(-0.01, 1.01)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.set_box_aspect(1)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])


def _decision_panel(axes: Axes, colours: Palette, curve: DecisionCurve) -> None:
    style(axes, colours, grid="y")
    axes.axhline(0, color=colours.muted, linewidth=1, label="nobody")
    axes.plot(curve.thresholds, curve.all, color=colours.muted, linewidth=1, linestyle=(0, (3, 2)), label="everybody")
    axes.plot(curve.thresholds, curve.initial, color=colours.initial, linewidth=1.2, label="initial")
    axes.plot(curve.thresholds, curve.refined, color=colours.refined, linewidth=1.8, label="refined")
    top = max([0.01, *curve.initial, *curve.refined, *curve.all[:1]])
    axes.set_ylim(-0.25 * top, 1.12 * top)
    axes.set_xlim(0, max([*curve.thresholds, 0.1]))


def _calibration_panel(axes: Axes, colours: Palette, calibrations: Sequence[Calibration]) -> None:
    style(axes, colours, grid="both")
    axes.plot((0, 1), (0, 1), color=colours.muted, linewidth=0.8, linestyle=(0, (2, 3)))
    for item in sorted(calibrations, key=lambda item: item.model):
        refined = item.model == "refined"
        colour = colours.refined if refined else colours.initial
        points = [(one.mean_probability, one.share) for one in item.bins if one.n and one.share is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True), "o-", color=colour, markerfacecolor=colour if refined else colours.ground,
                linewidth=1.8 if refined else 1.0, markersize=4.5,
            )  # fmt: skip
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.02, 1.02)


def _small(axes: Axes, colours: Palette, title: str) -> None:
    axes.set_title(title, color=colours.ink, fontsize=8.5, loc="left")
    axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=7.5) if axes.get_xlim()[1] < 1.1 else None
    axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=7.5)
    axes.tick_params(labelsize=7.5)


def _model_legend(figure: Figure, colours: Palette) -> None:
    """Name both models above everything: hollow and thin is the initial one."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colours.initial, marker="o", markerfacecolor=colours.ground, linewidth=1.0, markersize=6),
        Line2D([], [], color=colours.refined, marker="o", linewidth=1.9, markersize=6),
    ]
    figure.legend(
        handles, ["initial", "refined"], loc="outside upper left", ncols=2, frameon=False, labelcolor=colours.ink,
        fontsize=8, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip
