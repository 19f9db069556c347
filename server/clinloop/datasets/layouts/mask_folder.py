"""Mask folder: images and, beside or parallel to them, mask images with the same names or names that end in _mask, _segmentation, ….

Traps that datasets have: masks of 0/1, 0/255, JPEG or soft edges; several masks an image (their union counts); several kinds of masks (an outline
and a field of view); images without a mask (unknown, not empty); class folders that hold both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from clinloop.datasets.case import Case, Detection, LayoutOptions, LayoutResult, MaskFile
from clinloop.datasets.layouts.documents import split_in_folders
from clinloop.datasets.layouts.faults import Faults
from clinloop.datasets.layouts.folder import SPLIT_NAMES, ExcludedTally, Folder, listed
from clinloop.datasets.layouts.mask_pairs import MASK_WORDS, Pair, pair_masks
from clinloop.datasets.layouts.masked import MaskedImages, look_at, segmentation_result, union, values_of
from clinloop.datasets.layouts.sidecar import Rows
from clinloop.errors import BadInput

_NOT_TARGETS = MASK_WORDS | {"ground", "truth", "input", "image", "images", "data", "dataset", "task", "part", "png", "jpg", "tif", "binary", "class", "final", *SPLIT_NAMES}  # fmt: skip
_NOT_CLASSES = re.compile(
    r"images?|imgs?|inputs?|originals?|data|.*_(images?|input|jpe?g|png)|(cxr|jpe?g|png|tiff?|bmp)(_.*)?", re.IGNORECASE
)
_MAX_FOLDERS = 20


class MaskFolder:
    """The layout `mask_folder`."""

    name = "mask_folder"
    looks_for = (
        "images and masks with the same names, in folders such as images/ and masks/, or with names that end in _mask"
    )

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for images that pair with others whose names or folders are those of masks and that look like masks."""
        pairs, unpaired = pair_masks(folder)
        if not pairs:
            return Detection(0.0, "no image has a mask of its name")
        if len(unpaired) > len(pairs):
            return Detection(
                0.0, f"only {len(pairs)} of {len(pairs) + len(unpaired)} mask files have an image of their name"
            )
        sample = [look for pair in pairs[:: max(1, len(pairs) // 6)] if (look := look_at(folder.root / pair.mask))]
        if sum(look.is_mask for look in sample) * 2 < len(sample):
            return Detection(0.0, "files that are named like masks are pictures")
        return Detection(0.85, f"{len(pairs)} images with masks")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; of several kinds of masks `label_column` chooses one. Splits come from folders called train, val and test.

        A table that names the images gives groups and attributes, else the file names give groups.
        """
        if (found := self.detect(folder, options)).score == 0:
            raise BadInput(f"This is not the layout mask_folder: {found.reason}; it needs {self.looks_for}.")
        every, unpaired = pair_masks(folder)
        pairs, kind = _of_one_kind(every, options.label_column)
        tally, faults, notes, cases = ExcludedTally(), Faults(), list[str](), list[Case]()
        values = values_of(folder.root, [pair.mask for pair in pairs], notes)
        by_image: dict[str, list[str]] = {}
        for pair in pairs:
            by_image.setdefault(pair.image, []).append(pair.mask)
        for image, masks in sorted(by_image.items()):
            mask = MaskFile(masks[0], values) if len(masks) == 1 else union(folder.root, masks, values)
            if mask is None:
                faults.add("masks of one image that cannot be read or differ in size", ", ".join(masks))
            cases.append(Case(image, "", None, split_in_folders(image), mask=mask))
        faults.refuse()
        if any(len(masks) > 1 for masks in by_image.values()):
            notes.append("Several masks of one image count as one: their union.")
        for name in unpaired:
            tally.add("a mask without an image", name)
        masks = {pair.mask for pair in every} | set(unpaired)
        for name in sorted(set(folder.images) - masks - by_image.keys()):
            tally.add("an image without a mask", name, split_in_folders(name))
        target = _target(kind, pairs)
        return segmentation_result(folder, options, MaskedImages(cases, target, tally, notes, _class_folders(by_image)))


def _of_one_kind(pairs: list[Pair], wanted: str | None) -> tuple[list[Pair], str]:
    """Return the pairs of the kind asked for, or of the only one there is.

    Raises:
        BadInput: there are several kinds, or none of that name.
    """
    of_image: dict[str, set[str]] = {}
    for pair in pairs:
        of_image.setdefault(pair.image, set()).add(pair.kind)
    kinds = sorted({pair.kind for pair in pairs})
    if wanted is not None:
        kept = [pair for pair in pairs if pair.kind.casefold() == wanted.casefold()]
        if not kept:
            raise BadInput(f"There are no masks of the kind {wanted!r}; there are {listed(kinds, 20)}.")
        return kept, kept[0].kind
    if any(len(found) > 1 for found in of_image.values()):
        raise BadInput(f"Images have masks of several kinds ({listed(kinds, 20)}); choose one as the label column.")
    return pairs, kinds[0] if len(kinds) == 1 else ""


def _target(kind: str, pairs: list[Pair]) -> str:
    """Return what the masks show, if their folder or the ending of their names says so."""
    endings = {pair.ending for pair in pairs} - {""}
    for text in (kind, *(endings if len(endings) == 1 else ())):
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
        words = [
            word for word in re.split(r"[ _.-]+", spaced.casefold()) if word.isalpha() and word not in _NOT_TARGETS
        ]
        if len(words) == 1 and len(words[0]) >= 4:
            return words[0]
    return "target"


def _class_folders(images: Iterable[str]) -> Rows:
    """Return the folder of every image as an attribute where folders are named like classes (benign/, malignant/)."""
    found = {name: PurePosixPath(name).parent.name for name in images}
    names = set(found.values())
    if not 2 <= len(names) <= _MAX_FOLDERS or any(
        not name or name.casefold() in SPLIT_NAMES or _NOT_CLASSES.fullmatch(name) for name in names
    ):
        return {}
    return {name: {"folder": folder} for name, folder in found.items()}
