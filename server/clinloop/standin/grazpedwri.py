"""Writes a stand-in of GRAZPEDWRI-DX: the public folders to the letter, with drawn wrists instead of children.

Source: columns, names, class ids and shares were measured on the public dataset.csv (20,327 images, 6,091 patients) and its
label files, or read in its documentation. Picture sizes and how fractures differ are assumed.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clinloop.errors import BadInput
from clinloop.standin.workers import pool

if TYPE_CHECKING:
    import numpy as np

    from clinloop.standin.wrists import Break, Found, View, Wrist

    Rng = np.random.Generator

TITLES = (
    "boneanomaly", "bonelesion", "foreignbody", "fracture", "metal", "periostealreaction", "pronatorsign", "softtissue", "text",
)  # fmt: skip
"""Class names in the order of their YOLO ids: fracture is 3."""
HEADER = (
    "filestem", "patient_id", "study_number", "timehash", "gender", "age", "laterality", "projection", "initial_exam",
    "ao_classification", "cast", "diagnosis_uncertain", "osteopenia", "fracture_visible", "metal", "pixel_spacing",
    "device_manufacturer",
)  # fmt: skip
PARTS = 4
"""The publisher's archives images_part1 … images_part4, filled in the order of the file names."""
SIZES = {"frontal": (196, 308), "lateral": (140, 308), "other": (196, 308)}
"""About 0.28 x the public pixel sizes, for speed."""
BROKEN = 0.589
"""Share of the patients with a visible fracture."""
FOLLOW_UPS = {True: 1.1, False: 0.095}
"""Studies after the first, in the mean: of a patient with and without a fracture."""
DISAGREE = 677 / 10699 / 0.6
"""Share of the studies of a fracture in which one view does not show it; its rows keep the AO code."""
NO_CODE = 165 / 13550
"""Share of the visible fractures without AO code."""
KINDS = {"buckle": 0.40, "complete": 0.25, "greenstick": 0.20, "impacted": 0.15}
CODES = {"buckle": "M/2.1", "complete": "M/3.1", "greenstick": "M/2.1", "impacted": "M/3.1"}
BONES = {("radius",): 0.62, ("radius", "ulna"): 0.32, ("ulna",): 0.06}
"""Gives 1.3 fracture boxes an image that has any, as 18,090 boxes in 13,550 images."""
LIMITS = (60, 20327)

Progress = Callable[[int, int], object]


class Exposure(NamedTuple):
    """One image to draw, and its row of dataset.csv."""

    stem: str
    row: tuple[str, ...]
    wrist: Wrist
    view: View


class Drawn(NamedTuple):
    """One image that was drawn."""

    stem: str
    size: tuple[int, int]
    found: list[Found]


def write(out: Path, *, images: int, seed: int, progress: Progress | None = None) -> None:
    """Write the stand-in with `images` images into the folder `out`.

    Deterministic by `seed`, whatever the number of cores. `progress(done, total)` counts image files.

    Raises:
        BadInput: `out` exists and is not an empty folder, or `images` is outside LIMITS.
    """
    if not LIMITS[0] <= images <= LIMITS[1]:
        raise BadInput(f"images={images} is outside {LIMITS[0]}…{LIMITS[1]}, the size of the public set.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"The folder {out.name!r} is not empty; give a new or an empty one.")
    exposures: list[Exposure] = []
    patient = 0
    while len(exposures) < images:
        patient += 1
        exposures += _plan_patient(patient, seed=seed)
    exposures = exposures[:images]
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    structure = partial / "folder_structure"
    for folder in ("yolov5/images", "yolov5/labels", "pascalvoc", "supervisely/wrist/ann"):
        (structure / folder).mkdir(parents=True)
    for part in range(1, PARTS + 1):
        (partial / f"images_part{part}").mkdir()
    _write_table(partial / "dataset.csv", exposures)
    names = "\n".join(f"  {number}: {title}" for number, title in enumerate(TITLES))
    (structure / "yolov5/meta.yaml").write_text(f"nc: {len(TITLES)}\nnames:\n{names}\n", encoding="utf-8")
    for drawn in _draw_all(partial, exposures, seed=seed, progress=progress):
        _write_labels(structure, drawn)
    if out.exists():
        out.rmdir()
    partial.replace(out)


def _plan_patient(patient: int, *, seed: int) -> list[Exposure]:
    """Return all images of a patient: one or more studies of a wrist, two views a study as a rule."""
    import numpy as np

    from clinloop.standin.wrists import Wrist

    rng = np.random.default_rng([seed, 14825193, patient])
    born = float(np.clip(rng.normal(10.9, 3.6), 0.4, 18.5))
    sex = "M" if rng.random() < 0.58 else "F"
    left = bool(rng.random() < 0.52)
    broken = bool(rng.random() < BROKEN)
    wrist = Wrist(born, int(rng.integers(2**31)), _breaks(rng) if broken else ())
    exposures: list[Exposure] = []
    time = int(rng.integers(0, 4_000_000_000))
    metal = bool(rng.random() < (0.05 if broken else 0.012))
    for study in range(1, 2 + int(rng.poisson(FOLLOW_UPS[broken]))):
        if study > 1 and rng.random() < 0.04:  # the other arm
            left, wrist = not left, Wrist(born, int(rng.integers(2**31)), ())
        exposures += _plan_study(rng, wrist, patient=patient, study=study, sex=sex, left=left, time=time, metal=metal)
        time = min(time + int(rng.integers(10**6, 10**8)), 4_294_967_295)
    return exposures


def _breaks(rng: Rng) -> tuple[Break, ...]:
    from clinloop.standin.wrists import Break

    bones = list(BONES)[int(rng.choice(len(BONES), p=list(BONES.values())))]
    high = rng.random() < 0.15  # of the shaft, not near the joint
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    severity = rng.beta(1.7, 2.0)
    found: list[Break] = []
    for bone in bones:
        reach = (0.3, 0.6) if high else (0.07, 0.27) if bone == "radius" else (0.04, 0.2)
        force = min(1.0, max(0.0, float(severity + rng.normal(0, 0.15))))
        side = float(rng.choice([-1, 1]))
        found.append(Break(bone, float(rng.uniform(*reach)), kind, force, float(rng.normal(0, 0.25)), side))
    return tuple(found)


def _plan_study(
    rng: Rng, wrist: Wrist, *, patient: int, study: int, sex: str, left: bool, time: int, metal: bool
) -> list[Exposure]:
    """Return the views of one study."""
    from clinloop.standin.wrists import View

    broken, follow_up = bool(wrist.breaks), study > 1
    age = round(wrist.age + 0.05 * (study - 1), 1)
    healing = min(1.0, 0.25 + 0.25 * study + float(rng.normal(0, 0.08))) if follow_up and broken else 0.0
    cast = bool(rng.random() < (0.5 if follow_up and broken else 0.012))
    thin = bool(rng.random() < (0.2 if follow_up and broken else 0.006))
    projections = ["frontal", "lateral"]
    if rng.random() < 0.07:
        projections = ["frontal"] if rng.random() < 0.6 else ["frontal", "lateral", "other"]
    hidden = int(rng.integers(len(projections))) if broken and rng.random() < DISAGREE and len(projections) > 1 else -1
    code = ""
    if wrist.breaks and rng.random() >= NO_CODE:
        bones = {item.bone[0] for item in wrist.breaks}
        letter = "23" if len(bones) == 2 else f"23{min(bones)}"
        code = f"{letter}-{CODES[wrist.breaks[0].kind]}" + (";23u-E/7" if rng.random() < 0.1 else "")
    elif not broken and rng.random() < 0.01:
        code = "23r-M/2.1"
    maker, spacing = ("Agfa", "0.15") if rng.random() < 112 / 20327 else ("Siemens", "0.144")
    side = "L" if left else "R"
    exposures: list[Exposure] = []
    for number, projection in enumerate(projections):
        base, zoom = SIZES[projection], float(rng.uniform(0.86, 1.15))
        size = (round(base[0] * zoom * float(rng.uniform(0.94, 1.06))), round(base[1] * zoom))
        is_hidden = number == hidden
        view = View(size, projection, left, cast, metal, thin, healing, is_hidden, side, int(rng.integers(2**31)))
        visible = broken and not is_hidden
        uncertain = visible and max(item.severity for item in wrist.breaks) < 0.15 and rng.random() < 0.4
        direction = {"frontal": 1, "lateral": 2, "other": 3}[projection]
        stem = f"{patient:04d}_{time + number:010d}_{study:02d}_WRI-{side}{direction}_{sex}{int(age):03d}"
        flags = {name: "1" if value else "" for name, value in {
            "initial": not follow_up, "cast": cast, "uncertain": uncertain, "thin": thin, "visible": visible, "metal": metal,
        }.items()}  # fmt: skip
        row = (
            stem, f"{patient}", f"{study}", f"{time + number}", sex, f"{age:.1f}", side, f"{direction}", flags["initial"], code,
            flags["cast"], flags["uncertain"], flags["thin"], flags["visible"], flags["metal"], spacing, maker,
        )  # fmt: skip
        exposures.append(Exposure(stem, row, wrist, view))
    return exposures


def _write_table(path: Path, exposures: list[Exposure]) -> None:
    """Write dataset.csv as published: with a byte order mark, flags 1 or blank, the time hash without leading zeros."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(exposure.row for exposure in exposures)


def _write_labels(structure: Path, drawn: Drawn) -> None:
    """Write one image's boxes in the three public formats; an image without boxes gets an empty YOLO file."""
    width, height = drawn.size
    lines: list[str] = []
    voc: list[str] = []
    objects: list[dict[str, object]] = []
    for title, (left, top, right, bottom) in drawn.found:
        numbers = (
            (left + right) / 2 / width,
            (top + bottom) / 2 / height,
            (right - left) / width,
            (bottom - top) / height,
        )
        lines.append(" ".join([f"{TITLES.index(title)}", *(f"{number:.6f}" for number in numbers)]) + "\n")
        corners = {"xmin": round(left) + 1, "ymin": round(top) + 1, "xmax": round(right), "ymax": round(bottom)}
        bounds = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
        voc.append(f"<object><name>{title}</name><difficult>0</difficult><bndbox>{bounds}</bndbox></object>")
        exterior = [[round(left), round(top)], [round(right), round(bottom)]]
        objects.append(
            {"classTitle": title, "geometryType": "rectangle", "points": {"exterior": exterior, "interior": []}}
        )
    middle = [[width // 2, round(height * 0.9)], [width // 2, round(height * 0.5)]]
    objects.append({"classTitle": "axis", "geometryType": "line", "points": {"exterior": middle, "interior": []}})
    (structure / f"yolov5/labels/{drawn.stem}.txt").write_text("".join(lines), encoding="utf-8")
    size = f"<size><width>{width}</width><height>{height}</height><depth>1</depth></size>"
    text = f"<annotation><filename>{drawn.stem}.png</filename>{size}{''.join(voc)}</annotation>\n"
    (structure / f"pascalvoc/{drawn.stem}.xml").write_text(text, encoding="utf-8")
    sheet = {"description": "", "tags": [], "size": {"height": height, "width": width}, "objects": objects}
    (structure / f"supervisely/wrist/ann/{drawn.stem}.json").write_text(json.dumps(sheet), encoding="utf-8")


def _draw_all(root: Path, exposures: list[Exposure], *, seed: int, progress: Progress | None) -> list[Drawn]:
    per_part = -(-len(exposures) // PARTS)
    work = [
        (root / f"images_part{start // per_part + 1}", exposures[start : min(start + 16, (start // per_part + 1) * per_part)], seed)
        for part in range(0, len(exposures), per_part)
        for start in range(part, min(part + per_part, len(exposures)), 16)
    ]  # fmt: skip
    drawn: list[Drawn] = []
    with pool(len(work)) as workers:
        for batch in workers.map(_draw_batch, work):
            drawn += batch
            if progress is not None:
                progress(len(drawn), len(exposures))
    return drawn


def _draw_batch(work: tuple[Path, list[Exposure], int]) -> list[Drawn]:
    """Draw some images as 16-bit PNG files; runs in a worker process."""
    import numpy as np
    from PIL import Image

    from clinloop.standin.wrists import expose

    folder, exposures, seed = work
    drawn: list[Drawn] = []
    for exposure in exposures:
        counts, found = expose(exposure.wrist, exposure.view, np.random.default_rng([seed, 3, exposure.view.seed]))
        Image.fromarray(counts).save(folder / f"{exposure.stem}.png", compress_level=3)
        drawn.append(Drawn(exposure.stem, exposure.view.size, found))
    return drawn
