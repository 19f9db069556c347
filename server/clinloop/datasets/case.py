"""What a layout yields: cases, and what it left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from clinloop.datasets.layouts.folder import Folder

Split = Literal["train", "val", "test"]
Supervision = Literal["mask", "box", "image", "none"]
TaskType = Literal["classification", "detection", "segmentation"]


class Box(NamedTuple):
    """A box around a target, in pixels of its image as it is shown (EXIF orientation applied): origin top left, (x, y) is the upper left
    corner, as in COCO."""

    target: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask as an image file, of the size of its image as it is shown (or, beside a turned photograph, as it is in the file)."""

    source: str
    """Path below the root."""
    values: tuple[int, ...] = ()
    """Pixel values that mean the target; () = every value but 0."""


@dataclass(frozen=True, slots=True)
class MaskRuns:
    """A mask as runs of pixels of an image of the case's own size as it is shown; no run = annotated, and empty."""

    spans: tuple[tuple[int, int], ...]
    """(start, length) with start counted from 0 down the columns, left to right; spans may overlap: their union counts."""


@dataclass(frozen=True, slots=True)
class Case:
    """One image with its label, as its publisher stored it."""

    source: str
    """Path of the image below the root, with forward slashes; also the identity of the case. Inside an archive of arrays: `file.npz#name/12`."""
    label: str
    """Image-level label. Where boxes or masks are the truth: whether (or what) they show."""
    group: str | None = None
    """Raw group name (patient, lesion, …); None = a group of its own."""
    split: Split | None = None
    """The publisher's split, None where there is none."""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Attribute name to text; "" = missing."""
    boxes: tuple[Box, ...] | None = None
    """None = nobody drew boxes here; () = looked at, and there is nothing."""
    mask: MaskFile | MaskRuns | None = None
    """None = nobody drew a mask here."""

    @property
    def supervision(self) -> Supervision:
        """The strongest kind of truth that the case has."""
        if self.mask is not None:
            return "mask"
        if self.boxes is not None:
            return "box"
        return "image" if self.label else "none"


@dataclass(frozen=True, slots=True)
class Excluded:
    """Rows or files that did not become cases."""

    reason: str
    count: int
    split: Split | None
    """The publisher's split of what was left out; what concerns test is shown to the custodian only."""
    examples: tuple[str, ...] = ()
    """Some names, for the custodian only."""


@dataclass(frozen=True, slots=True)
class Detection:
    """How well a folder fits a layout."""

    score: float
    """0 = does not fit, 1 = certainly this layout."""
    reason: str
    """What was found, or what was looked for and is missing; file and column names, no host path."""


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """What the custodian may say about a folder; each layout says in `read` how it uses them."""

    group_by: str | None = None
    """Column of the group (or, for class folders, a regular expression with one group on the file name); "none" = every image
    is its own group; None = what the layout knows."""
    image_column: str | None = None
    label_column: str | None = None
    attributes: tuple[str, ...] | None = None
    """Columns that become attributes; None = what the layout finds fit."""


@dataclass(frozen=True, slots=True)
class LayoutResult:
    """A folder as cases."""

    cases: list[Case]
    classes: list[str]
    """In their canonical order; predictions have one column each in this order."""
    group_kind: str
    """What a group is: patient, lesion, folder, …; "image" = there are no groups."""
    attributes: list[str]
    excluded: list[Excluded]
    problems: list[str]
    """Reasons to refuse the folder, each with what to do."""
    notes: list[str]
    """Choices that were made, in plain words and without file names."""
    task_type: TaskType = "classification"
    """The task that the strongest truth allows."""
    targets: list[str] = field(default_factory=list[str])
    """What boxes or masks show, in canonical order; masks have one target."""


class Layout(Protocol):
    """A public on-disk form of datasets."""

    @property
    def name(self) -> str:
        """Name on the command line."""
        ...

    @property
    def looks_for(self) -> str:
        """What a folder of this layout holds, for the text of a refusal."""
        ...

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Say how well a folder fits, from names and a few rows only."""
        ...

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases of a folder.

        Raises:
            BadInput: the folder does not have this layout, or an option names what it does not have.
        """
        ...
