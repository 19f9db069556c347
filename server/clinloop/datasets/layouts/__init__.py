"""The layouts that are understood, and the choice among them."""

from __future__ import annotations

from typing import NamedTuple

from clinloop.datasets.case import Layout, LayoutOptions
from clinloop.datasets.layouts.class_folders import ClassFolders
from clinloop.datasets.layouts.coco import Coco
from clinloop.datasets.layouts.csv_manifest import CsvManifest
from clinloop.datasets.layouts.dicom_tree import DicomTree
from clinloop.datasets.layouts.folder import Folder
from clinloop.datasets.layouts.grazpedwri import Grazpedwri
from clinloop.datasets.layouts.hf_imagefolder import HfImagefolder
from clinloop.datasets.layouts.isic2019 import Isic2019
from clinloop.datasets.layouts.mask_folder import MaskFolder
from clinloop.datasets.layouts.medmnist_npz import MedmnistNpz
from clinloop.datasets.layouts.neatx import Neatx
from clinloop.datasets.layouts.nih_chestxray14 import NihChestXray14
from clinloop.datasets.layouts.nnunet_raw import NnunetRaw
from clinloop.datasets.layouts.pascal_voc import PascalVoc
from clinloop.datasets.layouts.siim_acr import SiimAcr
from clinloop.datasets.layouts.yolo import Yolo
from clinloop.errors import BadInput, unknown

LAYOUTS: list[Layout] = [
    Isic2019(),
    Grazpedwri(),
    SiimAcr(),
    Neatx(),
    NihChestXray14(),
    Coco(),
    Yolo(),
    PascalVoc(),
    HfImagefolder(),
    MedmnistNpz(),
    NnunetRaw(),
    MaskFolder(),
    DicomTree(),
    ClassFolders(),
    CsvManifest(),
]
"""Public sets come first: one of them that is certain wins over all that follow, also where it holds the trees of general formats."""

CERTAIN = 1.0
"""Score of a public set, which is known by names that nothing else has."""


class Choice(NamedTuple):
    """A layout and why it is the one."""

    layout: Layout
    reason: str


def choose_layout(folder: Folder, name: str, options: LayoutOptions) -> Choice:
    """Return the named layout, or with "auto" the one that fits best.

    Raises:
        Unknown: no layout has this name.
        BadInput: nothing fits, and the text says what each layout looked for; or several datasets or annotation formats fit alike.
    """
    if name != "auto":
        layout = next((item for item in LAYOUTS if item.name == name), None)
        if layout is None:
            raise unknown("layout", name, ["auto", *(item.name for item in LAYOUTS)])
        return Choice(layout, f"{name}, as asked: {layout.detect(folder, options).reason}")
    found = [(layout, layout.detect(folder, options)) for layout in LAYOUTS]
    best, detection = max(found, key=lambda item: item[1].score)
    if detection.score == 0:
        tried = "; ".join(f"{layout.name} ({result.reason}; it needs {layout.looks_for})" for layout, result in found)
        raise BadInput(
            f"The folder fits no layout. Tried: {tried}. Name a layout and its columns if the data is there under other names."
        )
    alike = [(layout, result) for layout, result in found if result.score == detection.score]
    if len(alike) > 1 and detection.score == CERTAIN:
        sets = "; ".join(f"{layout.name} ({result.reason})" for layout, result in alike)
        raise BadInput(
            f"The folder holds {len(alike)} public datasets: {sets}. Give the folder of the one to add, or name it "
            f'(layout="{alike[0][0].name}").'
        )
    if len(alike) > 1:
        formats = "; ".join(f"{layout.name} ({result.reason})" for layout, result in alike)
        raise BadInput(
            f"The folder fits {len(alike)} layouts alike: {formats}. They may tell different things of the same images, so name the one to use "
            f'(layout="{alike[0][0].name}"), or move the other annotations out of the folder.'
        )
    others = [
        f"also fits {layout.name}: {result.reason}" for layout, result in found if result.score and layout is not best
    ]
    rest = "does not fit " + ", ".join(layout.name for layout, result in found if not result.score)
    return Choice(best, f"{best.name}: {detection.reason} ({'; '.join([*others, rest])})")
