"""What an ingest is asked to do, and what it refuses before any work is done."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clinloop.datasets.arrays import file_of, is_inside, size_of
from clinloop.datasets.case import LayoutOptions, LayoutResult
from clinloop.datasets.decoding import MAX_PIXELS
from clinloop.datasets.layouts.folder import listed
from clinloop.datasets.layouts.sizes import shown_size
from clinloop.datasets.table import COLUMNS
from clinloop.errors import BadInput, NotNow
from clinloop.sealing import check_recipients

DEFAULT_TEST = 0.2


@dataclass(frozen=True)
class IngestOptions:
    """How a folder becomes a dataset."""

    layout: str = "auto"
    columns: LayoutOptions = field(default_factory=LayoutOptions)
    test: Literal["official"] | float | None = None
    """None = the publisher's test set if there is one, else DEFAULT_TEST of the cases."""
    val: float = 0.2
    """Fraction of the cases that are not test."""
    seed: int = 0
    cache_px: tuple[int, ...] = (64, 224)
    max_px: int = 1024
    seal: tuple[str, ...] = ()
    """age recipients to whom the test part is sealed; empty = it lies readable in the vault."""
    keep_boxes: float = 1.0
    """Share of the training cases whose boxes or masks are kept; the others keep their image-level label only."""
    on_leak: str = "refuse"
    """Cases tied to the publisher's test set: "refuse", "drop" them from training, or keep them for the reason given here."""


def check_options(root: Path, options: IngestOptions) -> None:
    """Refuse options that cannot be meant, all at once."""
    problems: list[str] = []
    if not root.is_dir():
        problems.append(
            "The path is a file, not a folder: unpack an archive first."
            if root.exists()
            else "There is no such folder."
        )
    for name, fraction in (("test", options.test), ("val", options.val)):
        if isinstance(fraction, int | float) and not 0.01 <= fraction <= 0.5:
            problems.append(f"{name} is {fraction}; a fraction from 0.01 to 0.5 is valid.")
    if not 0.001 <= options.keep_boxes <= 1:
        problems.append(f"keep_boxes is {options.keep_boxes}; a share from 0.001 to 1 is valid.")
    if not options.cache_px or not all(8 <= px <= 1024 for px in options.cache_px):
        problems.append("cache_px needs one or more sizes from 8 to 1024.")
    if not 32 <= options.max_px <= 8192:
        problems.append(f"max_px is {options.max_px}; 32 to 8192 are valid.")
    if options.on_leak not in {"refuse", "drop"} and len(options.on_leak.strip()) < 10:
        problems.append('on_leak needs "refuse", "drop" or a reason of at least 10 characters.')
    if problems:
        raise BadInput(" ".join(problems))
    check_recipients(options.seal)


def refuse_unusable(result: LayoutResult, options: IngestOptions) -> None:
    """Refuse what a layout found wrong, all at once."""
    problems = list(result.problems)
    left_out = [f"{item.count} × {item.reason}" for item in result.excluded if item.split != "test"]
    if not result.cases:
        problems.append(
            "There is no image with a label" + (f" (left out: {'; '.join(left_out)})." if left_out else ".")
        )
    elif result.task_type == "classification" and (unseen := unseen_classes(result)):
        problems.append(f"There is no training image of {listed(unseen)}.")
    if options.keep_boxes < 1 and all(case.supervision not in {"box", "mask"} for case in result.cases):
        problems.append("keep_boxes is given, but the folder has no boxes and no masks; leave it out.")
    if problems:
        raise BadInput(" ".join(problems))


def unseen_classes(result: LayoutResult) -> list[str]:
    """Return the classes without a case outside the publisher's test set."""
    seen = {case.label for case in result.cases if case.split != "test"}
    return [name for name in result.classes if name not in seen]


def test_rule(options: IngestOptions, result: LayoutResult) -> Literal["official"] | float:
    has_official = any(case.split == "test" for case in result.cases)
    if options.test == "official" and not has_official:
        raise BadInput(
            "The folder has no official test set; give the fraction of cases to set aside instead, for example 0.2."
        )
    if options.test is not None:
        return options.test
    return "official" if has_official else DEFAULT_TEST


def check_disk(root: Path, sources: Sequence[str], cache_px: Sequence[int], build: Path) -> None:
    """Refuse before an hour of work what will not fit."""
    images = sum((root / file).stat().st_size for file in {file_of(source) for source in sources})
    needed = images + len(sources) * sum(px * px * 3 for px in cache_px) + (64 << 20)
    free = shutil.disk_usage(build).free
    if needed > free:
        raise NotNow(
            f"The dataset needs about {needed / 1e9:.1f} GB, the disk of the state folder has {free / 1e9:.1f} GB free; nothing was added."
        )


def useful_cache_px(root: Path, sources: Sequence[str], wanted: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes worth caching: the smallest, and those not above twice the short side of most images (a sample is looked at)."""
    sides: list[int] = []
    for source in sources[:: max(1, len(sources) // 50)]:
        with warnings.catch_warnings(action="ignore"):
            size = size_of(str(root / source)) if is_inside(source) else shown_size(root / source)
        if size is not None:  # unreadable files get their reason from the worker that decodes them
            sides.append(min(size))
    limit = 2 * sorted(sides)[len(sides) * 9 // 10] if sides else MAX_PIXELS
    return tuple(px for px in sorted(set(wanted)) if px <= limit or px == min(wanted))


def attribute_names(names: Sequence[str]) -> dict[str, str]:
    """Return attribute columns under names that can stand beside the fixed columns of cases.csv."""
    cleaned: dict[str, str] = {}
    for name in names:
        new = re.sub(r"[^\w .+-]+", "_", name).strip()[:60] or "attribute"
        while new in COLUMNS or new in cleaned.values():
            new += "_attribute"
        cleaned[name] = new
    return cleaned
