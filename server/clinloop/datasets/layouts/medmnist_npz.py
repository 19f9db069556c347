"""MedMNIST: one .npz file with the arrays {train,val,test}_images and {train,val,test}_labels, a fixed official split and no groups.

Source: https://medmnist.com and MedMNIST/MedMNIST, medmnist/info.py (names of the classes). Images are (N, H, W) or (N, H, W, 3) uint8, labels (N, 1)
integers; chestmnist has (N, 14) flags, of which one is chosen. The files of a dataset in several sizes show the same images.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clinloop.datasets.case import Case, Detection, LayoutOptions, LayoutResult, Split
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, clean_class, listed
from clinloop.errors import BadInput

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_MAX_LABEL_BYTES = 1 << 28
_MAX_CLASSES = 1000
_ORGANS = "bladder,femur-left,femur-right,heart,kidney-left,kidney-right,liver,lung-left,lung-right,pancreas,spleen"
_NAMES = {
    "pathmnist": "adipose,background,debris,lymphocytes,mucus,smooth muscle,normal colon mucosa,cancer-associated stroma,colorectal adenocarcinoma epithelium",
    "chestmnist": "atelectasis,cardiomegaly,effusion,infiltration,mass,nodule,pneumonia,pneumothorax,consolidation,edema,emphysema,fibrosis,pleural,hernia",
    "dermamnist": "actinic keratoses and intraepithelial carcinoma,basal cell carcinoma,benign keratosis-like lesions,dermatofibroma,melanoma,melanocytic nevi,vascular lesions",
    "octmnist": "choroidal neovascularization,diabetic macular edema,drusen,normal",
    "pneumoniamnist": "normal,pneumonia",
    "breastmnist": "malignant,normal or benign",
    "bloodmnist": "basophil,eosinophil,erythroblast,immature granulocytes,lymphocyte,monocyte,neutrophil,platelet",
    "tissuemnist": "Collecting Duct or Connecting Tubule,Distal Convoluted Tubule,Glomerular endothelial cells,Interstitial endothelial cells,Leukocytes,Podocytes,Proximal Tubule Segments,Thick Ascending Limb",
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}  # fmt: skip
"""Names by number; retinamnist has grades 0 to 4, which have no names."""


class _Member(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


class MedmnistNpz:
    """The layout `medmnist_npz`."""

    name = "medmnist_npz"
    looks_for = "one .npz file with the arrays train_images and train_labels (and val_…, test_…)"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for a .npz file with images and labels, from the names of its arrays only."""
        names = _files(folder)
        if not names:
            found = folder.files(".npz")
            return Detection(
                0.0, f"{listed(found)} hold no train_images and train_labels" if found else "there is no .npz file"
            )
        return Detection(0.95, f"{listed(names)} with train_images and train_labels")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; `label_column` chooses one of several flags an image, by its name or number from 0.

        Raises:
            BadInput: as `Layout.read`; also for 3D images and several files.
        """
        if (found := self.detect(folder, options)).score == 0:
            raise BadInput(f"This is not the layout medmnist_npz: {found.reason}; it needs {self.looks_for}.")
        if options.image_column or options.attributes or options.group_by not in {None, "none"}:
            raise BadInput(
                "The layout medmnist_npz has images and labels only; leave out group, image column and attributes."
            )
        names = _files(folder)
        if len(names) > 1:
            raise BadInput(
                f"The folder holds {len(names)} MedMNIST files ({listed(names)}); keep one, several sizes show the same images."
            )
        return _read(folder.root / names[0], names[0], options)


def _files(folder: Folder) -> list[str]:
    found: list[str] = []
    for name in folder.files(".npz"):
        members = _members(folder.root / name)
        if {"train_images", "train_labels"} <= members.keys():
            found.append(name)
    return found


def _members(path: Path) -> dict[str, _Member]:
    """Return shape and type of every array of a .npz file from their headers; empty if it is not one."""
    try:
        with zipfile.ZipFile(path) as archive:
            found: dict[str, _Member] = {}
            for item in archive.namelist():
                with archive.open(item) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                    found[item.removesuffix(".npy")] = _Member(shape, dtype)
            return found
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError):
        return {}


def _read(path: Path, name: str, options: LayoutOptions) -> LayoutResult:
    members = _members(path)
    flag = re.split(r"[_.]", PurePosixPath(name).stem.casefold())[0]
    known = [part for part in _NAMES.get(flag, "").split(",") if part]
    kept: set[int] = set()
    rows: list[tuple[str, int, Split]] = []
    chosen = -1
    for split in _SPLITS:
        images, labels = f"{split}_images", f"{split}_labels"
        if images not in members or labels not in members:
            continue
        _check(members[images], members[labels], images, labels)
        numbers = _load(path, labels)
        if numbers.ndim == 2 and numbers.shape[1] > 1:
            chosen = _flag(numbers.shape[1], known, options)
            numbers = numbers[:, chosen]
        elif options.label_column:
            raise BadInput(f"{labels} has one label an image; leave the label column out.")
        for i, number in enumerate(numbers.reshape(-1)):
            rows.append((f"{name}#{images}/{i}", int(number), split))
        kept |= {int(number) for number in np.unique(numbers)}
    names = _class_names(sorted(kept), known, chosen)
    cases = [Case(source, names[number], None, split) for source, number, split in rows]
    problems = (
        []
        if 2 <= len(kept) <= _MAX_CLASSES
        else [f"The labels have {len(kept)} value(s); 2 to {_MAX_CLASSES} are valid."]
    )
    return LayoutResult(
        cases=cases,
        classes=list(names.values()),
        group_kind="image",
        attributes=[],
        excluded=ExcludedTally().result(),
        problems=problems,
        notes=["MedMNIST tells no patients, so only near-duplicates are grouped; its official test set is kept."],
    )


def _check(images: _Member, labels: _Member, images_name: str, labels_name: str) -> None:
    shape = images.shape
    if len(shape) == 4 and shape[3] not in {1, 3}:
        raise BadInput(
            f"{images_name} holds volumes ({' × '.join(map(str, shape))}); 3D images are not supported, use a 2D dataset."
        )
    if len(shape) not in {3, 4} or images.dtype != np.uint8 or not all(shape):
        raise BadInput(f"{images_name} is {images.dtype} of shape {shape}; (N, H, W) or (N, H, W, 3) uint8 is valid.")
    if labels.dtype.kind not in "iub" or not 1 <= len(labels.shape) <= 2 or not all(labels.shape):
        raise BadInput(
            f"{labels_name} is {labels.dtype} of shape {labels.shape}; whole numbers of shape (N, 1) or (N, flags) are valid."
        )
    if labels.shape[0] != shape[0]:
        raise BadInput(
            f"{images_name} has {shape[0]} images, {labels_name} has {labels.shape[0]} labels; they must be as many."
        )
    if math.prod(labels.shape) * labels.dtype.itemsize > _MAX_LABEL_BYTES:
        raise BadInput(f"{labels_name} is larger than {_MAX_LABEL_BYTES:,} bytes.")


def _load(path: Path, member: str) -> npt.NDArray[np.generic]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[member]
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"{path.name}: {member} cannot be read ({type(error).__name__}); download it again.") from None


def _flag(count: int, known: list[str], options: LayoutOptions) -> int:
    """Return which flag is the label."""
    names = known if len(known) == count else [str(i) for i in range(count)]
    wanted = (options.label_column or "").casefold()
    if wanted in names:
        return names.index(wanted)
    if wanted.isdigit() and int(wanted) < count:
        return int(wanted)
    raise BadInput(f"The images have {count} flags each; choose one as the label column: {listed(names, count)}.")


def _class_names(numbers: list[int], known: list[str], chosen: int) -> dict[int, str]:
    """Return the names of the labels; of a chosen flag, whether it is there."""
    if chosen >= 0 and set(numbers) <= {0, 1}:
        target = known[chosen] if chosen < len(known) else f"flag {chosen}"
        return {number: clean_class(target if number else f"no {target}") for number in numbers}
    if chosen < 0 and numbers and numbers[0] >= 0 and numbers[-1] < len(known):
        return {number: clean_class(known[number]) for number in numbers}
    return {number: f"class {number}" for number in numbers}
