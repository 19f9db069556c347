"""The YAML file of a YOLO dataset: names of the classes, and which images belong to which split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from clinloop.datasets.case import Split
from clinloop.datasets.layouts.columns import ImageFinder
from clinloop.datasets.layouts.documents import as_text, read_yaml, split_in_folders
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, listed
from clinloop.errors import BadInput

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


class YoloYaml(NamedTuple):
    """What the file says."""

    file: str
    names: dict[int, str]
    entries: dict[Split, list[str]]
    """Folders of images, or text files that list them, as written."""
    path: str = ""
    """The root of the dataset as its author had it."""

    def splits(self, folder: Folder, tally: ExcludedTally, notes: list[str]) -> list[tuple[str, Split | None]]:
        """Return the images of the dataset with their splits; without usable entries, every image with the split of its folders.

        Raises:
            BadInput: an image belongs to two splits.
        """
        finder, found = ImageFinder(folder.images), dict[Split, list[str]]()
        for split, entries in self.entries.items():
            found[split] = list(
                dict.fromkeys(source for entry in entries for source in self._images(entry, folder, finder))
            )
            if not found[split]:
                notes.append(f"{PurePosixPath(self.file).name} names images for {split} that are not there.")
        if found.get("val") and set(found["val"]) == set(found.get("train", [])):
            notes.append("Train and val list the same images; a validation part is drawn instead.")
            del found["val"]
        listed_images: list[tuple[str, Split | None]] = [
            (source, split) for split, sources in found.items() for source in sources
        ]
        if len({source for source, _ in listed_images}) < len(listed_images):
            raise BadInput(f"{self.file} lists an image in two splits; list each image once.")
        if not listed_images:
            return [(source, split_in_folders(source)) for source in folder.images]
        for source in sorted(set(folder.images) - {source for source, _ in listed_images}):
            tally.add(f"an image that {PurePosixPath(self.file).name} does not list", source)
        return listed_images

    def _images(self, entry: str, folder: Folder, finder: ImageFinder) -> list[str]:
        places = list(_places(entry, self.path, PurePosixPath(self.file).parent))
        if entry.casefold().endswith(".txt"):
            lists = set(folder.files(".txt"))
            name = next((place for place in places if place in lists), None)
            lines = folder.text(name).splitlines() if name else []
            return [source for line in lines if line.strip() and name and (source := _find(line.strip(), name, finder))]
        for place in places:
            within = "" if place == "." else f"{place}/"
            if inside := [source for source in folder.images if source.startswith(within)]:
                return inside
        return []


def find_yaml(folder: Folder) -> YoloYaml | None:
    """Return what the YAML file with `names` says; of several, the one with splits that lies highest.

    Raises:
        BadInput: files with `names` disagree about them.
    """
    found: list[YoloYaml] = []
    for name in folder.files(".yaml", ".yml"):
        content = read_yaml(folder, name)
        if names := _names(content.get("names")):
            entries: dict[Split, list[str]] = {split: texts for split in _SPLITS if (texts := _texts(content, split))}
            found.append(YoloYaml(name, names, entries, as_text(content.get("path"))))
    if len({tuple(sorted(item.names.items())) for item in found}) > 1:
        raise BadInput(
            f"{listed([item.file for item in found])} name the classes differently; keep the one that is right."
        )
    return min(found, key=lambda item: (not item.entries, item.file.count("/"), item.file), default=None)


def _names(value: object) -> dict[int, str]:
    if isinstance(value, list):
        return dict(enumerate(as_text(name) for name in value))
    if isinstance(value, dict):
        return {int(key): as_text(name) for key, name in value.items() if as_text(key).isdigit()}
    return {}


def _texts(content: dict[str, Any], split: Split) -> list[str]:
    value = content.get(split) or (content.get("valid") if split == "val" else None)
    return [text for item in (value if isinstance(value, list) else [value]) if (text := as_text(item))]


def _places(entry: str, path: str, home: PurePosixPath) -> Iterable[str]:
    """Return where an entry may lie below the root, the likeliest first: paths are often right on another machine only."""
    parts, inner = _parts(entry), _parts(path)
    for start in range(len(parts) if _is_absolute(entry) else 1):
        for base in (home.joinpath(*inner), home, PurePosixPath()):
            yield base.joinpath(*parts[start:]).as_posix()


def _parts(text: str) -> list[str]:
    return [part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in {"/", ".", ".."}]


def _is_absolute(text: str) -> bool:
    return text.startswith(("/", "\\", "~")) or text[1:2] == ":"


def _find(line: str, table: str, finder: ImageFinder) -> str | None:
    parts, home = _parts(line), PurePosixPath(table).parent
    for start in range(len(parts)):
        for base in (home, PurePosixPath()):
            if found := finder.exact(base.joinpath(*parts[start:]).as_posix()):
                return found
    return None
