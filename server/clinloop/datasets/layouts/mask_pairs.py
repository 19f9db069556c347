"""Which image a mask belongs to, told by the names of files and folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from clinloop.datasets.layouts.columns import ImageFinder
from clinloop.datasets.layouts.folder import Folder

MASK_WORDS = frozenset({"mask", "masks", "gt", "groundtruth", "groundtruths", "annotation", "annotations", "label", "labels", "segmentation",
                        "segmentations", "segmentationclass", "seg", "segs", "segmap", "manual", "manualmask"})  # fmt: skip

_KIND = r"mask|masks|seg|segm|segmentation|gt|ground[_-]?truth|label|labels|annotation|manual"
_NUMBER = r"[ _-]?\(?\d{0,3}\)?$"
_ENDINGS = (
    re.compile(rf"^(?P<base>.+)[ _.-]+(?P<kind>{_KIND}|lesion){_NUMBER}", re.IGNORECASE),
    re.compile(rf"^(?P<base>.+)[ _.-]+(?P<kind>[a-z]+[ _-](?:{_KIND})){_NUMBER}", re.IGNORECASE),
    re.compile(r"^(?P<kind>mask|seg|label|gt)[ _-]+(?P<base>.+)$", re.IGNORECASE),
)
_OF_IMAGES = re.compile(r"[ _-](image|img|original|training|test|input)$", re.IGNORECASE)
_IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "original", "originals", "input", "inputs"})


class Pair(NamedTuple):
    """A mask and its image."""

    image: str
    mask: str
    kind: str
    """What distinguishes masks of several kinds: the folder of masks, else the ending of the name."""
    ending: str
    """What the name of the mask has beside that of the image, "" if nothing."""


def pair_masks(folder: Folder) -> tuple[list[Pair], list[str]]:
    """Return which image has which masks, and the masks without image."""
    in_mask_folder = _in_mask_folders(folder.images)
    plain = [name for name in folder.images if name not in in_mask_folder]
    stems = {PurePosixPath(name).stem for name in plain}
    beside = {name for name in plain if any(base in stems for base, _ in _bases(PurePosixPath(name).stem))}
    images = [name for name in plain if name not in beside]
    finder, bare = ImageFinder(images), _without_ending(images)
    pairs: list[Pair] = []
    unpaired: list[str] = []
    for name in sorted([*in_mask_folder, *beside]):
        path = PurePosixPath(name)
        named = [(path.stem, ""), *_bases(path.stem)]
        found = next(
            ((image, ending) for base, ending in named if (image := finder.nearest(path, base) or bare.get(base))), None
        )
        if found is None:
            unpaired.append(name)
        else:
            image, ending = found
            pairs.append(Pair(image, name, in_mask_folder.get(name) or ending, ending))
    return pairs, unpaired


def _in_mask_folders(images: Sequence[str]) -> dict[str, str]:
    """Return the folder named like one of masks that a file lies in, for those that do.

    Only a folder counts that lies beside something else: in "Lung Segmentation/masks" the outer name is that of the dataset.
    """
    paths = [PurePosixPath(name).parts for name in images]
    shared = {
        parts[:at] for parts in paths for at, part in enumerate(parts) if at == len(parts) - 1 or not _is_of_masks(part)
    }
    found: dict[str, str] = {}
    for name, parts in zip(images, paths, strict=True):
        for at in range(len(parts) - 2, -1, -1):
            if parts[at].casefold() in _IMAGE_FOLDERS:
                break
            if _is_of_masks(parts[at]) and parts[:at] in shared:
                found[name] = parts[at]
                break
    return found


def _is_of_masks(part: str) -> bool:
    words = re.split(r"[^a-z]+", part.casefold())
    letters = "".join(words)
    return "groundtruth" in letters or letters in MASK_WORDS or not MASK_WORDS.isdisjoint(words)


def _bases(stem: str) -> Iterator[tuple[str, str]]:
    """Yield the names of images that the name of a mask may hold, the longest first, and what is added to each."""
    for ending in _ENDINGS:
        if found := ending.match(stem):
            yield found["base"], found["kind"].casefold()


def _without_ending(images: Iterable[str]) -> dict[str, str]:
    """Return images by their name without _image, _training, …."""
    stems = {name: PurePosixPath(name).stem for name in images}
    return {bare: name for name, stem in stems.items() if (bare := _OF_IMAGES.sub("", stem)) != stem}
