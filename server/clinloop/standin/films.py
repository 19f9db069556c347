"""What the chest stand-ins share: patients and their films, a place to write, and drawing on all cores."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from clinloop.errors import BadInput
from clinloop.standin.workers import pool

if TYPE_CHECKING:
    import numpy as np

    from clinloop.standin.chests import Film, Radiograph

    Rng = np.random.Generator

Progress = Callable[[int, int], object]
Job = TypeVar("Job")
Result = TypeVar("Result")

DRAINS = {True: 0.60, False: 0.10}
"""Share of films with a drain, with and without pneumothorax (the paper: 59.9 % and 10.2 %)."""
SHARED = 0.02
"""Share of the films of SIIM-ACR and NEATX that are in both, as both took theirs from ChestX-ray14; drawn alike for equal seeds."""
_SHARED_BODY, _SHARED_VIEW = 14, 15
_BATCH = 16


class Seeds(NamedTuple):
    """Where the two random sources of a film start: equal `body` = the same patient, both equal = the same film."""

    body: tuple[int, ...]
    view: tuple[int, ...]


def shared(seed: int, number: int) -> tuple[Film, Seeds]:
    """Return the shared film of this number: the same for every stand-in with the seed, always with a pneumothorax."""
    import numpy as np

    rng = np.random.default_rng([seed, 13, number])
    return plan(rng, pneumothorax=True, drain=bool(rng.random() < DRAINS[True])), Seeds(
        (seed, _SHARED_BODY, number), (seed, _SHARED_VIEW, number)
    )


def plan(rng: Rng, *, pneumothorax: bool, drain: bool, findings: tuple[str, ...] | None = None) -> Film:
    """Return what a film shows besides; without `findings` a third of the films has one. Most drains are seen at the bedside."""
    from clinloop.standin.chests import FINDINGS, Film

    if findings is None:
        findings = (str(rng.choice(FINDINGS)),) if rng.random() < 0.33 else ()
    view = "AP" if rng.random() < (0.65 if drain else 0.35) else "PA"
    return Film(pneumothorax, drain, findings, int(rng.choice([-1, 1])), view)


def paint(film: Film, seeds: Seeds) -> Radiograph:
    """Paint a film from its seeds."""
    import numpy as np

    from clinloop.standin import chests

    return chests.paint(film, np.random.default_rng(seeds.body), np.random.default_rng(seeds.view))


def picked(rng: Rng, count: int, share: float) -> list[bool]:
    """Return `count` flags in random order, of which `share` (rounded) are True."""
    flags = [True] * round(count * share)
    flags += [False] * (count - len(flags))
    return [flags[i] for i in rng.permutation(count)]


@contextmanager
def fresh_folder(out: Path, *, images: int, limits: tuple[int, int]) -> Generator[Path]:
    """Give a folder to write into; it becomes `out` when all is written.

    Raises:
        BadInput: `out` exists and is not an empty folder, or `images` is outside `limits`.
    """
    if not limits[0] <= images <= limits[1]:
        raise BadInput(f"images={images} is outside {limits[0]}…{limits[1]}, the size of the public set.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"The folder {out.name!r} is not empty; give a new or an empty one.")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if out.exists():
        out.rmdir()
    partial.replace(out)


def on_all_cores(
    draw: Callable[[tuple[Path, list[Job]]], list[Result]], root: Path, jobs: Sequence[Job], progress: Progress | None
) -> list[Result]:
    """Return the results of all jobs in their order; `draw` (a module's function) writes the files of a batch below `root`."""
    batches = [(root, list(jobs[start : start + _BATCH])) for start in range(0, len(jobs), _BATCH)]
    results: list[Result] = []
    with pool(len(batches)) as workers:
        for done in workers.map(draw, batches):
            results += done
            if progress is not None:
                progress(len(results), len(jobs))
    return results


def write_drains(path: Path, drains: Sequence[tuple[str, bool]]) -> None:
    """Write which images (file stems) show a drain: the truth, which the public sets do not have."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "drain"))
        writer.writerows((image, int(drain)) for image, drain in drains)
