"""Writes a stand-in of NIH ChestX-ray14: twelve folders of PNG files, the label table with commas inside its header, drawn films.

Source: header lines, names and shares are those of public copies of the tables (112,120 images of 30,805 patients; official lists 77 : 23
by patient). The share of drains among other films is assumed. Films are 287 x 287; boxes count in these pixels.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clinloop.standin import films
from clinloop.standin.films import Progress, Seeds

if TYPE_CHECKING:
    import numpy as np

    from clinloop.standin.chests import Film

    Rng = np.random.Generator

LIMITS = (60, 112120)
FINDINGS = {
    "Infiltration": 0.177, "Effusion": 0.119, "Atelectasis": 0.103, "Nodule": 0.056, "Mass": 0.052, "Consolidation": 0.042,
    "Pleural_Thickening": 0.030, "Cardiomegaly": 0.025, "Emphysema": 0.022, "Edema": 0.021, "Fibrosis": 0.015, "Pneumonia": 0.013,
    "Hernia": 0.002,
}  # fmt: skip
"""Share of the images with each finding beside pneumothorax."""
PNEUMOTHORAX = 0.047
DRAINS = {True: 0.45, False: 0.04}
"""Share of the films with a drain, with and without pneumothorax; assumed."""
LABELS = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
BOXED = {"Infiltration": "Infiltrate"} | {
    name: name for name in ("Atelectasis", "Effusion", "Mass", "Nodule", "Pneumonia", "Pneumothorax")
}
"""Findings that BBox_List_2017.csv has boxes of, and its name for them (it also has cardiomegaly, which is drawn without a place)."""
SHARE_BOXED = 0.3
"""Of the test films; 880 of 25,596 in public."""
TRAINING = 0.772
ORIGINALS = ((2500, 2048, 0.168), (2992, 2991, 0.143), (3056, 2544, 0.139), (2048, 2500, 0.171))
"""Sizes and pixel spacing of the films before they were published; not those of the PNG files."""
FOLDERS = 12


class Job(NamedTuple):
    """One PNG file to write and its row in the table."""

    image: str
    folder: int
    patient: int
    follow_up: int
    age: int
    sex: str
    original: tuple[int, int, float]
    film: Film
    seeds: Seeds

    @property
    def labels(self) -> str:
        """Finding labels as the table spells them."""
        names = sorted((*self.film.findings, *(("Pneumothorax",) if self.film.pneumothorax else ())))
        return "|".join(names) or "No Finding"


def write(
    out: Path, *, images: int, seed: int, progress: Progress | None = None, true_drains: Path | None = None
) -> None:
    """Write the stand-in with `images` films into the folder `out`, deterministic by `seed`.

    `true_drains`: also write which images show a drain into this CSV file (image, drain), which must lie elsewhere.

    Raises:
        BadInput: `out` exists and is not an empty folder, or `images` is outside LIMITS.
    """
    import numpy as np

    with films.fresh_folder(out, images=images, limits=LIMITS) as root:
        rng = np.random.default_rng([seed, 2017])
        sick = films.picked(rng, images, PNEUMOTHORAX)
        drains = {y: films.picked(rng, sick.count(y), DRAINS[y]) for y in (True, False)}
        planned = [films.plan(rng, pneumothorax=y, drain=drains[y].pop(), findings=findings(rng)) for y in sick]
        jobs = arrange(rng, [(film, None) for film in planned], seed)
        write_tree(root, rng, jobs, progress)
    if true_drains is not None:
        films.write_drains(true_drains, [(Path(job.image).stem, job.film.drain) for job in jobs])


def findings(rng: Rng) -> tuple[str, ...]:
    """Return a film's findings beside pneumothorax, at their public shares."""
    return tuple(name for name, share in FINDINGS.items() if rng.random() < share)


def arrange(rng: Rng, planned: Sequence[tuple[Film, Seeds | None]], seed: int) -> list[Job]:
    """Give films to patients, folders and rows: 43 % of the patients have several. Films with seeds of their own are a patient of their own."""
    jobs: list[Job] = []
    order = [planned[n] for n in rng.permutation(len(planned))]
    patient = 0
    while order:
        patient += int(rng.integers(1, 9))
        count = 1 if rng.random() < 0.57 or order[-1][1] else min(12, 1 + int(rng.geometric(0.28)))
        age, sex = int(rng.integers(8, 88)), "M" if rng.random() < 0.565 else "F"
        original = ORIGINALS[int(rng.integers(len(ORIGINALS)))]
        for view in range(count):
            if not order or (view and order[-1][1]):
                break
            film, seeds = order.pop()
            seeds = seeds or Seeds((seed, 3, patient), (seed, 4, patient, view))
            jobs.append(
                Job(f"{patient:08d}_{view:03d}.png", 0, patient, view, age + view // 4, sex, original, film, seeds)
            )
    return [job._replace(folder=1 + FOLDERS * n // len(jobs)) for n, job in enumerate(jobs)]


def write_tree(root: Path, rng: Rng, jobs: Sequence[Job], progress: Progress | None) -> None:
    """Write the images and tables of ChestX-ray14 below `root`."""
    for folder in {job.folder for job in jobs}:
        (root / f"images_{folder:03d}/images").mkdir(parents=True)
    boxes = films.on_all_cores(_draw, root, jobs, progress)
    rows = [
        (job.image, job.labels, job.follow_up, job.patient, job.age, job.sex, job.film.view, *job.original, job.original[2])
        for job in jobs
    ]  # fmt: skip
    _write(root / "Data_Entry_2017_v2020.csv", LABELS, rows)
    patients = sorted({job.patient for job in jobs})
    training = {
        patient for patient, chosen in zip(patients, films.picked(rng, len(patients), TRAINING), strict=True) if chosen
    }
    for name, chosen in (("train_val_list.txt", True), ("test_list.txt", False)):
        names = [job.image for job in jobs if (job.patient in training) == chosen]
        (root / name).write_text("\n".join(names) + "\n", encoding="utf-8")
    drawn = [
        (job.image, BOXED[name], *(round(value, 3) for value in box), "", "", "")
        for job, found in zip(jobs, boxes, strict=True)
        if job.patient not in training and found and rng.random() < SHARE_BOXED
        for name, box in found.items()
        if name in BOXED and box[2] > 0
    ]
    _write(root / "BBox_List_2017.csv", BOXES, drawn)


def _draw(work: tuple[Path, list[Job]]) -> list[dict[str, tuple[float, float, float, float]]]:
    """Paint and write some films; runs in a worker process. Returns where their findings are."""
    from PIL import Image

    root, jobs = work
    found: list[dict[str, tuple[float, float, float, float]]] = []
    for job in jobs:
        radiograph = films.paint(job.film, job.seeds)
        Image.fromarray(radiograph.pixels).save(root / f"images_{job.folder:03d}/images/{job.image}")
        found.append(radiograph.boxes)
    return found


def _write(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(header + "\n")  # as it is: its commas inside brackets are part of the trap
        csv.writer(file, lineterminator="\n").writerows(rows)
