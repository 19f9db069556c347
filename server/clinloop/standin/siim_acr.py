"""Writes a stand-in of SIIM-ACR Pneumothorax, stage 1: a tree of DICOM files and the CSV of relative run lengths, with drawn films.

Source: counts, names and headers as public copies of the stage-1 files have them (12,047 labelled images, 22.2 % positive, 23 % of those
with several rows, 37 of 10,712 training files without a row). Differences: a patient has up to four films (how many the public set
has is not known), names and institutions are invented, and some files are stored raw or as MONOCHROME1, which the public ones are not.
"""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clinloop.standin import films
from clinloop.standin.films import Progress, Seeds

if TYPE_CHECKING:
    import numpy as np

    from clinloop.standin.chests import Film, Mask, Radiograph

    Rng = np.random.Generator

LIMITS = (60, 10712)
POSITIVE = 0.222
SEVERAL_ROWS = 0.234
"""Share of the positive images whose mask is spread over several rows."""
WITHOUT_ROW = 37 / 10712
UNLABELLED = 0.03
"""Images of `dicom-images-test`, whose labels were not published, per training image; 0.129 in public."""
HEADER = "ImageId, EncodedPixels"
RAW, MONOCHROME1 = 0.2, 0.1
_STEM = "1.2.276.0.7230010.3.1"
_NAMES = ("Abel^Ina", "Brandt^Otto", "Castro^Luz", "Dahl^Jon", "Eder^Rosa", "Falk^Per", "Gomez^Ana", "Hahn^Karl")
_HOSPITALS = ("Invented General Hospital", "St. Nowhere Clinic")


class Patient(NamedTuple):
    """Invented facts for the headers; everything but age and sex is private."""

    id: str
    name: str
    birth_date: str
    age: str
    sex: str
    hospital: str


class Job(NamedTuple):
    """One DICOM file to write."""

    path: str
    image_id: str
    patient: Patient
    film: Film
    seeds: Seeds
    raw: bool
    """12 bits uncompressed, else 8 bits JPEG."""
    inverted: bool
    """MONOCHROME1."""
    parts: int
    """Rows that its mask is spread over."""


def write(
    out: Path, *, images: int, seed: int, progress: Progress | None = None, true_drains: Path | None = None
) -> None:
    """Write the stand-in with `images` training files into the folder `out`, deterministic by `seed`.

    `true_drains`: also write which images show a drain into this CSV file (image, drain), which must lie elsewhere.

    Raises:
        BadInput: `out` exists and is not an empty folder, or `images` is outside LIMITS.
    """
    import numpy as np

    with films.fresh_folder(out, images=images, limits=LIMITS) as root:
        rng = np.random.default_rng([seed, 2018])
        jobs = _plan(rng, images, "train", seed) + _plan(rng, max(3, round(images * UNLABELLED)), "test", seed)
        rows = films.on_all_cores(_draw, root, jobs, progress)
        labelled = [n for n in rng.permutation(images) if n >= max(2, round(images * WITHOUT_ROW))]
        _write_rows(root / "train-rle.csv", rng, [(jobs[n].image_id, rows[n]) for n in labelled])
    if true_drains is not None:
        films.write_drains(true_drains, [(job.image_id, job.film.drain) for job in jobs])


def encode(mask: Mask) -> str:
    """Return a mask (height, width) as SIIM-ACR writes it: pairs (offset from the end of the run before, length), down the columns."""
    import numpy as np

    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [0]])
    edges = np.nonzero(np.diff(flat))[0]
    starts, ends = edges[::2], edges[1::2]
    offsets = starts - np.concatenate([[0], ends[:-1]])
    return " ".join(str(n) for pair in zip(offsets, ends - starts, strict=True) for n in pair)


def _plan(rng: Rng, images: int, part: str, seed: int) -> list[Job]:
    common = round(images * films.SHARED) if part == "train" else 0
    planned = [(_patient(rng), *films.shared(seed, number)) for number in range(common)]
    positive = max(1, round(images * POSITIVE) - common)
    drains = {
        y: films.picked(rng, n, films.DRAINS[y]) for y, n in ((True, positive), (False, images - common - positive))
    }
    number = 0
    while any(drains.values()):
        patient, sick = _patient(rng), bool(rng.random() < 0.3)
        for view in range(min(4, int(rng.geometric(0.75)))):
            wanted = sick and (view == 0 or rng.random() < 0.75)  # later films may show a healed lung
            y = wanted if drains[wanted] else not wanted
            if drains[y]:
                film = films.plan(rng, pneumothorax=y, drain=drains[y].pop())
                planned.append(
                    (patient, film, Seeds((seed, part == "test", 1, number), (seed, part == "test", 2, number, view)))
                )
        number += 1
    order = [planned[n] for n in rng.permutation(len(planned))]
    return [_job(rng, part, *facts) for facts in order]


def _patient(rng: Rng) -> Patient:
    age = int(rng.integers(12, 88))
    return Patient(
        str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        str(rng.choice(_NAMES)),
        f"{1990 - age}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}",
        str(age),
        "M" if rng.random() < 0.55 else "F",
        str(rng.choice(_HOSPITALS)),
    )


def _job(rng: Rng, part: str, patient: Patient, film: Film, seeds: Seeds) -> Job:
    host, process, moment, last = (
        int(n) for n in rng.integers((300, 1000, 1517875160, 100000), (33000, 32000, 1517875300, 999990))
    )
    study, series, image = (
        f"{_STEM}.{kind}.8323{host}.{process}.{moment}.{last - n}" for kind, n in ((2, 1), (3, 2), (4, 0))
    )
    parts = int(rng.integers(2, 4)) if rng.random() < SEVERAL_ROWS else 1
    return Job(
        f"dicom-images-{part}/{study}/{series}/{image}.dcm", image, patient, film, seeds, bool(rng.random() < RAW), bool(rng.random() < MONOCHROME1), parts
    )  # fmt: skip


def _draw(work: tuple[Path, list[Job]]) -> list[list[str]]:
    """Paint and write some files; runs in a worker process. Returns the rows of each: run lengths, or none."""
    root, jobs = work
    found: list[list[str]] = []
    for job in jobs:
        radiograph = films.paint(job.film, job.seeds)
        path = root / job.path
        path.parent.mkdir(parents=True)
        _save(path, job, radiograph)
        found.append([encode(part) for part in _split(radiograph.mask, job.parts)])
    return found


def _split(mask: Mask, parts: int) -> list[Mask]:
    """Cut a mask into bands of equal area, one a row of the CSV; small ones stay whole."""
    import numpy as np

    if not mask.any():
        return []
    if mask.sum() < 20 * parts:
        return [mask]
    share = np.cumsum(mask.sum(axis=1)) / mask.sum()
    band = np.minimum((share * parts - 1e-9).astype(int), parts - 1)
    bands = [mask & (band == n)[:, None] for n in range(parts)]
    return [part for part in bands if part.any()]


def _save(path: Path, job: Job, radiograph: Radiograph) -> None:
    import numpy as np
    from PIL import Image
    from pydicom import config
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage

    pixels = 255 - radiograph.pixels if job.inverted else radiograph.pixels
    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = job.image_id
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if job.raw else JPEGBaseline8Bit
    ds: Any = Dataset()
    ds.file_meta = meta
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, job.image_id
    ds.StudyInstanceUID, ds.SeriesInstanceUID = path.parts[-3], path.parts[-2]
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "19010101", "000000.00", "", ""
    ds.Modality, ds.ConversionType, ds.BodyPartExamined, ds.ViewPosition = "CR", "WSD", "CHEST", job.film.view
    ds.SeriesDescription = f"view: {job.film.view}"
    ds.InstitutionName, ds.ReferringPhysicianName = job.patient.hospital, "Nobody^Doctor"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = job.patient.name, job.patient.id, job.patient.birth_date
    ds.PatientSex = job.patient.sex
    ds.add(
        DataElement(0x00101010, "AS", job.patient.age, validation_mode=config.IGNORE)
    )  # "51", as in public, not "051Y"
    ds.InstanceNumber, ds.SeriesNumber, ds.PatientOrientation = 1, 1, ""
    ds.PixelSpacing = ["0.5", "0.5"]
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.PhotometricInterpretation = "MONOCHROME1" if job.inverted else "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    if job.raw:
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        ds.WindowCenter, ds.WindowWidth = "2048", "4096"
        wide = pixels.astype("<u2") * np.uint16(16)
        ds.PixelData = wide.tobytes()
        ds["PixelData"].VR = "OW"
    else:
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        ds.PixelData = encapsulate([stream.getvalue()])
        ds["PixelData"].VR = "OB"
    ds.save_as(path, enforce_file_format=True)


def _write_rows(path: Path, rng: Rng, images: Sequence[tuple[str, list[str]]]) -> None:
    lines = [(image, f" {runs}") for image, rows in images for runs in (rows or ["-1"])]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(HEADER + "\n")
        csv.writer(file, lineterminator="\n").writerows(lines[n] for n in rng.permutation(len(lines)))
