"""Small drawn datasets in the exact public layouts, and a function that adds them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from clinloop.datasets.dataset import Dataset
from clinloop.datasets.ingest import IngestOptions, ingest

KEY = b"0123456789abcdef0123456789abcdef"
ISIC_CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")

Picture = Callable[..., Image.Image]
Add = Callable[..., Dataset]


def draw(seed: int, size: tuple[int, int] = (60, 45)) -> Image.Image:
    """Draw blobs that no other seed draws."""
    coarse = np.random.default_rng(seed).integers(0, 255, (7, 9, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]], encoding: str = "utf-8") -> None:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_isic(root: Path, *, per_class: int = 6, leak: bool = False, doubled: bool = False) -> Path:
    """Write ISIC 2019 with its traps: two images a lesion, lesions without id, `_downsampled`, `gender`, UNK in the test, missing values.

    With `leak`, one test image is a brighter copy of a training image.
    """
    folders: dict[str, Path] = {}
    for part in ("Training", "Test"):
        inner = f"ISIC_2019_{part}_Input"
        folders[part] = root / inner / inner if doubled else root / inner
        folders[part].mkdir(parents=True)
    exif = Image.Exif()
    exif[0x013B], exif[0x0112] = "Dr. Secret Name", 6  # Artist; orientation: turned by 90°
    truth, metadata = list[list[object]](), list[list[object]]()
    number = 0
    for at in range(8):
        for i in range(per_class):
            for view in range(2):
                number += 1
                name = f"ISIC_{number:07d}" + ("_downsampled" if i == 1 else "")
                image = draw(number)
                image.save(
                    folders["Training"] / f"{name}.jpg",
                    quality=90,
                    **({"exif": exif, "comment": b"Dr. Secret Name"} if number == 1 else {}),
                )
                truth.append([name, *(f"{float(at == j)}" for j in range(9))])
                lesion = "" if i == 2 else f"BCN_{at}{i:03d}"
                metadata.append(
                    [name, "" if i == 0 else 30 + 5 * at, "torso", lesion, "male" if i % 2 else "female", "x"]
                )
                if i == 3 and view == 0:  # a sibling beside its original, in a lesion of its own by its metadata
                    sibling = f"{name}_downsampled"
                    draw(50_000 + number, (30, 22)).save(folders["Training"] / f"{sibling}.jpg")
                    truth.append([sibling, *(f"{float(at == j)}" for j in range(9))])
                    metadata.append([sibling, "", "", "", "", "x"])
    write_csv(
        root / "ISIC_2019_Training_GroundTruth.csv",
        ["image", *ISIC_CLASSES, "score_weight"],
        [[*row, 1.0] for row in truth],
    )
    header = ["image", "age_approx", "anatom_site_general", "lesion_id", "gender", "extra"]
    write_csv(root / "ISIC_2019_Training_Metadata.csv", header, metadata, "utf-8-sig")
    truth, metadata = [], []
    for at in range(9):
        for _ in range(3):
            number += 1
            name = f"ISIC_{number:07d}"
            image = (
                draw(number)
                if not (leak and number % 13 == 0)
                else draw(2).point(lambda value: min(255, int(value * 1.05) + 4))
            )
            image.save(folders["Test"] / f"{name}.jpg", quality=90)
            truth.append([name, *(int(at == j) for j in range(9))])
            metadata.append([name, 50, "torso", "female"])
    write_csv(root / "ISIC_2019_Test_GroundTruth.csv", ["image", *ISIC_CLASSES], truth)
    write_csv(root / "ISIC_2019_Test_Metadata.csv", ["image", "age_approx", "anatom_site_general", "sex"], metadata)
    return root


def write_class_folders(
    root: Path, *, classes: Iterable[str] = ("benign", "malignant"), n: int = 8, seed: int = 0
) -> Path:
    """Write PNGs that carry text chunks."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Dr. Secret Name")
    for at, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            draw(1000 * seed + 100 * at + i).save(root / name / f"{name}-{i}.png", pnginfo=info)
    return root


@pytest.fixture
def add(tmp_path: Path) -> Add:
    """Add a folder as a dataset of a state folder of this test's own."""

    def add_folder(
        root: Path, name: str = "data", *, state: Path | None = None, key: bytes = KEY, **options: object
    ) -> Dataset:
        state = state or tmp_path / "state"
        ingest(root, name, state=state, key=key, options=IngestOptions(**({"cache_px": (16,)} | options)))
        return Dataset.load(state, name)

    return add_folder


@pytest.fixture(scope="session")
def isic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ISIC layout with its traps."""
    return write_isic(tmp_path_factory.mktemp("isic"))


@pytest.fixture(scope="session")
def isic(tmp_path_factory: pytest.TempPathFactory, isic_root: Path) -> Dataset:
    """The ISIC layout, ingested; read only."""
    state = tmp_path_factory.mktemp("state")
    ingest(isic_root, "isic", state=state, key=KEY, options=IngestOptions(cache_px=(16, 32)))
    return Dataset.load(state, "isic")


@pytest.fixture
def make_isic() -> Callable[..., Path]:
    return write_isic


@pytest.fixture
def make_class_folders() -> Callable[..., Path]:
    return write_class_folders


@pytest.fixture
def picture() -> Picture:
    return draw


@pytest.fixture
def make_csv() -> Callable[..., None]:
    return write_csv
