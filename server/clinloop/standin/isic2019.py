"""Writes a stand-in of ISIC 2019: the public layout to the letter, with drawn lesions instead of patients.

Source: counts per class, archive, lesion and missing value were measured on the public CSVs of ISIC 2019 (25,331 + 8,238
images). The archive x class table fits its measured margins; how NV and BKL split between MSK4 and no id is assumed.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clinloop.errors import BadInput
from clinloop.standin.workers import pool

if TYPE_CHECKING:
    import numpy as np

    Rng = np.random.Generator

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
SITES = {
    "anterior torso": 0.305, "lower extremity": 0.220, "head/neck": 0.202, "upper extremity": 0.128, "posterior torso": 0.123,
    "palms/soles": 0.0175, "oral/genital": 0.0026, "lateral torso": 0.0024,
}  # fmt: skip
MISSING = {"age": 437 / 25331, "site": 2631 / 25331, "sex": 384 / 25331}
ARCHIVES = {  # training images per archive and class; "" = no lesion id
    "BCN": {"MEL": 2857, "NV": 4206, "BCC": 2809, "AK": 737, "BKL": 1138, "DF": 124, "VASC": 111, "SCC": 431},
    "HAM": {"MEL": 1113, "NV": 6705, "BCC": 514, "AK": 130, "BKL": 1099, "DF": 115, "VASC": 142, "SCC": 197},
    "MSK4": {"MEL": 213, "NV": 417, "BKL": 189},
    "": {"MEL": 339, "NV": 1547, "BKL": 198},
}
TEST = {"MEL": 1327, "NV": 2495, "BCC": 975, "AK": 374, "BKL": 660, "DF": 91, "VASC": 104, "SCC": 165, "UNK": 2047}
TEST_ARCHIVES = {"BCN": 6726, "HAM": 1512}
TEST_SHARE = 8238 / 25331
NUMBERS = {"BCN": (53453, 19802), "HAM": (24306, 10015), "MSK": (0, 16072), "HAM test": (34321, 1744)}
"""First number and how many of the numbers in image names; the test shares the BCN range with the training set."""
SIZES = {"BCN": (287, 287), "HAM": (168, 126), "MSK": (287, 215)}
"""0.28 x the public pixel sizes 1024x1024, 600x450 and 1024x767, for speed; the aspect ratios stay."""
DOWNSAMPLED = 2074 / 2903
"""Share of the MSK images whose name ends in `_downsampled`."""
SIBLINGS = 0.12
"""Share of the `_downsampled` images without lesion id whose original is in the set too: a leak that only names and pixels show."""
SMALLEST_CLASS = {"train": 8, "test": 4}
MEAN_AGE = {"MEL": 60, "NV": 45, "BCC": 66, "AK": 68, "BKL": 63, "DF": 50, "VASC": 50, "SCC": 70, "UNK": 52}
LIMITS = (60, 25331)

Progress = Callable[[int, int], object]


class View(NamedTuple):
    """One image file to write."""

    path: str
    size: tuple[int, int]
    shrunk_from: tuple[int, int] | None = None
    """Photographed at this size, then reduced to `size`."""
    seed: int = 0
    """Distinguishes the views of a lesion; equal seeds give the same photograph."""


class Drawing(NamedTuple):
    """One lesion and all its views: the unit of work."""

    label: str
    number: int
    views: tuple[View, ...]


class Row(NamedTuple):
    """One image in the CSV files."""

    image: str
    label: str
    age: str
    site: str
    sex: str
    lesion_id: str


class Lesion(NamedTuple):
    """What the views of one lesion share."""

    archive: str
    label: str
    views: int


def write(out: Path, *, images: int, seed: int, progress: Progress | None = None) -> None:
    """Write the stand-in with `images` training images (and about a third as many test images) into the folder `out`.

    Deterministic by `seed`, whatever the number of cores. `progress(done, total)` counts image files.

    Raises:
        BadInput: `out` exists and is not an empty folder, or `images` is outside LIMITS.
    """
    import numpy as np

    if not LIMITS[0] <= images <= LIMITS[1]:
        raise BadInput(f"images={images} is outside {LIMITS[0]}…{LIMITS[1]}, the size of the public training set.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"The folder {out.name!r} is not empty; give a new or an empty one.")
    rng = np.random.default_rng([seed, 2019])
    train, train_drawings = _plan_training(rng, images)
    test, test_drawings = _plan_test(rng, max(40, round(images * TEST_SHARE)), first=len(train_drawings))
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, rows in {"Training": train, "Test": test}.items():
        (partial / f"ISIC_2019_{name}_Input").mkdir(parents=True)
        _write_ground_truth(partial / f"ISIC_2019_{name}_GroundTruth.csv", rows)
        _write_metadata(partial / f"ISIC_2019_{name}_Metadata.csv", rows, lesion_ids=name == "Training")
    _draw_all(partial, [*train_drawings, *test_drawings], seed=seed, progress=progress)
    if out.exists():
        out.rmdir()
    partial.replace(out)


def _counts(proportions: dict[str, int], total: int, *, smallest: int) -> dict[str, int]:
    """Split `total` by largest remainder, then lift rare classes to `smallest` at the cost of the largest."""
    whole = sum(proportions.values())
    exact = {name: total * share / whole for name, share in proportions.items()}
    counts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: total - sum(counts.values())]:
        counts[name] += 1
    for name in list(counts):
        while counts[name] < smallest:
            counts[name] += 1
            counts[max(counts, key=lambda other: counts[other])] -= 1
    return counts


def _plan_training(rng: Rng, images: int) -> tuple[list[Row], list[Drawing]]:
    per_class = {label: sum(archive.get(label, 0) for archive in ARCHIVES.values()) for label in CLASSES[:-1]}
    lesions: list[Lesion] = []
    for label, count in _counts(per_class, images, smallest=SMALLEST_CLASS["train"]).items():
        per_archive = {archive: table[label] for archive, table in ARCHIVES.items() if label in table}
        for archive, n in _counts(per_archive, count, smallest=0).items():
            lesions += _group(rng, archive, label, n)
    names = _Names(rng)
    taken: dict[str, int] = {}
    rows: list[Row] = []
    drawings: list[Drawing] = []
    for number in rng.permutation(len(lesions)):
        lesion = lesions[number]
        kind = "MSK" if lesion.archive in ("MSK4", "") else lesion.archive
        taken[lesion.archive] = taken.get(lesion.archive, 0) + 1
        lesion_id = f"{lesion.archive}_{taken[lesion.archive]:07d}" if lesion.archive else ""
        size = SIZES[kind]
        views: list[View] = []
        if lesion.archive == "" and lesion.views == 2:  # a sibling pair: the original and its reduced copy
            stem = names.draw("MSK")
            large = (round(size[0] * 1.25), round(size[1] * 1.25))
            views = [View(stem, large), View(f"{stem}_downsampled", size, shrunk_from=large)]
        else:
            for seed in range(lesion.views):
                reduced = "_downsampled" if kind == "MSK" and rng.random() < DOWNSAMPLED else ""
                views.append(View(names.draw(kind) + reduced, size, seed=seed))
        age, site, sex = _patient(rng, lesion.label)
        rows += [Row(view.path, lesion.label, age, site, sex, lesion_id) for view in views]
        drawings.append(_drawing(lesion.label, len(drawings), "Training", views))
    return sorted(rows), drawings


def _group(rng: Rng, archive: str, label: str, images: int) -> list[Lesion]:
    """Group images into lesions: 57 % of the lesions have one image, the others 3.25 in the mean; no id = no group."""
    lesions: list[Lesion] = []
    if archive == "":
        pairs = round(images * DOWNSAMPLED * SIBLINGS)
        pairs = min(max(pairs, 1), images // 2) if label == "NV" else pairs
        return [Lesion(archive, label, 2)] * pairs + [Lesion(archive, label, 1)] * (images - 2 * pairs)
    while images:
        size = 1 if rng.random() < 0.573 else 1 + int(rng.geometric(1 / 2.25))
        size = min(size, images, 31, max(1, images // 4))  # small classes keep several lesions, so that a split exists
        lesions.append(Lesion(archive, label, size))
        images -= size
    return lesions


def _plan_test(rng: Rng, images: int, *, first: int) -> tuple[list[Row], list[Drawing]]:
    names = _Names(rng, skip_training=True)
    rows: list[Row] = []
    drawings: list[Drawing] = []
    for label, count in _counts(TEST, images, smallest=SMALLEST_CLASS["test"]).items():
        for archive, n in _counts(TEST_ARCHIVES, count, smallest=0).items():
            for _ in range(n):
                name = names.draw("HAM test" if archive == "HAM" else "BCN")
                rows.append(Row(name, label, *_patient(rng, label), lesion_id=""))
                drawings.append(_drawing(label, first + len(drawings), "Test", [View(name, SIZES[archive])]))
    return sorted(rows), drawings


class _Names:
    """Draws image names without repetition; the BCN numbers are split so that no name is in training and test."""

    def __init__(self, rng: Rng, *, skip_training: bool = False) -> None:
        self._pools: dict[str, list[int]] = {}
        for kind, (first, count) in NUMBERS.items():
            pool = list(range(first, first + count))
            if kind == "BCN":  # 12,413 of the public numbers are training, 6,726 test
                pool = [n for n in pool if (n % 20 >= 13) == skip_training]
            self._pools[kind] = [int(n) for n in rng.permutation(pool)]

    def draw(self, kind: str) -> str:
        return f"ISIC_{self._pools[kind].pop():07d}"


def _patient(rng: Rng, label: str) -> tuple[str, str, str]:
    """Return age (multiples of five), site and sex as the CSV spells them; empty when unknown."""
    age = 5 * min(17, max(0, round(rng.normal(MEAN_AGE[label], 15) / 5)))
    site = str(rng.choice(list(SITES), p=[share / sum(SITES.values()) for share in SITES.values()]))
    sex = "male" if rng.random() < 0.53 else "female"
    keep = {column: rng.random() >= share for column, share in MISSING.items()}
    return f"{float(age)}" if keep["age"] else "", site if keep["site"] else "", sex if keep["sex"] else ""


def _drawing(label: str, number: int, part: str, views: Iterable[View]) -> Drawing:
    placed = (view._replace(path=f"ISIC_2019_{part}_Input/{view.path}.jpg") for view in views)
    return Drawing(label, number, tuple(placed))


def _write_ground_truth(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", *CLASSES))
        writer.writerows((row.image, *(f"{float(row.label == label)}" for label in CLASSES)) for row in rows)


def _write_metadata(path: Path, rows: Sequence[Row], *, lesion_ids: bool) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "age_approx", "anatom_site_general", *(("lesion_id",) if lesion_ids else ()), "sex"))
        for row in rows:
            writer.writerow((row.image, row.age, row.site, *((row.lesion_id,) if lesion_ids else ()), row.sex))


def _draw_all(root: Path, drawings: list[Drawing], *, seed: int, progress: Progress | None) -> None:
    total = sum(len(drawing.views) for drawing in drawings)
    batches = [drawings[start : start + 16] for start in range(0, len(drawings), 16)]
    work = [(root, batch, seed) for batch in batches]
    done = 0
    with pool(len(batches)) as workers:
        for count in workers.map(_draw_batch, work):
            done += count
            if progress is not None:
                progress(done, total)


def _draw_batch(work: tuple[Path, list[Drawing], int]) -> int:
    """Paint and photograph some lesions; runs in a worker process. Returns the number of files written."""
    import numpy as np
    from PIL import Image

    from clinloop.standin.lesions import paint
    from clinloop.standin.views import photograph

    root, drawings, seed = work
    for drawing in drawings:
        lesion = paint(drawing.label, np.random.default_rng([seed, 1, drawing.number]))
        for view in drawing.views:
            rng = np.random.default_rng([seed, 2, drawing.number, view.seed])
            image = photograph(lesion, rng, size=view.shrunk_from or view.size, dermoscope=view.size != SIZES["HAM"])
            if view.shrunk_from:
                image = image.resize(view.size, Image.Resampling.LANCZOS)
            image.save(root / view.path, quality=int(rng.integers(84, 95)))
    return sum(len(drawing.views) for drawing in drawings)
