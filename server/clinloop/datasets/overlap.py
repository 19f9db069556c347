"""Whether two datasets share images or patients: what a model was trained on against what it is asked to label."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from clinloop.datasets.case import LayoutOptions
from clinloop.datasets.dataset import CaseRow, Dataset
from clinloop.errors import Refusal

_Fingerprint = tuple[str, int, bytes]


class Overlap(NamedTuple):
    """Cases of one dataset that are known from another, by case id."""

    exact: frozenset[str]
    """The same pixels."""
    near: frozenset[str]
    """Other pixels that show the same picture: perceptual hashes and thumbnails agree."""
    patients: frozenset[str] | None
    """Of the same patient; None = could not be compared."""
    why_not: str
    """Why patients could not be compared; empty where they were."""

    def within(self, case_ids: Sequence[str]) -> Overlap:
        """Return the overlap among some cases only."""
        chosen = frozenset(case_ids)
        patients = None if self.patients is None else self.patients & chosen
        return Overlap(self.exact & chosen, self.near & chosen, patients, self.why_not)

    @property
    def is_clean(self) -> bool:
        """Whether everything was compared and nothing is shared."""
        return not self.exact and not self.near and self.patients == frozenset()

    def sentence(self, n: int, model: str) -> str:
        """Say in words what is shared; n: the cases that were compared."""
        found = f"of {n} images {len(self.exact)} are pixel by pixel, and {len(self.near)} more by their look, images that {model} was made with"
        if self.patients is None:
            return f"{found}; patients could not be compared: {self.why_not}"
        return f"{found}; {len(self.patients)} are of its patients"


def find_overlap(
    known: Dataset,
    seen: Sequence[CaseRow],
    other: Dataset,
    cases: Sequence[CaseRow],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Overlap:
    """Return which `cases` of `other` are among the cases `seen` of `known`, by pixels, by look and by patient.

    Stored images are compared, so a DICOM and a PNG of one film are two files with one look.
    """
    import numpy as np

    from clinloop.datasets.duplicates import near_duplicate_clusters

    everything = [*seen, *cases]
    prints: list[_Fingerprint] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, found in enumerate(pool.map(_fingerprint, (case.image for case in everything)), start=1):
            prints.append(found)
            progress(done, len(everything))
    pixels = {digest for digest, _, _ in prints[: len(seen)]}
    exact = {case.case_id for case, (digest, _, _) in zip(cases, prints[len(seen) :], strict=True) if digest in pixels}
    hashes = np.array([value for _, value, _ in prints], dtype=np.uint64)
    thumbnails = np.frombuffer(b"".join(pixel for _, _, pixel in prints), dtype=np.uint8).reshape(len(prints), -1)
    clusters = near_duplicate_clusters(hashes, thumbnails)
    near: set[str] = set()
    for cluster in (*clusters.clusters, *clusters.too_large):
        if any(at < len(seen) for at in cluster):
            near |= {everything[at].case_id for at in cluster if at >= len(seen)}
    patients, why_not = _shared_patients(known, seen, other, cases)
    return Overlap(frozenset(exact), frozenset(near - exact), patients, why_not)


def _fingerprint(image: Path) -> _Fingerprint:
    from PIL import Image

    from clinloop.datasets.pixels import THUMBNAIL_PX, perceptual_hash

    with Image.open(image) as file:
        rgb = file.convert("RGB")
    gray = rgb.convert("L")
    thumbnail = gray.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR).tobytes()
    digest = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()
    return digest, perceptual_hash(gray), thumbnail


def _shared_patients(
    known: Dataset, seen: Sequence[CaseRow], other: Dataset, cases: Sequence[CaseRow]
) -> tuple[frozenset[str] | None, str]:
    """Compare patient ids as the publishers wrote them, read again from the originals: what is stored of a group tells nobody who it was."""
    for dataset in (known, other):
        if dataset.group_kind != "patient":
            return None, f"images of {dataset.name} are grouped by {dataset.group_kind}, not by patient"
    patients: list[dict[str, str]] = []
    for dataset in (known, other):
        found = _raw_patients(dataset)
        if found is None:
            return None, f"the originals of {dataset.name} cannot be read any more"
        patients.append(found)
    names = {patients[0].get(case.case_id, "") for case in seen} - {""}
    return frozenset(case.case_id for case in cases if patients[1].get(case.case_id, "") in names), ""


def _raw_patients(dataset: Dataset) -> dict[str, str] | None:
    """Return the publisher's patient id by case id, None where the originals are gone or cannot be read without the custodian's options."""
    from clinloop.datasets.layouts import LAYOUTS
    from clinloop.datasets.layouts.folder import Folder
    from clinloop.datasets.vault import seal_state

    root = Path(seal_state(dataset.folder).source)
    layout = next((layout for layout in LAYOUTS if layout.name == dataset.record.layout), None)
    if layout is None or not root.is_dir():
        return None
    try:
        cases = layout.read(Folder(root), LayoutOptions()).cases
    except Refusal:
        return None
    groups = {case.source: case.group for case in cases if case.group}
    text = (dataset.vault / "sources.csv").read_text(encoding="utf-8")
    return {
        row["case_id"]: groups[row["source"]] for row in csv.DictReader(text.splitlines()) if row["source"] in groups
    }
