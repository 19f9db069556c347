"""Annotated images turned into the cases of a detection dataset: image-level labels from boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from clinloop.datasets.case import Box, Case, LayoutOptions, LayoutResult
from clinloop.datasets.layouts.faults import Faults, refuse_each
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, clean_class, duplicates, listed
from clinloop.datasets.layouts.sidecar import Rows, describe
from clinloop.errors import BadInput

__all__ = ["BACKGROUND", "BoxedImages", "Faults", "box_around", "classes_of", "detection_result"]

BACKGROUND = "background"


@dataclass(frozen=True)
class BoxedImages:
    """Images with boxes, as an annotation format tells of them."""

    cases: list[Case]
    """With boxes, without label, group and attributes."""
    targets: list[str]
    """Names in the publisher's order; those without a box are left out of the result."""
    tally: ExcludedTally
    notes: list[str]
    own: Rows | None = None
    """What the annotation file says of each image beside its boxes."""
    use_tables: bool = True
    """A table that names the images tells of them too."""


def detection_result(folder: Folder, options: LayoutOptions, found: BoxedImages) -> LayoutResult:
    """Return the result of a layout whose truth are boxes.

    With one target the classes are "no <target>" and "<target>"; with several the label is the most frequent target of the image,
    "background" where it was looked at and is empty.

    Raises:
        BadInput: an option is not of use here, or an image is annotated twice.
    """
    if options.label_column:
        raise BadInput("The labels of this layout come from its boxes; leave the label column out.")
    problems: list[str] = []
    notes = list(found.notes)
    refuse_each(
        duplicates(case.source for case in found.cases), "an image that is annotated in more than one place (keep one)"
    )
    used = {box.target for case in found.cases for box in case.boxes or ()}
    if unused := [name for name in found.targets if name not in used]:
        notes.append(f"Targets without a box are left out: {listed(unused, 20)}.")
    names = {name: clean_class(name) for name in found.targets if name in used}
    targets = list(names.values())
    if not used:
        problems.append("No image has a box; at least one is needed.")
    if len(set(targets)) < len(targets) or not all(targets) or (len(targets) > 1 and BACKGROUND in targets):
        problems.append(
            f'Two targets have the same name, one has none, or one is called "{BACKGROUND}"; rename it in the annotations.'
        )
    known = describe(folder, [case.source for case in found.cases], options, found.own, use_tables=found.use_tables)
    cases = [
        replace(
            case,
            label=_label(case.boxes or (), found.targets, names),
            group=known.groups[case.source],
            attributes=known.values[case.source],
            boxes=tuple(box._replace(target=names[box.target]) for box in case.boxes or ()),
        )
        for case in found.cases
    ]
    return LayoutResult(
        cases=cases,
        classes=classes_of(targets, {case.label for case in cases}),
        group_kind=known.group_kind,
        attributes=known.attributes,
        excluded=found.tally.result(),
        problems=problems,
        notes=[*notes, *known.notes],
        task_type="detection",
        targets=targets,
    )


def classes_of(targets: Sequence[str], labels: set[str]) -> list[str]:
    """Return the image-level classes in their order: of one target both, of several those that an image has."""
    if len(targets) == 1:
        return [f"no {targets[0]}", targets[0]]
    return [name for name in (BACKGROUND, *targets) if name in labels]


def box_around(points: Sequence[tuple[float, float]], target: str) -> Box:
    """Return the smallest upright box that holds some points."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return Box(target, min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def _label(boxes: Sequence[Box], order: Sequence[str], names: dict[str, str]) -> str:
    if len(names) == 1:
        (target,) = names.values()
        return target if boxes else f"no {target}"
    if not boxes:
        return BACKGROUND
    counts = Counter(box.target for box in boxes)
    return names[min(counts, key=lambda name: (-counts[name], order.index(name)))]
