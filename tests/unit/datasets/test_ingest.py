"""From a folder to a sealed dataset."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from clinloop.datasets import vault
from clinloop.datasets.dataset import MTIME, Dataset, remove
from clinloop.datasets.pixels import RULES
from clinloop.errors import BadInput, LeakFound, NotNow, Unknown


def text_for_agents(dataset: Dataset) -> str:
    """Everything of a dataset that an agent or its code can read as text."""
    files = [
        dataset.folder / "dataset.json",
        dataset.folder / "audit.json",
        *dataset.view.glob("*.csv"),
        *dataset.view.glob("*.json"),
    ]
    said = [json.dumps(dataset.summary()), *dataset.audit_lines(), *dataset.attribute_lines()]
    return "\n".join([file.read_text(encoding="utf-8") for file in files] + said)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_view_shows_training_labels_and_hides_validation_labels(isic: Dataset) -> None:
    shown = rows(isic.view / "cases.csv")
    assert list(shown[0]) == [
        "case_id",
        "split",
        "group",
        "label",
        "supervision",
        "age_approx",
        "anatom_site_general",
        "sex",
    ]
    assert {row["split"] for row in shown} == {"train", "val"}
    assert all((row["label"] == "") == (row["split"] == "val") for row in shown)
    truth = rows(isic.val_truth)
    assert list(truth[0]) == ["case_id", "group", "label"]
    assert {row["case_id"] for row in truth} == {row["case_id"] for row in shown if row["split"] == "val"}
    assert isic.counts == {
        split: {name: sum(case.label == name for case in isic.cases(split)) for name in isic.classes}
        for split in ("train", "val")
    }
    assert all(count > 0 for counts in isic.counts.values() for count in counts.values())


def test_nothing_of_the_test_set_is_in_the_view_or_in_what_agents_may_read(isic: Dataset) -> None:
    test = vault.open_test(isic.folder)
    assert len(test) == 8 * 3 and {case.image.parent for case in test} == {isic.vault / "images"}
    seen = {path.stem for path in (isic.view / "images").iterdir()}
    assert seen == {case.case_id for case in isic.cases()} and not seen & {case.case_id for case in test}
    text = text_for_agents(isic)
    assert not [case.case_id for case in test if case.case_id in text or case.group in text]
    assert "UNK, which" not in text
    in_view = {path.read_bytes() for path in (isic.view / "images").iterdir()}
    assert not in_view & {case.image.read_bytes() for case in test}
    for px in isic.cache_px:
        assert len(json.loads((isic.view / f"cache_{px}.json").read_text(encoding="utf-8"))["case_ids"]) == len(seen)


def test_no_file_name_lesion_id_or_metadata_of_the_source_survives(isic: Dataset) -> None:
    text = text_for_agents(isic)
    assert "ISIC_00" not in text and "BCN_" not in text and "Secret" not in text and "downsampled" not in text
    assert isic.audit.metadata_tags == {"EXIF Artist": 1, "EXIF Orientation": 1, "text comment": 1}
    for path in (isic.view / "images").iterdir():
        data = path.read_bytes()
        with Image.open(path) as image:
            assert not image.getexif() and set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert b"Secret" not in data and b"Exif" not in data


def test_times_order_and_permissions_say_nothing(isic: Dataset) -> None:
    paths = [isic.view, *isic.view.rglob("*")]
    assert {path.stat().st_mtime for path in paths} == {MTIME}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o755, 0o644}
    assert stat.S_IMODE(isic.vault.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in isic.vault.rglob("*") if path.is_file()} == {0o600}
    ids = [case.case_id for case in isic.cases()]
    assert ids == sorted(ids)


def test_orientation_is_applied_and_large_images_are_reduced(
    isic: Dataset, isic_root: Path, add, make_class_folders, tmp_path: Path, picture
) -> None:
    sources = {row["source"]: row["case_id"] for row in rows(isic.vault / "sources.csv")}
    turned = sources["ISIC_2019_Training_Input/ISIC_0000001.jpg"]
    with Image.open(isic.image_path(turned)) as image:
        assert image.size == (45, 60)
    root = make_class_folders(tmp_path / "in")
    picture(77, (400, 200)).save(root / "benign" / "large.png")
    dataset = add(root, max_px=100)
    assert {size(case.image) for case in [*dataset.cases(), *vault.open_test(dataset.folder)]} == {(60, 45), (100, 50)}


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def check_caches(dataset: Dataset) -> None:
    for px in dataset.cache_px:
        cache = np.load(dataset.view / f"cache_{px}.npy", mmap_mode="r")
        index = json.loads((dataset.view / f"cache_{px}.json").read_text(encoding="utf-8"))
        assert cache.shape == (len(dataset.cases()), px, px, 3) and cache.dtype == np.uint8 and index["px"] == px
        assert sorted(index["case_ids"]) == sorted(case.case_id for case in dataset.cases())
        for case_id, stored in zip(index["case_ids"], cache, strict=True):
            with Image.open(dataset.image_path(case_id)) as image:
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                box = (left, top, left + side, top + side)
                expected = np.asarray(image.resize((px, px), Image.Resampling.BICUBIC, box=box))
            assert np.array_equal(expected, stored)


def test_the_caches_hold_the_centre_square_of_every_shown_image_and_of_no_other(
    isic: Dataset, add, make_class_folders, tmp_path: Path
) -> None:
    assert isic.cache_px == [16, 32]
    check_caches(isic)
    check_caches(add(make_class_folders(tmp_path / "in", n=30)))  # cases that become test leave the cache


def test_no_group_sibling_or_near_duplicate_is_in_two_splits(isic: Dataset, isic_root: Path) -> None:
    split_of = {case.case_id: case.split for case in isic.cases()}
    group_of = {case.case_id: case.group for case in isic.cases()}
    by_group: dict[str, set[str]] = {}
    for case_id, group in group_of.items():
        by_group.setdefault(group, set()).add(split_of[case_id])
    assert all(len(splits) == 1 for splits in by_group.values())
    lesion = {row["image"]: row["lesion_id"] for row in rows_bom(isic_root / "ISIC_2019_Training_Metadata.csv")}
    case_of = {Path(row["source"]).stem: row["case_id"] for row in rows(isic.vault / "sources.csv")}
    groups_of_lesion: dict[str, set[str]] = {}
    for image, name in lesion.items():
        if name:
            groups_of_lesion.setdefault(name, set()).add(group_of[case_of[image]])
    assert all(len(groups) == 1 for groups in groups_of_lesion.values())
    siblings = [
        image for image in lesion if image.removesuffix("_downsampled") in lesion and image.endswith("_downsampled")
    ]
    assert len(siblings) == 8
    assert all(group_of[case_of[image]] == group_of[case_of[image.removesuffix("_downsampled")]] for image in siblings)
    assert isic.audit.siblings.n_cases == 16 and isic.audit.near_duplicates.n_cases == 0


def rows_bom(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_key_and_seed_give_the_same_dataset_and_another_key_gives_other_ids(
    add, make_class_folders, tmp_path: Path
) -> None:
    root = make_class_folders(tmp_path / "in")
    first, again, other = (
        add(root, state=tmp_path / name, key=key * 32) for name, key in (("a", b"k"), ("b", b"k"), ("c", b"x"))
    )
    assert (first.folder / "cases.csv").read_bytes() == (again.folder / "cases.csv").read_bytes()
    assert first.record.split == again.record.split and first.commitment != again.commitment  # the salt is fresh
    assert not {case.case_id for case in first.cases()} & {case.case_id for case in other.cases()}
    renamed = add(root, "other-name", state=tmp_path / "a", key=b"k" * 32)
    assert not {case.case_id for case in first.cases()} & {case.case_id for case in renamed.cases()}
    assert add(root, "seeded", state=tmp_path / "a", seed=1).record.split.digest != first.record.split.digest


def test_the_commitment_notices_a_moved_case_and_a_changed_image(add, make_class_folders, tmp_path: Path) -> None:
    dataset = add(make_class_folders(tmp_path / "in"))
    assert vault.verify_commitment(dataset.folder)
    image = vault.open_test(dataset.folder)[0].image
    original = image.read_bytes()
    image.write_bytes(original + b"x")
    assert not vault.verify_commitment(dataset.folder)
    assert vault.verify_commitment(dataset.folder, check_images=False)
    image.write_bytes(original)
    table = dataset.folder / "cases.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",train,", ",val,", 1), encoding="utf-8")
    assert not vault.verify_commitment(dataset.folder)


def test_a_leak_into_the_official_test_is_refused_dropped_or_accepted_with_a_reason(
    add, make_isic, tmp_path: Path
) -> None:
    root = make_isic(tmp_path / "in", leak=True)
    with pytest.raises(LeakFound) as refusal:
        add(root)
    assert "near-duplicate" in str(refusal.value) and "ISIC_" not in str(refusal.value)
    assert any("ISIC_0000002.jpg" in note for note in refusal.value.__notes__)
    assert Dataset.list_names(tmp_path / "state") == []
    dropped = add(root, "dropped", on_leak="drop")
    facts = vault.custodian_audit(dropped.folder).leaks
    assert facts.policy == "drop" and "ISIC_2019_Training_Input/ISIC_0000002.jpg" in facts.dropped
    assert len(dropped.cases()) == 8 * 13 - len(facts.dropped) == len(list((dropped.view / "images").iterdir()))
    assert np.load(dropped.view / "cache_16.npy").shape[0] == len(dropped.cases())
    kept = add(root, "kept", on_leak="The copy is a different visit.")
    assert (
        len(kept.cases()) == 8 * 13
        and vault.custodian_audit(kept.folder).leaks.policy == "The copy is a different visit."
    )
    assert "different visit" not in text_for_agents(kept)


def test_handwritten_digits_as_class_folders_are_split_sanely(add, tmp_path: Path) -> None:
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        (tmp_path / "digits" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(tmp_path / "digits" / str(label) / f"{i}.png")
    dataset = add(tmp_path / "digits", cache_px=(16, 224))
    test = vault.open_test(dataset.folder)
    assert dataset.classes == [str(i) for i in range(10)] and dataset.cache_px == [
        16
    ]  # 8-pixel images need no 224-pixel cache
    assert len(dataset.cases()) + len(test) == 1797
    assert len(test) == pytest.approx(0.2 * 1797, abs=20) and len(dataset.cases("val")) == pytest.approx(
        0.2 * 0.8 * 1797, abs=90
    )
    assert min(dataset.counts["val"].values()) > 20 and dataset.audit.near_duplicates.n_cases < 20


def test_every_kind_of_picture_becomes_8_bit_rgb(add, make_class_folders, tmp_path: Path, picture) -> None:
    root = make_class_folders(tmp_path / "in")
    made = root / "benign"
    ramp = np.linspace(1000, 3000, 60 * 45).reshape(45, 60)
    Image.fromarray(ramp.astype(np.uint16)).save(made / "sixteen.png")
    Image.fromarray(ramp.astype(np.float32)).save(made / "float.tif")
    picture(1).convert("CMYK").save(made / "cmyk.jpg")
    picture(2).convert("P").save(made / "palette.gif")
    picture(3).convert("L").save(made / "gray.jpg")
    clear = picture(4).convert("RGBA")
    clear.putalpha(0)
    clear.save(made / "clear.png")
    picture(5).convert("1").save(made / "bit.png")
    picture(6).save(made / "frames.gif", save_all=True, append_images=[picture(7)])
    dataset = add(root)
    source = {row["case_id"]: Path(row["source"]).name for row in rows(dataset.vault / "sources.csv")}
    stored = {source[case.case_id]: pixels(case.image) for case in [*dataset.cases(), *vault.open_test(dataset.folder)]}
    assert {image.shape for image in stored.values()} == {(45, 60, 3)}
    assert stored["sixteen.png"].min() == 0 and stored["sixteen.png"].max() == 255 and stored["float.tif"].max() == 255
    assert stored["clear.png"].max() == 0
    assert not vault.custodian_audit(dataset.folder).unreadable and set(dataset.audit.handling) <= set(RULES) | {
        "reduced"
    }


def test_unreadable_images_are_listed_with_reasons_and_left_out(
    add, make_class_folders, tmp_path: Path, picture
) -> None:
    root = make_class_folders(tmp_path / "in")
    whole = (root / "benign" / "benign-0.png").read_bytes()
    (root / "benign" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (root / "benign" / "empty.jpg").write_bytes(b"")
    (root / "benign" / "text.jpg").write_text("no image", encoding="utf-8")
    (root / "malignant" / "gigapixel.png").write_bytes(declare_size(whole, 40_000, 25_000))
    dataset = add(root)
    unreadable = vault.custodian_audit(dataset.folder).unreadable
    assert {Path(source).name: reason for source, reason in unreadable.items()} == {
        "truncated.png": "it is truncated",
        "empty.jpg": "it is empty or not an image of a known format",
        "text.jpg": "it is empty or not an image of a known format",
        "gigapixel.png": "it declares more than 100 megapixels",
    }
    assert sum(item.count for item in dataset.audit.unreadable) == 4 and "gigapixel.png" not in text_for_agents(dataset)


def declare_size(png: bytes, width: int, height: int) -> bytes:
    """Return a PNG whose header declares another size."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def test_a_name_is_taken_until_its_dataset_is_removed(add, make_class_folders, tmp_path: Path) -> None:
    root, state = make_class_folders(tmp_path / "in"), tmp_path / "state"
    add(root, "moles")
    with pytest.raises(BadInput, match="clinloop data remove moles"):
        add(root, "moles")
    assert Dataset.list_names(state) == ["moles"]
    remove(state, "moles")
    assert Dataset.list_names(state) == [] and [path.name for path in (state / "datasets").iterdir()] == [".lock-moles"]
    with pytest.raises(Unknown, match="none yet"):
        Dataset.load(state, "moles")
    add(root, "moles")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../b", "/abs", "a b", ".hidden", "x" * 65, "nul\0"])
def test_a_name_that_could_be_a_path_is_refused(name: str, add, make_class_folders, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot name a dataset"):
        add(make_class_folders(tmp_path / "in"), name)
    with pytest.raises(Unknown):
        Dataset.load(tmp_path / "state", name)


def test_a_refusal_lists_all_problems_and_leaves_nothing(add, make_class_folders, tmp_path: Path, picture) -> None:
    root = make_class_folders(tmp_path / "in")
    for name in ("rare", "rarer"):
        (root / name).mkdir()
        picture(50).save(root / name / "1.png")
    (root / "rare" / "2.png").write_bytes(b"broken")
    with pytest.raises(BadInput) as refusal:
        add(root)
    assert (
        "'rare' has 1 group" in str(refusal.value)
        and "'rarer' has 1 group" in str(refusal.value)
        and "1 image(s) cannot be read" in str(refusal.value)
    )
    assert any("rare/2.png" in note for note in refusal.value.__notes__)
    with pytest.raises(BadInput) as refusal:
        add(tmp_path / "nowhere", val=0.9, max_px=1, on_leak="why")
    assert all(word in str(refusal.value) for word in ("no such folder", "val is 0.9", "max_px is 1", "on_leak"))
    assert [path.name for path in (tmp_path / "state" / "datasets").iterdir()] == [".lock-data"]


def test_empty_folders_files_and_folders_without_a_readable_image_are_refused(add, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "archive.zip").write_bytes(b"x")
    for name in ("a", "b"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "1.jpg").write_bytes(b"x")
    for root, text in (
        ("empty", "fits no layout"),
        ("archive.zip", "unpack"),
        ("broken", "None of the 2 images can be read"),
    ):
        with pytest.raises(BadInput, match=text):
            add(tmp_path / root)


def test_attributes_may_have_the_names_of_fixed_columns(add, tmp_path: Path, picture, make_csv) -> None:
    (tmp_path / "in").mkdir()
    for i in range(12):
        picture(i).save(tmp_path / "in" / f"{i}.png")
    table = [[f"{i}.png", "ab"[i % 2], i % 3, i % 4] for i in range(12)]
    make_csv(tmp_path / "in" / "all.csv", ["path", "dx", "label", "group"], table)
    dataset = add(tmp_path / "in", columns=layout_options(label_column="dx", group_by="none"))
    assert dataset.attributes == ["label_attribute", "group_attribute"]
    assert list(rows(dataset.view / "cases.csv")[0]) == [
        "case_id",
        "split",
        "group",
        "label",
        "supervision",
        "label_attribute",
        "group_attribute",
    ]


def layout_options(**values: object) -> object:
    from clinloop.datasets.case import LayoutOptions

    return LayoutOptions(**values)


def test_a_second_ingest_of_the_same_name_is_told_to_wait(add, make_class_folders, tmp_path: Path) -> None:
    from clinloop.datasets.dataset import lock_name

    with lock_name(tmp_path / "state", "data"), pytest.raises(NotNow, match="another process"):
        add(make_class_folders(tmp_path / "in"))
