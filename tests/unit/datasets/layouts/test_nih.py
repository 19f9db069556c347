"""NIH ChestX-ray14 and the drain labels of NEATX on its films, with the traps of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from clinloop.datasets.case import LayoutOptions, LayoutResult
from clinloop.datasets.layouts import choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
DRAINS = "NIH-CX14_TubeAnnotations_NonExperts_aggregated.csv"
FINDINGS = ("No Finding", "Pneumothorax", "Effusion|Pneumothorax", "Infiltration")


def read(root: Path, layout: str = "auto", **options: object) -> LayoutResult:
    folder, chosen_options = Folder(root), LayoutOptions(**options)
    return choose_layout(folder, layout, chosen_options).layout.read(folder, chosen_options)


def refusal_of(root: Path, layout: str = "auto", **options: object) -> str:
    with pytest.raises(BadInput) as refusal:
        read(root, layout, **options)
    return "\n".join([str(refusal.value), *getattr(refusal.value, "__notes__", [])])


def stems(n_patients: int = 8, views: int = 3) -> list[str]:
    return [f"{patient:08d}_{view:03d}" for patient in range(1, n_patients + 1) for view in range(views)]


@pytest.fixture
def make_nih(picture: Callable[..., Image.Image]) -> Callable[..., Path]:
    """Write the archive: two folders of images, and the entry table with commas in its header names."""

    def make(root: Path, *, end: str = "", name: str = "Data_Entry_2017_v2020.csv", ages: str = "058Y") -> Path:
        lines = [HEADER + end]
        for at, stem in enumerate(stems()):
            part = root / f"images_{1 + at % 2:03d}" / "images"
            part.mkdir(parents=True, exist_ok=True)
            picture(at, (32, 32)).convert("L").save(part / f"{stem}.png")
            finding, view = FINDINGS[at % 4], "AP" if at % 2 else "PA"
            age = "414" if at == 5 else ages
            lines.append(
                f"{stem}.png,{finding},{at % 3},{int(stem[:8])},{age},{'MF'[at % 2]},{view},2682,2749,0.143,0.143{end}"
            )
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return root

    return make


def write_lists(root: Path, test: list[str], train: list[str] | None = None) -> None:
    train = [stem for stem in stems() if stem not in test] if train is None else train
    (root / "train_val_list.txt").write_text("\n".join(f"{stem}.png" for stem in train), encoding="utf-8")
    (root / "test_list.txt").write_text("\r\n".join(f"{stem}.png" for stem in test), encoding="utf-8")


@pytest.mark.parametrize("end", ["", ","])
def test_commas_in_header_names_and_the_trailing_comma_shift_nothing(end: str, make_nih, tmp_path: Path) -> None:
    result = read(make_nih(tmp_path, end=end))
    case = next(case for case in result.cases if "00000001_001" in case.source)
    assert case.attributes == {"age": "58", "sex": "F", "view": "AP", "follow_up": "1"}
    assert case.label == "pneumothorax" and case.group == "1"
    assert result.classes == ["no pneumothorax", "pneumothorax"] and result.group_kind == "patient"
    assert Counter(case.label for case in result.cases) == {"no pneumothorax": 12, "pneumothorax": 12}
    assert any("1 impossible age" in note for note in result.notes)


def test_the_finding_is_the_custodians_choice_in_any_spelling(make_nih, tmp_path: Path) -> None:
    root = make_nih(tmp_path)
    result = read(root, label_column="infiltrate", attributes=("view", "effusion"))
    assert result.classes == ["no infiltration", "infiltration"] and result.attributes == ["view", "Effusion"]
    assert sum(case.label == "infiltration" for case in result.cases) == 6
    assert {case.attributes["Effusion"] for case in result.cases} == {"0", "1"}
    assert "name one of Effusion, Infiltration, Pneumothorax" in refusal_of(root, label_column="Fracture")
    assert "fixed columns" in refusal_of(root, "nih_chestxray14", image_column="Image Index")


def test_the_official_lists_are_the_split_where_they_share_no_patient(make_nih, tmp_path: Path) -> None:
    root = make_nih(tmp_path)
    write_lists(root, [stem for stem in stems() if stem.startswith(("00000007", "00000008"))])
    result = read(root)
    assert Counter(case.split for case in result.cases) == {"train": 18, "test": 6}
    assert any("share no patient, which was checked" in note for note in result.notes)


def test_official_lists_that_share_a_patient_are_not_used(make_nih, tmp_path: Path) -> None:
    root = make_nih(tmp_path)
    write_lists(root, stems()[-4:])
    result = read(root)
    assert {case.split for case in result.cases} == {None}
    assert any("1 patient(s) are in both lists" in note for note in result.notes)


def test_an_image_in_neither_list_is_left_out_and_one_list_alone_is_no_split(make_nih, tmp_path: Path) -> None:
    root = make_nih(tmp_path)
    write_lists(root, stems()[-3:], stems()[:-4])
    assert [(item.reason, item.count) for item in read(root).excluded] == [("an image in neither official list", 1)]
    (root / "train_val_list.txt").unlink()
    result = read(root)
    assert {case.split for case in result.cases} == {None} and any(
        "there is no train_val_list.txt" in note for note in result.notes
    )


def test_rows_without_image_images_without_row_and_copies_are_said(make_nih, tmp_path: Path) -> None:
    root = make_nih(tmp_path)
    (root / "images_001" / "images" / "00000001_000.png").rename(root / "images_001" / "images" / "00000099_000.png")
    (root / "all").mkdir()
    (root / "all" / "00000001_001.png").write_bytes(next(root.rglob("00000001_001.png")).read_bytes())
    result = read(root)
    assert {(item.reason, item.count) for item in result.excluded} == {
        ("an image without a row in the entry table", 1),
        ("a row without an image file", 1),
    }
    assert any("1 image file(s) with the name of another one" in note for note in result.notes)


def test_the_corrected_table_of_2020_goes_before_the_one_of_2017(make_nih, tmp_path: Path) -> None:
    root = make_nih(tmp_path)
    newer = (root / "Data_Entry_2017_v2020.csv").read_text(encoding="utf-8")
    (root / "Data_Entry_2017.csv").write_text(newer.replace("Pneumothorax", "Effusion"), encoding="utf-8")
    result = read(root)
    assert any("Data_Entry_2017.csv is not used" in note for note in result.notes)


def test_a_table_that_lists_an_image_twice_is_refused(make_nih, tmp_path: Path) -> None:
    table = make_nih(tmp_path) / "Data_Entry_2017_v2020.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([*lines, lines[1]]) + "\n", encoding="utf-8")
    text = refusal_of(tmp_path)
    assert (
        "lists 1 image(s) more than once" in text
        and "data rows 1 and 25: the same image" in text
        and "0000" not in text
    )


def write_drains(root: Path, values: dict[str, str]) -> None:
    header = ",Image Index,Drain,Drain_a1,Drain_Location_a1,Drain_a2,Drain_Location_a2"
    lines = [
        f"{at},{stem}.png,{value},{int(value not in {'', '0'})},left,1,left"
        for at, (stem, value) in enumerate(values.items())
    ]
    (root / DRAINS).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def test_drain_labels_are_joined_to_the_nih_films_their_patients_and_attributes(make_nih, tmp_path: Path) -> None:
    root = make_nih(tmp_path)
    write_drains(
        root, {stem: ("0", "1", "2", "0.0")[at % 4] for at, stem in enumerate(stems()[:16])} | {"00000077_000": "1"}
    )
    result = read(root)
    assert result.classes == ["no drain", "drain"] and result.group_kind == "patient"
    assert Counter(case.label for case in result.cases) == {"no drain": 8, "drain": 8}
    case = next(case for case in result.cases if "00000001_002" in case.source)
    assert (case.label, case.group) == ("drain", "1")
    assert case.attributes == {"age": "58", "sex": "M", "view": "PA", "follow_up": "2", "Pneumothorax": "1"}
    assert {(item.reason, item.count) for item in result.excluded} == {
        ("an image without a drain label: unknown, which is not negative", 8),
        ("a drain label without an image file", 1),
    }
    assert any("8 of 16 films have no pneumothorax" in note for note in result.notes)
    assert any("The two annotators differ on 4 of the 17" in note for note in result.notes)
    assert any("SIIM-ACR" in note for note in result.notes)


def test_a_folder_with_both_tables_is_neatx_unless_nih_is_asked_for(make_nih, tmp_path: Path) -> None:
    root = make_nih(tmp_path)
    write_drains(root, dict.fromkeys(stems(), "1"))
    folder = Folder(root)
    assert choose_layout(folder, "auto", LayoutOptions()).layout.name == "neatx"
    assert read(root, "nih_chestxray14").classes == ["no pneumothorax", "pneumothorax"]


def test_without_the_entry_table_patients_come_from_the_file_names(make_nih, tmp_path: Path) -> None:
    root = make_nih(tmp_path)
    (root / "Data_Entry_2017_v2020.csv").unlink()
    write_drains(root, {stem: str(at % 2) for at, stem in enumerate(stems())})
    result = read(root)
    assert {case.group for case in result.cases} == {
        str(patient) for patient in range(1, 9)
    } and result.attributes == []
    assert any("cannot be measured" in note for note in result.notes)


def test_a_blank_drain_is_unknown_and_another_value_is_refused_with_its_row(make_nih, tmp_path: Path) -> None:
    root = make_nih(tmp_path)
    write_drains(root, {stem: "" if at == 3 else str(at % 2) for at, stem in enumerate(stems())})
    assert len(read(root).cases) == len(stems()) - 1
    write_drains(root, {stem: "3" if at == 3 else str(at % 2) for at, stem in enumerate(stems())})
    assert f"{DRAINS}, data row 4: a value of Drain other than 0, 1 and 2" in refusal_of(root)


def test_drain_labels_without_their_films_are_refused_with_what_is_missing(make_nih, tmp_path: Path) -> None:
    root = make_nih(tmp_path)
    write_drains(root, {"00000500_000": "1"})
    assert "none of its NIH ChestX-ray14 images" in refusal_of(root, "neatx")


def test_both_are_ingested_with_whole_patients_on_one_side(
    make_nih, tmp_path: Path, add: Callable[..., object]
) -> None:
    root = make_nih(tmp_path / "nih")
    nih = add(root, "nih", test=0.25)
    assert nih.record.group_kind == "patient" and nih.record.attributes == ["age", "sex", "view", "follow_up"]
    write_drains(root, {stem: str(int(stem[:8]) % 2) for stem in stems()})
    drains = add(root, "drains", test=0.25)
    assert drains.record.layout == "neatx" and drains.record.classes == ["no drain", "drain"]
