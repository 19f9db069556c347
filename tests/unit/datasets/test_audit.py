"""What the audit says, and that it never looks at the test set."""

from __future__ import annotations

import shutil
from pathlib import Path

from clinloop.datasets import vault


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
