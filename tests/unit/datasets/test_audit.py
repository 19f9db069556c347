"""What the audit says, and that it never looks at the test set."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clinloop.datasets import layouts, vault

from . import annotated
from .conftest import Add, Picture


def test_image_size_that_gives_the_label_away_is_found_and_named(
    add, make_class_folders, tmp_path: Path, picture
) -> None:
    root = make_class_folders(tmp_path / "in", n=40)
    honest = add(root, "honest").audit
    assert (
        honest.metadata_model is None
        or max(honest.metadata_model.auc_alone["file size"], honest.metadata_model.macro_auc) < 0.8
    )
    for i in range(30):
        picture(100 + i, (80, 60)).save(root / "malignant" / f"malignant-{i}.png")
    audit = add(root, "confounded").audit
    assert audit.metadata_model is not None and audit.metadata_model.macro_auc > 0.8
    assert audit.metadata_model.auc_alone["file type"] == 0.5  # the same everywhere
    assert {"width", "height"} <= set(list(audit.metadata_model.auc_alone)[:3])
    assert (
        "Metadata alone predicts the class" in audit.warnings[0] and audit.lines()[0] == f"Warning: {audit.warnings[0]}"
    )
    assert audit.image_sizes[0].width == 60


def test_the_same_picture_with_two_labels_is_reported_and_kept_in_one_split(
    add, make_class_folders, tmp_path: Path
) -> None:
    root = make_class_folders(tmp_path / "in", n=20)
    for i in range(6):
        shutil.copy(root / "benign" / f"benign-{i}.png", root / "malignant" / f"copy-{i}.png")
    dataset = add(root)
    source = {
        row.split(",")[0]: row.split(",")[1]
        for row in (dataset.vault / "sources.csv").read_text(encoding="utf-8").splitlines()[1:]
    }
    by_picture: dict[str, set[tuple[str, str]]] = {}
    for case in [*dataset.cases(), *vault.open_test(dataset.folder)]:
        name = Path(source[case.case_id]).stem.removeprefix("copy-").removeprefix("benign-")
        if not name.startswith("malignant"):
            by_picture.setdefault(name, set()).add((case.split, case.group))
    assert all(len(places) == 1 for places in by_picture.values())
    facts = dataset.audit.exact_duplicates
    assert facts.n_clusters == facts.n_with_several_labels > 0 and facts.n_cases == 2 * facts.n_clusters
    assert any("different labels" in warning for warning in dataset.audit.warnings)


def test_attributes_are_counted_against_the_label_on_train_and_val_only(isic) -> None:
    facts = {item.name: item for item in isic.audit.attributes}
    assert list(facts) == isic.attributes == ["age_approx", "anatom_site_general", "sex"]
    assert facts["age_approx"].is_number and facts["age_approx"].by_class["MEL"].median == 30
    assert facts["age_approx"].n_missing == 8 * 3  # two images of one lesion and the sibling of another
    assert {value.value for value in facts["sex"].values} == {"male", "female"}
    assert sum(value.count for value in facts["sex"].values) + facts["sex"].n_missing == len(isic.cases())
    assert any("age_approx in MEL: median 30" in line for line in isic.attribute_lines())
    assert isic.audit.supervision == {split: {"image": len(isic.cases(split))} for split in ("train", "val")}


def test_the_audit_does_not_change_with_the_test_set(add, make_isic, isic, tmp_path: Path, picture) -> None:
    root = make_isic(tmp_path / "in")
    for i, path in enumerate(sorted((root / "ISIC_2019_Test_Input").iterdir())):
        picture(9000 + i, (90, 90)).convert("L").save(path)
    (root / "ISIC_2019_Test_Metadata.csv").write_text("image,age_approx,anatom_site_general,sex\n", encoding="utf-8")
    path = sorted((root / "ISIC_2019_Test_Input").iterdir())[0]
    path.write_bytes(b"broken")
    other = add(root, "isic", cache_px=(16, 32))
    assert (other.folder / "audit.json").read_bytes() == (isic.folder / "audit.json").read_bytes()
    assert vault.custodian_audit(other.folder) != vault.custodian_audit(isic.folder)


@pytest.fixture
def wrists(tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wrists of which those with a cast are mostly fractured; "ward" says nothing; every fourth file of the healthy has another mode."""
    monkeypatch.setattr(layouts, "LAYOUTS", [annotated.Annotated()])
    root = tmp_path / "in"
    root.mkdir()
    cases = []
    for i in range(120):
        broken, cast = i % 2 == 1, (i % 2 == 1) != (i % 10 == 0)
        image = picture(i)
        (image if broken or i % 4 else image.convert("L")).save(root / f"w{i}.png")
        boxes = [["fracture", 6, 9, 12, 9]] * (1 + (i % 4 == 1)) if broken else []
        attributes = {"cast": str(int(cast)), "ward": "abc"[i // 2 % 3], "constant": "1"}
        label = "fracture" if broken else "no fracture"
        cases.append({"source": f"w{i}.png", "label": label, "boxes": boxes, "attributes": attributes})
    return annotated.write(
        root, cases, task_type="detection", attributes=["ward", "constant", "cast"], group_kind="image"
    )


def test_the_audit_says_which_cases_have_boxes_and_that_most_have_labels_only(add: Add, wrists: Path) -> None:
    dataset = add(wrists, keep_boxes=0.2)
    audit, cases = dataset.audit, dataset.cases()
    for split in ("train", "val"):
        for level in ("box", "image"):
            own = [case.label for case in cases if case.split == split and case.supervision == level]
            found = audit.supervision_by_class[split].get(level, {})
            assert found == {name: own.count(name) for name in set(own)}
    n_boxes = sum(len(case.boxes or ()) for case in cases)
    assert len(audit.truth) == 1 and audit.truth[0].n_boxes == n_boxes and audit.truth[0].most_boxes == 2
    assert audit.truth[0].box_percent is not None and audit.truth[0].box_percent.median == 4  # 12 × 9 of 60 × 45 px
    n_kept, n_train = audit.supervision["train"]["box"], len(dataset.cases("train"))
    assert f"train: {n_kept} cases with supervision box" in "\n".join(dataset.audit_lines())
    assert any(text.startswith(f"Only {n_kept} of {n_train} training cases have boxes") for text in audit.warnings)
    assert dataset.summary()["supervision"] == audit.supervision


def test_every_attribute_and_the_files_are_tried_as_predictors_and_the_strong_ones_are_named(
    add: Add, wrists: Path
) -> None:
    dataset = add(wrists)
    audit = dataset.audit
    assert audit.metadata_model is not None
    alone = {item.name: item.auc_alone for item in audit.attributes}
    assert alone["cast"] is not None and alone["cast"] > 0.8
    assert alone["ward"] is not None and abs(alone["ward"] - 0.5) < 0.15 and alone["constant"] == 0.5
    assert audit.metadata_model.auc_alone["image mode"] > 0.65 and audit.metadata_model.auc_alone["file type"] == 0.5
    named = next(text for text in audit.warnings if text.startswith("Attributes that alone predict the class"))
    assert "cast" in named and "ward" not in named
    lines = dataset.attribute_lines()
    assert lines[0].startswith("cast: 0 missing; alone it predicts the class with macro AUC")
    table = {value.value: value.by_class for item in audit.attributes if item.name == "cast" for value in item.values}
    for value in "01":
        own = [case.label for case in dataset.cases() if case.attributes["cast"] == value]
        assert table[value] == {name: own.count(name) for name in dataset.classes}
    n, of = table["1"]["fracture"], sum(table["1"].values())
    assert any(
        line.startswith(f"cast = 1: {of} cases: ") and f"fracture {n} ({100 * n / of:.0f} %)" in line for line in lines
    )


def test_masks_are_counted_with_their_area_and_the_empty_ones_apart(
    add: Add, tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "LAYOUTS", [annotated.Annotated()])
    dataset = add(annotated.write_chests(tmp_path / "in", picture))
    (facts,) = dataset.audit.truth
    cases = dataset.cases()
    assert facts.n_masks == len(cases) and facts.n_empty_masks == sum(case.label == "no pneumothorax" for case in cases)
    assert facts.mask_percent is not None and facts.mask_percent.median == pytest.approx(
        100 * 150 / (60 * 45), abs=1e-3
    )


def test_a_class_that_never_occurs_is_said_to_be_missing(
    add: Add, tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "LAYOUTS", [annotated.Annotated()])
    root = annotated.write_wrists(tmp_path / "in", picture, label="fracture", boxes=[["fracture", 5, 5, 10, 20]])
    audit = add(root).audit
    assert any(text.startswith("No training or validation case is no fracture") for text in audit.warnings)
    assert not any("unbalanced" in text or "no fracture (0)" in text for text in audit.warnings)
