"""The ISIC 2019 stand-in: the public layout to the letter, classes that can be learned, melanoma that overlaps nevus."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop.errors import BadInput
from clinloop.standin import STANDINS, isic2019

CLASSES = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"]
IMAGES = 600


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("standin") / "isic"
    isic2019.write(out, images=IMAGES, seed=3)
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def labels(root: Path, part: str) -> dict[str, str]:
    truth = rows(root / f"ISIC_2019_{part}_GroundTruth.csv")
    return {row["image"]: next(name for name in row if name != "image" and row[name] == "1.0") for row in truth}


def metadata(root: Path, part: str = "Training") -> dict[str, dict[str, str]]:
    return {row["image"]: row for row in rows(root / f"ISIC_2019_{part}_Metadata.csv")}


def picture(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def header(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0]


def test_the_folder_holds_exactly_what_the_public_download_holds(root: Path) -> None:
    assert sorted(path.name for path in root.iterdir()) == [
        "ISIC_2019_Test_GroundTruth.csv",
        "ISIC_2019_Test_Input",
        "ISIC_2019_Test_Metadata.csv",
        "ISIC_2019_Training_GroundTruth.csv",
        "ISIC_2019_Training_Input",
        "ISIC_2019_Training_Metadata.csv",
    ]


def test_headers_are_those_of_the_public_files(root: Path) -> None:
    for part, ids in {"Training": "lesion_id,", "Test": ""}.items():
        assert header(root / f"ISIC_2019_{part}_GroundTruth.csv") == "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
        assert header(root / f"ISIC_2019_{part}_Metadata.csv") == f"image,age_approx,anatom_site_general,{ids}sex"


@pytest.mark.parametrize("part", ["Training", "Test"])
def test_every_image_has_one_row_in_both_tables_and_one_file(root: Path, part: str) -> None:
    files = sorted(path.stem for path in (root / f"ISIC_2019_{part}_Input").glob("*.jpg"))
    assert len(files) == len(list((root / f"ISIC_2019_{part}_Input").iterdir()))
    assert files == [row["image"] for row in rows(root / f"ISIC_2019_{part}_GroundTruth.csv")]
    assert files == [row["image"] for row in rows(root / f"ISIC_2019_{part}_Metadata.csv")]
    assert all(re.fullmatch(r"ISIC_\d{7}(_downsampled)?", name) for name in files)


@pytest.mark.parametrize("part", ["Training", "Test"])
def test_ground_truth_is_one_hot_in_the_public_number_format(root: Path, part: str) -> None:
    for row in rows(root / f"ISIC_2019_{part}_GroundTruth.csv"):
        assert sorted(value for name, value in row.items() if name != "image") == ["0.0"] * 8 + ["1.0"]


def test_no_image_is_in_training_and_test(root: Path) -> None:
    train, test = labels(root, "Training"), labels(root, "Test")
    assert len(train) == IMAGES
    assert len(test) == pytest.approx(IMAGES / 3, abs=IMAGES / 30)
    assert not set(train) & set(test)


def test_classes_come_at_the_real_proportions_with_a_few_of_each(root: Path) -> None:
    public = {"MEL": 4522, "NV": 12875, "BCC": 3323, "AK": 867, "BKL": 2624, "DF": 239, "VASC": 253, "SCC": 628}
    found = Counter(labels(root, "Training").values())
    assert {label: found[label] for label in CLASSES} == pytest.approx(
        {label: IMAGES * count / 25331 for label, count in public.items()}, abs=5
    )
    assert min(found[label] for label in CLASSES) >= 8


def test_only_the_test_holds_unknown_diagnoses_about_a_quarter_of_it(root: Path) -> None:
    assert "UNK" not in labels(root, "Training").values()
    test = Counter(labels(root, "Test").values())
    assert 0.2 < test["UNK"] / sum(test.values()) < 0.3
    assert min(test[label] for label in CLASSES) >= 4


def test_lesions_are_seen_again_and_have_one_label(root: Path) -> None:
    truth = labels(root, "Training")
    groups: dict[str, set[str]] = {}
    sizes: Counter[str] = Counter()
    for image, row in metadata(root).items():
        if row["lesion_id"]:
            assert re.fullmatch(r"(BCN|HAM|MSK4)_\d{7}", row["lesion_id"])
            groups.setdefault(row["lesion_id"], set()).add(truth[image])
            sizes[row["lesion_id"]] += 1
    assert all(len(diagnoses) == 1 for diagnoses in groups.values())
    repeated = sum(size for size in sizes.values() if size > 1)
    assert 0.45 < repeated / IMAGES < 0.8  # 0.65 in the public set
    assert {name.split("_")[0] for name in sizes} == {"BCN", "HAM", "MSK4"}


def test_every_rare_class_has_several_lesions_so_that_it_can_be_split(root: Path) -> None:
    truth = labels(root, "Training")
    lesions: dict[str, set[str]] = {label: set() for label in CLASSES}
    for image, row in metadata(root).items():
        lesions[truth[image]].add(row["lesion_id"] or image)
    assert min(len(found) for found in lesions.values()) >= 4


def test_missing_lesion_ids_and_downsampled_names_occur_only_in_the_public_classes(root: Path) -> None:
    truth, table = labels(root, "Training"), metadata(root)
    without = {truth[image] for image, row in table.items() if not row["lesion_id"]}
    downsampled = [image for image in table if image.endswith("_downsampled")]
    assert without == {"MEL", "NV", "BKL"}
    assert {truth[image] for image in downsampled} <= {"MEL", "NV", "BKL"}
    assert 0.05 < len(downsampled) / IMAGES < 0.12  # 0.082 in the public set


def test_a_downsampled_sibling_is_the_same_picture_with_the_same_label_and_no_lesion_id(root: Path) -> None:
    truth, table = labels(root, "Training"), metadata(root)
    pairs = [(name, f"{name}_downsampled") for name in table if f"{name}_downsampled" in table]
    assert pairs
    for original, sibling in pairs:
        assert truth[original] == truth[sibling]
        assert table[original]["lesion_id"] == table[sibling]["lesion_id"] == ""
        large, small = (picture(root / f"ISIC_2019_Training_Input/{name}.jpg") for name in (original, sibling))
        assert large.width > small.width
        difference = np.asarray(large.resize((32, 32)), float) - np.asarray(small.resize((32, 32)), float)
        assert np.abs(difference).mean() < 4


def test_some_ages_sites_and_sexes_are_missing_and_the_others_are_spelt_as_in_public(root: Path) -> None:
    table = metadata(root).values()
    assert all(
        re.fullmatch(r"\d{1,2}\.0", row["age_approx"]) and float(row["age_approx"]) % 5 == 0
        for row in table
        if row["age_approx"]
    )
    assert {row["sex"] for row in table} == {"male", "female", ""}
    assert {row["anatom_site_general"] for row in table} - {""} <= set(isic2019.SITES)
    for column in ("age_approx", "anatom_site_general"):
        assert any(not row[column] for row in table)


def test_archives_differ_in_shape_and_class_mix_as_in_public(root: Path) -> None:
    truth = labels(root, "Training")
    shapes: dict[str, set[float]] = {}
    melanoma: dict[str, list[bool]] = {}
    for image, row in metadata(root).items():
        archive = row["lesion_id"].split("_")[0]
        if archive in ("HAM", "BCN"):
            width, height = picture(root / f"ISIC_2019_Training_Input/{image}.jpg").size
            shapes.setdefault(archive, set()).add(round(width / height, 2))
            melanoma.setdefault(archive, []).append(truth[image] == "MEL")
    assert shapes == {"BCN": {1.0}, "HAM": {1.33}}
    assert np.mean(melanoma["BCN"]) > np.mean(melanoma["HAM"])


def test_the_same_seed_gives_the_same_bytes_on_one_core_and_another_seed_other_ones(tmp_path: Path) -> None:
    def digest(seed: int, name: str) -> str:
        isic2019.write(tmp_path / name, images=60, seed=seed)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        content = b"".join(str(path.relative_to(tmp_path / name)).encode() + path.read_bytes() for path in files)
        return hashlib.sha256(content).hexdigest()

    cores = os.sched_getaffinity(0)
    first = digest(5, "all-cores")
    os.sched_setaffinity(0, {min(cores)})
    try:
        second = digest(5, "one-core")
    finally:
        os.sched_setaffinity(0, cores)
    assert first == second
    assert first != digest(6, "other-seed")


def test_progress_counts_every_image_file(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    isic2019.write(tmp_path / "isic", images=60, seed=0, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (100, 100)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_drawing_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clinloop", "standin", "isic2019", str(tmp_path / "isic"), "--images", "3000"]
    asked = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(tmp_path.rglob("*.jpg")):
        assert time.monotonic() < end and asked.poll() is None
        time.sleep(0.05)
    workers = [
        pid
        for task in Path(f"/proc/{asked.pid}/task").iterdir()
        for pid in (task / "children").read_text(encoding="utf-8").split()
    ]
    assert workers
    asked.kill()
    asked.wait()
    while any(Path("/proc", pid).exists() for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_folder_with_content_or_an_impossible_size_is_refused_and_nothing_written(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(BadInput, match="not empty"):
        isic2019.write(tmp_path / "mine", images=100, seed=0)
    for images in (59, 25332):
        with pytest.raises(BadInput, match="25331"):
            isic2019.write(tmp_path / "new", images=images, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_stand_ins_are_found_by_name() -> None:
    assert STANDINS["isic2019"] is isic2019.write


def features(path: Path) -> np.ndarray:
    """Return simple colour and shape features: colour moments and histograms, rings around the centre, edge strength."""
    image = picture(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = np.asarray(image.resize((48, 48), Image.Resampling.BOX, (left, top, left + side, top + side)), float) / 255
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    ring = np.clip((np.hypot(x, y) * 5).astype(int), 0, 4)
    rings = [pixels[ring == k].mean(axis=0) for k in range(5)] + [pixels[ring == k].std(axis=0) for k in range(5)]
    histogram = [np.histogram(pixels[ring < 3][:, c], 8, (0, 1))[0] / 500 for c in range(3)]
    edges = np.abs(np.diff(pixels.mean(axis=2), axis=0))
    saturation = pixels.max(axis=2) - pixels.min(axis=2)
    return np.concatenate([*rings, *histogram, [edges.mean(), edges.std(), saturation.mean(), saturation.std()]])


def test_simple_features_learn_the_classes_but_cannot_tell_melanoma_from_nevus_fully(root: Path) -> None:
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import roc_auc_score

    def read(part: str) -> tuple[np.ndarray, np.ndarray]:
        known = {image: label for image, label in labels(root, part).items() if label != "UNK"}
        x = np.stack([features(root / f"ISIC_2019_{part}_Input/{image}.jpg") for image in known])
        return x, np.array(list(known.values()))

    x, y = read("Training")
    x_test, y_test = read("Test")
    model = ExtraTreesClassifier(400, min_samples_leaf=2, random_state=0).fit(x, y)
    probability = dict(zip(model.classes_, model.predict_proba(x_test).T, strict=True))
    macro = np.mean([roc_auc_score(y_test == label, probability[label]) for label in CLASSES])
    pair = np.isin(y_test, ["MEL", "NV"])
    score = (probability["MEL"] - probability["NV"])[pair]
    assert 0.80 < macro < 0.985
    assert 0.65 < roc_auc_score(y_test[pair] == "MEL", score) < 0.93


def test_no_two_lesions_are_near_duplicates(root: Path) -> None:
    import imagehash

    hashes, thumbnails, lesions = [], [], []
    for part in ("Training", "Test"):
        for image, row in metadata(root, part).items():
            gray = picture(root / f"ISIC_2019_{part}_Input/{image}.jpg").convert("L")
            hashes.append(imagehash.phash(gray).hash.ravel())
            small = np.asarray(gray.resize((32, 32), Image.Resampling.BOX), float).ravel()
            thumbnails.append((small - small.mean()) / small.std())
            lesions.append(row.get("lesion_id") or image.removesuffix("_downsampled"))
    bits = np.packbits(hashes, axis=1)
    close = np.bitwise_count(bits[:, None] ^ bits[None]).sum(axis=2) <= 4
    first, second = np.nonzero(np.triu(close, 1))
    correlation = [float(np.mean(thumbnails[i] * thumbnails[j])) for i, j in zip(first, second, strict=True)]
    alike = [(lesions[i], lesions[j]) for i, j, c in zip(first, second, correlation, strict=True) if c > 0.97]
    assert alike, "siblings at least look alike"
    assert [pair for pair in alike if pair[0] != pair[1]] == []
