"""Images with mask files turned into the cases of a segmentation dataset: which pixel values mean the target, which masks are empty."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from clinloop.datasets.case import Case, LayoutOptions, LayoutResult, MaskFile, MaskRuns
from clinloop.datasets.layouts.boxed import classes_of
from clinloop.datasets.layouts.faults import Faults, refuse_each
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, clean_class, duplicates
from clinloop.datasets.layouts.sidecar import Rows, describe

FEW_VALUES = 16
"""A mask of more values than this has soft edges: its values are shades, not names."""
_SAMPLE = 24


@dataclass(frozen=True)
class MaskedImages:
    """Images with masks, as a layout found them."""

    cases: list[Case]
    """With mask, without label, group and attributes."""
    target: str
    tally: ExcludedTally
    notes: list[str]
    own: Rows | None = None
    """What the layout itself says of each image."""


class MaskLook(NamedTuple):
    """What a mask image looks like."""

    values: tuple[int, ...]
    """The distinct values, ascending, at most FEW_VALUES + 1 of them."""
    extreme: float
    """Share of the pixels that are nearly black or nearly white."""
    covered: float
    """Share of the pixels that are not 0 (of shades: above half)."""

    @property
    def is_mask(self) -> bool:
        """Tell whether it is a mask rather than a picture."""
        return len(self.values) <= FEW_VALUES or self.extreme >= 0.9


def segmentation_result(folder: Folder, options: LayoutOptions, found: MaskedImages) -> LayoutResult:
    """Return the result of a layout whose truth are masks; the classes are "no <target>" and "<target>".

    Raises:
        BadInput: a mask cannot be read; the notes name it.
    """
    problems: list[str] = []
    refuse_each(duplicates(case.source for case in found.cases), "an image with several masks (keep one)")
    target = clean_class(found.target) or "target"
    known = describe(folder, [case.source for case in found.cases], options, found.own)
    shown = _which_show(folder.root, found.cases)
    cases = [
        replace(
            case,
            label=target if is_shown else f"no {target}",
            group=known.groups[case.source],
            attributes=known.values[case.source],
        )
        for case, is_shown in zip(found.cases, shown, strict=True)
    ]
    if cases and not any(shown):
        problems.append("All masks are empty; at least one must show something.")
    return LayoutResult(
        cases=cases,
        classes=classes_of([target], {case.label for case in cases}),
        group_kind=known.group_kind,
        attributes=known.attributes,
        excluded=found.tally.result(),
        problems=problems,
        notes=[*found.notes, *known.notes],
        task_type="segmentation",
        targets=[target],
    )


def values_of(root: Path, masks: Sequence[str], notes: list[str]) -> tuple[int, ...]:
    """Return the pixel values that mean the target in masks of which nothing else is known, () for every value but 0, and note the choice."""
    looks = [look for name in masks[:: max(1, len(masks) // _SAMPLE)] if (look := look_at(root / name)) is not None]
    values = sorted({value for look in looks for value in look.values})
    if looks and np.median([look.covered for look in looks]) > 0.9:
        notes.append(
            "Most masks cover nearly the whole image; if black means the target, invert them and add the folder again."
        )
    if any(len(look.values) > FEW_VALUES for look in looks):
        notes.append("The masks have shades of gray; those from the middle up count as the target.")
        return tuple(range(128, 256))
    if len(values) > 2:
        notes.append(
            f"The masks have the values {', '.join(map(str, values[:20]))}; every value but 0 counts as the target."
        )
    return ()


def look_at(path: Path) -> MaskLook | None:
    """Return what a mask looks like, None if it cannot be read."""
    pixels = _pixels(path)
    if pixels is None or not pixels.size:
        return None
    values = np.unique(pixels)
    is_soft = len(values) > FEW_VALUES
    top = 255 if pixels.dtype == np.uint8 or int(values[-1]) <= 255 else int(values[-1])
    extreme = ((pixels < top / 8) | (pixels > top * 7 / 8)).mean()
    covered = (pixels > top / 2 if is_soft else pixels != 0).mean()
    return MaskLook(tuple(int(value) for value in values[: FEW_VALUES + 1]), float(extreme), float(covered))


def union(root: Path, masks: Sequence[str], values: tuple[int, ...]) -> MaskRuns | None:
    """Return several masks of one image as one, None if one cannot be read or they differ in size."""
    arrays = [_target(root / name, values) for name in masks]
    shapes = {array.shape for array in arrays if array is not None}
    if len(shapes) != 1 or any(array is None for array in arrays):
        return None
    whole = np.logical_or.reduce([array for array in arrays if array is not None])
    flat = np.concatenate([[False], whole.T.reshape(-1), [False]])  # down the columns, left to right
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return MaskRuns(tuple((int(start), int(end - start)) for start, end in zip(edges[::2], edges[1::2], strict=True)))


def _which_show(root: Path, cases: Sequence[Case]) -> list[bool]:
    """Tell for every mask whether it shows something; decoding releases the interpreter, so threads help."""

    def shows(case: Case) -> bool | None:
        match case.mask:
            case MaskFile(source, values):
                target = _target(root / source, values)
                return None if target is None else bool(target.any())
            case MaskRuns(spans):
                return bool(spans)
            case None:
                return False

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        answers = list(pool.map(shows, cases))
    faults = Faults()
    for case, answer in zip(cases, answers, strict=True):
        if answer is None:
            assert isinstance(case.mask, MaskFile)
            faults.add("a mask that cannot be read", case.mask.source)
    faults.refuse()
    return [bool(answer) for answer in answers]


def _target(path: Path, values: tuple[int, ...]) -> npt.NDArray[np.bool_] | None:
    """Return where a mask shows the target, (height, width); None if it cannot be read. JPEG edges ring, so there from the middle up."""
    pixels = _pixels(path)
    if pixels is None:
        return None
    if values:
        return np.isin(pixels, values)
    return pixels > 127 if path.suffix.lower() in {".jpg", ".jpeg"} else pixels != 0


def _pixels(path: Path) -> npt.NDArray[np.int32] | None:
    """Return the values of a mask, (height, width): of colours the largest, of a palette the index; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            if image.mode in {"LA", "PA"}:
                image = image.getchannel(0)  # noqa: PLW2901  # what follows is the same for both
            elif image.mode == "RGBA":
                image = image.convert("RGB")  # noqa: PLW2901
            pixels = np.asarray(image)
    except Exception:  # decoders raise anything on malformed input; the caller says which file it is
        return None
    if pixels.ndim == 3:
        pixels = pixels.max(axis=2)
    whole = pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels
    return cast("npt.NDArray[np.int32]", whole)  # of whatever width the file has: one name for all of them
