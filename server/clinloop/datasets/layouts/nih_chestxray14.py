"""NIH ChestX-ray14: chest films as PNG, one row each with its findings; the custodian picks the finding that is the label.

Source: https://nihcc.app.box.com/v/ChestXray-NIHCC. Traps: commas inside two header names; a trailing comma in the 2017 copy;
"058Y" and impossible ages; several films of a patient; official lists that must not share patients; "Infiltrate" in the box list.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from clinloop.datasets.case import Case, Detection, LayoutOptions, LayoutResult, Split
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, clean_value, listed
from clinloop.datasets.layouts.public import (
    by_stem,
    chosen_attributes,
    column_values,
    find_tables,
    group_choice,
    refuse_columns,
    refuse_repeated_rows,
    years,
)
from clinloop.errors import BadInput

DEFAULT_FINDING = "Pneumothorax"
NO_FINDING = "No Finding"
ATTRIBUTES = ("age", "sex", "view", "follow_up")
_SAME = {"infiltrate": "infiltration"}
_LISTS: dict[str, Split] = {"train_val_list.txt": "train", "test_list.txt": "test"}
_KEY, _FINDINGS = "Image Index", "Finding Labels"
DRAIN_COLUMNS = ("Image Index", "Drain")
"""Columns of the table of NEATX, whose films are these."""


@dataclass(frozen=True)
class Film:
    """What the entry table says of an image."""

    patient: str
    findings: frozenset[str]
    """In the table's spelling; empty = "No Finding"."""
    values: dict[str, str]
    """ATTRIBUTES that the table has."""


@dataclass(frozen=True)
class Entries:
    """The entry table."""

    name: str
    films: dict[str, Film]
    """By file name without suffix."""
    findings: list[str]
    """All findings that occur, sorted."""
    notes: list[str]


class NihChestXray14:
    """The layout `nih_chestxray14`."""

    name = "nih_chestxray14"
    looks_for = (
        "Data_Entry_2017.csv or Data_Entry_2017_v2020.csv (columns Image Index and Finding Labels) and its PNG images"
    )

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for the entry table and one of its images."""
        name = entries_table(folder)
        if name is None:
            return Detection(0.0, "there is no CSV with the columns Image Index and Finding Labels")
        base = PurePosixPath(name).name
        if not folder.images:
            return Detection(0.0, f"there is a {base}, but no image")
        has_drains = bool(find_tables(folder, DRAIN_COLUMNS))  # then it is NEATX unless this layout is asked for
        return Detection(0.9 if has_drains else 1.0, f"found {base} and {len(folder.images)} images")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; `label_column` is the finding (default Pneumothorax), `attributes` may name other findings.

        The official test list becomes the test set where no patient is in both lists, as the table knows patients.
        """
        if (found := self.detect(folder, options)).score == 0:
            raise BadInput(f"This is not the layout nih_chestxray14: {found.reason}.")
        refuse_columns(self.name, options, label=False)
        by_patient = group_choice(self.name, options, ["patient"]) == "patient"
        entries = read_entries(folder)
        finding = _finding(options.label_column or DEFAULT_FINDING, entries.findings)
        present = [name for name in ATTRIBUTES if any(name in film.values for film in entries.films.values())]
        others = [name for name in entries.findings if name != finding]
        attributes = chosen_attributes(self.name, options, [*present, *others], present)
        images = by_stem(folder.images)
        notes, tally = [*entries.notes], ExcludedTally()
        splits = _official(folder, entries, images.sources.keys(), notes)
        classes = classes_of(finding)
        cases: list[Case] = []
        for stem, source in sorted(images.sources.items()):
            film = entries.films.get(stem)
            if film is None:
                tally.add("an image without a row in the entry table", stem)
            elif splits is not None and stem not in splits:
                tally.add("an image in neither official list", stem)
            else:
                values = {name: film_value(film, name) for name in attributes}
                group = film.patient if by_patient else None
                cases.append(
                    Case(source, classes[finding in film.findings], group, splits[stem] if splits else None, values)
                )
        for stem in sorted(entries.films.keys() - images.sources.keys()):
            tally.add("a row without an image file", stem)
        if images.n_copies:
            notes.append(f"{images.n_copies} image file(s) with the name of another one were left aside.")
        if find_tables(folder, (_KEY, "Finding Label")):
            notes.append("The boxes of BBox_List_2017.csv are not used: only some images of a few findings have any.")
        return LayoutResult(
            cases=cases,
            classes=classes,
            group_kind="patient" if by_patient else "image",
            attributes=attributes,
            excluded=tally.result(),
            problems=[],
            notes=notes,
        )


def entries_table(folder: Folder) -> str | None:
    """Return the entry table: of several the last by name, as the copy v2020 corrects the one of 2017."""
    return max(find_tables(folder, (_KEY, _FINDINGS)), key=lambda name: PurePosixPath(name).name, default=None)


def read_entries(folder: Folder) -> Entries:
    """Read the entry table.

    Raises:
        BadInput: there is none, or it lists an image twice.
    """
    name = entries_table(folder)
    if name is None:
        raise BadInput(
            "There is no Data_Entry_2017.csv or Data_Entry_2017_v2020.csv (columns Image Index and Finding Labels)."
        )
    table = folder.table(name)
    base = PurePosixPath(name).name
    stems = [PurePosixPath(cell).stem for cell in column_values(table, _KEY)]
    refuse_repeated_rows(stems, base)
    columns = {"age": "Patient Age", "sex": "Patient Gender", "view": "View Position", "follow_up": "Follow-up #"}
    columns["sex"] = table.first_of(("Patient Gender", "Patient Sex")) or columns["sex"]
    patients = column_values(table, "Patient ID") if table.column("Patient ID") is not None else [""] * len(stems)
    positions = {attribute: i for attribute, title in columns.items() if (i := table.column(title)) is not None}
    films: dict[str, Film] = {}
    odd_ages = contradictions = 0
    for stem, patient, cell, row in zip(stems, patients, column_values(table, _FINDINGS), table.rows, strict=True):
        values = {attribute: clean_value(row[i]) for attribute, i in positions.items()}
        if age := values.get("age", ""):
            values["age"] = years(age)
            odd_ages += not values["age"]
        named = patient_of(stem)
        contradictions += bool(clean_value(patient)) and named not in {"", _number(patient)}
        findings = frozenset(part.strip() for part in cell.split("|")) - {"", NO_FINDING}
        films[stem] = Film(_number(patient) or named or stem, findings, values)
    notes = [f"{odd_ages} impossible age(s) are left empty."] if odd_ages else []
    if contradictions:
        notes.append(
            f"{contradictions} image(s) carry another patient number in their name than in {base}; the table counts."
        )
    tables = [PurePosixPath(other).name for other in find_tables(folder, (_KEY, _FINDINGS)) if other != name]
    if tables:
        notes.append(f"Findings come from {base}; {listed(tables)} is not used.")
    return Entries(base, films, sorted({finding for film in films.values() for finding in film.findings}), notes)


def patient_of(stem: str) -> str:
    """Return the patient number that an image's name starts with (00000013_002 gives "13"), "" if it has none."""
    head = stem.split("_", 1)[0]
    return str(int(head)) if head.isascii() and head.isdigit() and "_" in stem else ""


def film_value(film: Film, attribute: str) -> str:
    """Return an attribute of an image: a column of the table, or "1" and "0" for a finding."""
    return film.values.get(attribute, "") if attribute in ATTRIBUTES else str(int(attribute in film.findings))


def classes_of(finding: str) -> list[str]:
    """Return the two classes of a finding: without it, with it."""
    name = finding.replace("_", " ").casefold()
    return [f"no {name}", name]


def _finding(wanted: str, known: list[str]) -> str:
    """Return the table's spelling of a finding.

    Raises:
        BadInput: it does not occur.
    """

    def plain(text: str) -> str:
        text = text.casefold().replace("_", " ").strip()
        return _SAME.get(text, text)

    for finding in known:
        if plain(finding) == plain(wanted):
            return finding
    raise BadInput(f"There is no finding {wanted!r}; name one of {', '.join(known)} as the label column.")


def _official(folder: Folder, entries: Entries, here: Collection[str], notes: list[str]) -> dict[str, Split] | None:
    """Return the publisher's split of each listed image; None, with a note, where there is none that can be used."""
    paths = {PurePosixPath(name).name.casefold(): name for name in reversed(folder.files(".txt"))}
    missing = [name for name in _LISTS if name not in paths]
    if len(missing) == len(_LISTS):
        return None
    if missing:
        notes.append(f"The official split is not used: there is no {missing[0]}.")
        return None
    splits: dict[str, Split] = {}
    patients: dict[Split, set[str]] = {"train": set(), "test": set()}
    for name, split in _LISTS.items():
        for line in folder.text(paths[name]).splitlines():
            if stem := PurePosixPath(line.strip()).stem:
                splits[stem] = split
                film = entries.films.get(stem)
                patients[split].add(film.patient if film else patient_of(stem) or stem)
    if shared := len(patients["train"] & patients["test"]):
        notes.append(f"The official split is not used: {shared} patient(s) are in both lists.")
        return None
    if not any(splits.get(stem) == "test" for stem in here) or not any(splits.get(stem) == "train" for stem in here):
        notes.append("The official split is not used: one of its parts has no image here.")
        return None
    notes.append("The split is the official one; its lists share no patient, which was checked.")
    return splits


def _number(patient: str) -> str:
    """Return a patient's number without leading zeros, as the table and the file names write it differently."""
    text = clean_value(patient).removesuffix(".0")
    return str(int(text)) if text.isascii() and text.isdigit() else text
