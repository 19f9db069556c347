"""Every image of a folder on its way into the dataset: decoded, measured, and stored where its split belongs.

A dataset whose test part is sealed is read twice: which images are test is known only after all of them were compared, and no test
image may lie on the disk until then. The first pass writes nothing, the second writes each image once, test images as ciphertext.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal

from clinloop.datasets import assemble
from clinloop.datasets.audit import Ties
from clinloop.datasets.case import Case, LayoutResult, MaskFile, Split
from clinloop.datasets.pixels import BadTruth, ImageFacts, PixelJob, StoreSettings
from clinloop.datasets.sealed import SealWriter, mask_entry
from clinloop.datasets.table import CaseRow, image_folder, mask_folder
from clinloop.datasets.workers import store_all
from clinloop.errors import BadInput, NotNow, Refusal

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total); phases: reading, images, duplicates, storing (of a sealed dataset), audit, writing."""


@dataclass(frozen=True)
class Source:
    """A folder whose layout was read."""

    root: Path
    name: str
    key: bytes
    layout: str
    reason: str
    result: LayoutResult
    test: Literal["official"] | float

    def keyed(self, kind: str, identity: str) -> str:
        """Return an opaque id: 12 hex digits that say nothing without the key, and differ between datasets."""
        return hmac.digest(self.key, f"{self.name}\0{kind}\0{identity}".encode(), "sha256").hex()[:12]


@dataclass
class Item:
    """A case on its way into the dataset."""

    case: Case
    case_id: str
    folder: Path
    """Where its image lies."""
    masks: Path
    """Where its mask lies, if it has one."""
    row: int | None = None
    """Row in the caches while they are filled."""
    facts: ImageFacts | None = None
    unreadable: str = ""
    """Why the image cannot be read."""
    bad_truth: str = ""
    """Why its boxes or its mask cannot be used."""
    split: Split | None = None
    """None until split; stays None for a case that is not kept."""

    @property
    def mask_name(self) -> str:
        """Name of the file of its mask."""
        return f"{self.case_id}.png"

    @property
    def shows_target(self) -> bool:
        """Whether there is a box, or anything in the mask."""
        return self.facts is not None and (bool(self.facts.boxes) or self.facts.mask_share > 0)

    def drop_truth(self) -> None:
        """Keep the image-level label only."""
        assert self.facts
        self.case = replace(self.case, boxes=None, mask=None)
        self.facts = replace(self.facts, boxes=None, mask_sha256="", mask_share=0.0)


def identify(source: Source, build: Path, names: Mapping[str, str]) -> list[Item]:
    """Give every case its opaque id, in an order that does not depend on the file system."""
    items: list[Item] = []
    taken: set[str] = set()
    for case in sorted(source.result.cases, key=lambda case: case.source):
        split = case.split if source.test == "official" else None
        attributes = {new: case.attributes.get(old, "") for old, new in names.items()}
        candidates = (source.keyed("case", f"{case.source}\0{n}") for n in count())
        case_id = next(
            candidate for candidate in candidates if candidate not in taken
        )  # 48 bits do collide, once in 10⁶ datasets
        taken.add(case_id)
        kept = replace(case, split=split, attributes=attributes)
        hidden = (
            split if split == "test" else "val"
        )  # no mask lies where sandboxes look before it is known to be one of training
        items.append(Item(kept, case_id, image_folder(build, split or "train"), mask_folder(build, hidden)))
    return items


def measure(source: Source, items: Sequence[Item], max_px: int, progress: Progress) -> None:
    """Decode every image once and write nothing."""
    ordered = by_id(items)
    jobs = [_job(source, item) for item in ordered]
    _run(jobs, ordered, StoreSettings(max_px, (), ()), progress, "images")
    _refuse_unusable(items)


def store(source: Source, items: Sequence[Item], settings: StoreSettings, progress: Progress) -> None:
    """Decode and store every image once, in the order of the opaque ids, so that nothing on disk tells of the order of the source."""
    ordered = by_id(items)
    for row, item in enumerate(item for item in ordered if item.case.split != "test"):
        item.row = row
    _run([_job(source, item, writes=True) for item in ordered], ordered, settings, progress, "images")
    _refuse_unusable(items)


def store_measured(
    source: Source, items: Sequence[Item], settings: StoreSettings, seal: SealWriter, build: Path, progress: Progress
) -> None:
    """Store the images that were measured and split: train and val where sandboxes see them, test as ciphertext.

    Raises:
        NotNow: an image has changed since it was measured.
    """
    ordered = by_id([item for item in items if item.split is not None])
    for row, item in enumerate(item for item in ordered if item.split != "test"):
        assert item.split
        item.row, item.folder, item.masks = row, image_folder(build, item.split), mask_folder(build, item.split)
    jobs = [_job(source, item, writes=item.split != "test", wants_file=item.split == "test") for item in ordered]
    measured = [item.facts for item in ordered]
    progress("storing", 0, len(jobs))
    for done, (at, outcome) in enumerate(store_all(jobs, settings), start=1):
        before = measured[at]
        if (
            not isinstance(outcome, ImageFacts)
            or before is None
            or (outcome.file_sha256, outcome.mask_sha256) != (before.file_sha256, before.mask_sha256)
        ):
            raise NotNow("An image was changed while the folder was read; nothing was added. Add it again.")
        if ordered[at].split == "test":
            seal.add(ordered[at].case_id, outcome.file)
            if outcome.mask:
                seal.add(mask_entry(ordered[at].case_id), outcome.mask)
        progress("storing", done, len(jobs))


def place(source: Source, readable: Sequence[Item], ties: Ties, build: Path, *, sealed: bool) -> list[CaseRow]:
    """Move every image where its split belongs, remove those not kept, and return the rows in the order of the opaque ids."""
    rows: list[CaseRow] = []
    for item, root in zip(readable, ties.roots, strict=True):
        assert item.facts
        case, facts = item.case, item.facts
        image, mask = item.folder / (item.case_id + facts.suffix), item.masks / item.mask_name
        if item.split is None or not facts.mask_sha256:
            mask.unlink(missing_ok=True)
        if item.split is None:
            image.unlink(missing_ok=sealed)
            continue
        if item.split != "test" or not sealed:
            image = assemble.place_file(image, image_folder(build, item.split))
            if facts.mask_sha256:
                mask = assemble.place_file(mask, mask_folder(build, item.split))
        row = CaseRow(
            item.case_id,
            item.split,
            source.keyed("group", readable[root].case.source),
            case.label,
            case.attributes,
            image,
            facts.file_sha256,
            case.supervision,
            *facts.stored,
            boxes=facts.boxes,
            mask=mask if facts.mask_sha256 else None,
            mask_sha256=facts.mask_sha256,
        )
        rows.append(row)
    return sorted(rows, key=lambda row: row.case_id)


def by_id(items: Sequence[Item]) -> list[Item]:
    """Return items in the order of their opaque ids."""
    return sorted(items, key=lambda item: item.case_id)


def unreadable_lines(items: Sequence[Item]) -> list[str]:
    """Return which images cannot be read and why; for the custodian."""
    return [f"{item.case.source}: {item.unreadable}" for item in items if item.unreadable][:200]


def with_notes(error: Refusal, lines: Sequence[str]) -> Refusal:
    """Return a refusal with what only the custodian may read."""
    for line in lines:
        error.add_note(line)
    return error


def _job(source: Source, item: Item, *, writes: bool = False, wants_file: bool = False) -> PixelJob:
    mask = item.case.mask
    if isinstance(mask, MaskFile):
        mask = replace(mask, source=str(source.root / mask.source))
    return PixelJob(
        source=str(source.root / item.case.source),
        target=str(item.folder / item.case_id) if writes else None,
        row=item.row,
        wants_file=wants_file,
        boxes=item.case.boxes,
        mask=mask,
        mask_target=str(item.masks / item.mask_name) if writes else None,
    )


def _run(jobs: list[PixelJob], items: Sequence[Item], settings: StoreSettings, progress: Progress, phase: str) -> None:
    progress(phase, 0, len(jobs))
    for done, (at, outcome) in enumerate(store_all(jobs, settings), start=1):
        if isinstance(outcome, ImageFacts):
            items[at].facts = outcome
        elif isinstance(outcome, BadTruth):
            items[at].bad_truth = outcome.reason
        else:
            items[at].unreadable = outcome.reason
        progress(phase, done, len(jobs))


def _refuse_unusable(items: Sequence[Item]) -> None:
    """Refuse boxes and masks that do not belong to their images, and a folder of which nothing can be read."""
    bad = [item for item in items if item.bad_truth]
    if bad:
        raise with_notes(
            _truth_refusal([item.bad_truth for item in bad if item.case.split != "test"]),
            [f"{item.case.source}: {item.bad_truth}" for item in bad][:200],
        )
    if not any(item.facts for item in items):
        raise with_notes(
            BadInput(f"None of the {len(items)} images can be read; the first: {items[0].unreadable}."),
            unreadable_lines(items),
        )


def _truth_refusal(reasons: Sequence[str]) -> BadInput:
    """Return the refusal; of the publisher's test set it says no more than that something is wrong."""
    what = (
        f"Boxes or masks of {len(reasons)} image(s) do not fit"
        if reasons
        else "Boxes or masks of the official test set do not fit"
    )
    first = f"; the first: {reasons[0]}" if reasons else ""
    return BadInput(
        f"{what}{first}. Nothing was added. Correct or remove them (clinloop data add names the files): a box needs a size and lies inside its "
        "image, a mask has the size of its image."
    )
