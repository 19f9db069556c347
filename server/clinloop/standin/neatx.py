"""Writes a stand-in of NEATX on ChestX-ray14: which films with a pneumothorax show a chest drain, beside the NIH tree they come from.

Source: names of files and columns as users of the public file list them (3,543 images, two annotators, pneumothorax only). How often a
drain is seen, how often the annotators disagree and how locations are spelt is assumed.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clinloop.standin import films, nih_chestxray14
from clinloop.standin.films import Progress

if TYPE_CHECKING:
    import numpy as np

    Rng = np.random.Generator

LIMITS = (60, 3543)
TABLE = "NIH-CX14_TubeAnnotations_NonExperts_aggregated.csv"
COLUMNS = ("", "Image Index", "Drain", "Drain_a1", "Drain_Location_a1", "Drain_a2", "Drain_Location_a2")
DRAIN = 0.45
OTHERS = 0.12
"""Films of the tree that nobody annotated (no pneumothorax), per annotated one."""
DISAGREE = 0.01


def write(
    out: Path, *, images: int, seed: int, progress: Progress | None = None, true_drains: Path | None = None
) -> None:
    """Write the stand-in with `images` annotated films (and some that are not) into the folder `out`, deterministic by `seed`.

    `true_drains`: also write which images show a drain into this CSV file (image, drain), which must lie elsewhere.

    Raises:
        BadInput: `out` exists and is not an empty folder, or `images` is outside LIMITS.
    """
    import numpy as np

    with films.fresh_folder(out, images=images, limits=LIMITS) as root:
        rng = np.random.default_rng([seed, 2023])
        common = [films.shared(seed, number) for number in range(round(images * films.SHARED))]
        own = [
            films.plan(rng, pneumothorax=True, drain=drain, findings=nih_chestxray14.findings(rng))
            for drain in films.picked(rng, images - len(common), DRAIN)
        ]
        others = [
            films.plan(rng, pneumothorax=False, drain=bool(rng.random() < 0.1), findings=nih_chestxray14.findings(rng))
            for _ in range(round(images * OTHERS))
        ]
        planned = [*common, *((film, None) for film in own + others)]
        jobs = nih_chestxray14.arrange(rng, planned, seed)
        nih_chestxray14.write_tree(root, rng, jobs, progress)
        _write_annotations(root / TABLE, rng, [job for job in jobs if job.film.pneumothorax])
    if true_drains is not None:
        films.write_drains(true_drains, [(Path(job.image).stem, job.film.drain) for job in jobs])


def _write_annotations(path: Path, rng: Rng, jobs: Sequence[nih_chestxray14.Job]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, job in enumerate(jobs):
            seen = [job.film.drain, job.film.drain != (rng.random() < DISAGREE)]
            side = "Right" if job.film.side < 0 else "Left"  # of the patient, who faces the reader
            row = [value for drain in seen for value in (int(drain), side if drain else "")]
            writer.writerow((number, job.image, int(seen[0]), *row))
