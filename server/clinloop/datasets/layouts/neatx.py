"""NEATX: who shows a chest drain, as non-experts marked it on films of NIH ChestX-ray14, joined to those films.

Source: https://doi.org/10.5281/zenodo.14944064 (NIH part). Traps: an unnamed index column; 2 beside 0 and 1; two annotators who may
differ; drains known for films with a pneumothorax only; films of one patient; the PadChest part, whose films are another dataset.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from clinloop.datasets.case import Case, Detection, LayoutOptions, LayoutResult
from clinloop.datasets.layouts.boxed import Faults
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, Table, clean_value
from clinloop.datasets.layouts.nih_chestxray14 import (
    ATTRIBUTES,
    DRAIN_COLUMNS,
    Film,
    entries_table,
    film_value,
    patient_of,
    read_entries,
)
from clinloop.datasets.layouts.public import (
    by_stem,
    chosen_attributes,
    column_values,
    find_tables,
    group_choice,
    refuse_columns,
)
from clinloop.errors import BadInput

CLASSES = ("no drain", "drain")
_DISEASE = "Pneumothorax"
_KEY, _DRAIN = DRAIN_COLUMNS
_VALUES = {"0": False, "1": True, "2": True}
"""2 = present, as users of the file read it."""


class Neatx:
    """The layout `neatx`."""

    name = "neatx"
    looks_for = "NIH-CX14_TubeAnnotations_NonExperts_aggregated.csv (columns Image Index and Drain) and the NIH ChestX-ray14 images that it names, with Data_Entry_2017.csv if possible"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for the drain table and for one of its images."""
        name = _drains_table(folder)
        if name is None:
            return Detection(0.0, "there is no CSV with the columns Image Index and Drain")
        base = PurePosixPath(name).name
        images = {PurePosixPath(path).stem for path in folder.images}
        named = sum(PurePosixPath(cell).stem in images for cell in column_values(folder.table(name), _KEY))
        if not named:
            return Detection(0.0, f"there is a {base}, but none of its NIH ChestX-ray14 images")
        return Detection(1.0, f"found {base} and {named} of its images")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; attributes and patients come from NIH's entry table if it is there, else patients from the file names.

        `attributes` may name findings of the entry table; Pneumothorax is one by default.
        """
        if (found := self.detect(folder, options)).score == 0:
            raise BadInput(f"This is not the layout neatx: {found.reason}.")
        refuse_columns(self.name, options)
        by_patient = group_choice(self.name, options, ["patient"]) == "patient"
        name = _drains_table(folder)
        assert name is not None
        table, notes, tally, faults = folder.table(name), list[str](), ExcludedTally(), Faults()
        drains = _drains(table, PurePosixPath(name).name, faults)
        faults.refuse()
        notes += _disagreement(table)
        entries = read_entries(folder) if entries_table(folder) else None
        films: dict[str, Film] = entries.films if entries else {}
        notes += entries.notes if entries else ["There is no Data_Entry_2017.csv: patients come from the file names, and there are no attributes."]  # fmt: skip
        findings = entries.findings if entries else []
        present = [key for key in ATTRIBUTES if any(key in film.values for film in films.values())]
        default = [*present, *(key for key in findings if key == _DISEASE)]
        attributes = chosen_attributes(self.name, options, [*present, *findings], default)
        images = by_stem(folder.images)
        cases: list[Case] = []
        for stem, source in sorted(images.sources.items()):
            if (drain := drains.get(stem)) is None:
                tally.add("an image without a drain label: unknown, which is not negative", stem)
                continue
            film = films.get(stem)
            patient = film.patient if film else patient_of(stem) or None
            values = {key: film_value(film, key) if film else "" for key in attributes}
            cases.append(Case(source, CLASSES[drain], patient if by_patient else None, None, values))
        for stem in sorted(drains.keys() - images.sources.keys()):
            tally.add("a drain label without an image file", stem)
        return LayoutResult(
            cases=cases,
            classes=list(CLASSES),
            group_kind="patient" if by_patient else "image",
            attributes=attributes,
            excluded=tally.result(),
            problems=[],
            notes=[*notes, *_caveats(folder, [PurePosixPath(case.source).stem for case in cases], films)],
        )


def _drains_table(folder: Folder) -> str | None:
    return next(iter(find_tables(folder, DRAIN_COLUMNS)), None)


def _drains(table: Table, base: str, faults: Faults) -> dict[str, bool]:
    """Return whether each image shows a drain; blank cells say nothing."""
    drains: dict[str, bool] = {}
    for number, (cell, value) in enumerate(
        zip(column_values(table, _KEY), column_values(table, _DRAIN), strict=True), start=1
    ):
        stem, text = PurePosixPath(cell).stem, clean_value(value).removesuffix(".0")
        if not text:
            continue
        if text not in _VALUES:
            faults.add("a value of Drain other than 0, 1 and 2", f"{base}, data row {number}")
        elif drains.setdefault(stem, _VALUES[text]) != _VALUES[text]:
            faults.add("an image with and without a drain", f"{base}, data row {number}")
    return drains


def _disagreement(table: Table) -> list[str]:
    """Return a note on how often the two annotators differ, nothing where their columns are missing."""
    if table.column("Drain_a1") is None or table.column("Drain_a2") is None:
        return []
    pairs = zip(column_values(table, "Drain_a1"), column_values(table, "Drain_a2"), strict=True)
    marks = [(_VALUES.get(one.removesuffix(".0")), _VALUES.get(other.removesuffix(".0"))) for one, other in pairs]
    both = [pair for pair in marks if None not in pair]
    differ = sum(one != other for one, other in both)
    return [f"The two annotators differ on {differ} of the {len(both)} images that both marked."] if both else []


def _caveats(folder: Folder, stems: list[str], films: dict[str, Film]) -> list[str]:
    """Return what a model of these labels must not be trusted with."""
    notes: list[str] = []
    known = [films[stem] for stem in stems if stem in films]
    if known:
        healthy = sum(_DISEASE not in film.findings for film in known)
        notes.append(
            f"{healthy} of {len(known)} films have no {_DISEASE.lower()} in NIH's table: how a drain classifier does on films without the disease "
            f"{'cannot be measured' if not healthy else 'rests on these'}."
        )
    else:
        notes.append(
            "The publisher labelled films with a pneumothorax: how a drain classifier does on others cannot be measured here."
        )
    notes.append(
        "The films of SIIM-ACR Pneumothorax come from the same archive: check the overlap before this classifier labels them."
    )
    if any(PurePosixPath(name).name.casefold().startswith("padchest_tube") for name in folder.tables):
        notes.append("The PadChest part is not read; its films are another dataset.")
    return notes
