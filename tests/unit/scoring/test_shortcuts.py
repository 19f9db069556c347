"""Facts that a model follows given the class, slices that fail together, and what is refused of embeddings; through the scoring process."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import rankdata

from clinloop.errors import BadPredictions
from clinloop.scoring import service
from clinloop.scoring.embeddings import parse_embeddings
from clinloop.scoring.flips import flip_test, sums_by_group
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.shortcuts import NO_EMBEDDINGS, find_shortcuts
from clinloop.scoring.slices import find_slices
from clinloop.scoring.truth import TruthBox, TruthCase

SCHEME = Scheme(("benign", "malignant"), positive="malignant")
Floats = npt.NDArray[np.float64]


def case_ids(n: int) -> list[str]:
    return [f"c{i:04d}" for i in range(n)]


def truth(labels: npt.NDArray[np.intp], groups: Sequence[int] | None = None) -> list[TruthCase]:
    names = case_ids(len(labels))
    return [
        TruthCase(name, f"g{i if groups is None else groups[i]}", SCHEME.classes[label])
        for i, (name, label) in enumerate(zip(names, labels, strict=True))
    ]


def predictions(p: Floats) -> bytes:
    rows = dict(zip(case_ids(len(p)), ((float(1 - x), float(x)) for x in p), strict=True))
    return service.probabilities_csv(rows, SCHEME.classes)


def probability(score: Floats) -> Floats:
    return 1 / (1 + np.exp(-score))


def saved(array: npt.NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def write_embeddings(folder: Path, features: Floats) -> tuple[Path, Path]:
    files = folder / "embeddings.npy", folder / "embeddings.txt"
    files[0].write_bytes(saved(features.astype(np.float16)))
    files[1].write_text("".join(f"{name}\n" for name in case_ids(len(features))), encoding="utf-8")
    return files


def test_a_fact_that_the_answers_follow_within_a_class_is_told_from_one_that_only_goes_with_the_class() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 300)
    followed, goes_with_class = y + rng.normal(size=300), y + rng.normal(size=300)
    p = probability(2 * y - 1 + followed + rng.normal(size=300))
    words = ["drain" if value > 0.5 else "none" for value in followed]
    columns = {"followed": list(followed), "with the class": list(goes_with_class), "word": words}
    found = find_shortcuts(predictions(p), truth(y), scheme=SCHEME, columns=columns)
    by_name = {item.name: item for item in found.followed}
    ours = by_name["followed"]
    # The definition by residuals, with least squares on a constant and the class.
    design = np.column_stack([np.ones(300), y])
    ranks = np.column_stack([rankdata(followed), rankdata(p)])
    rest = ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
    assert ours.partial_r == pytest.approx(np.corrcoef(rest[:, 0], rest[:, 1])[0, 1], abs=2e-4)
    assert ours.partial_r > 0.3 and ours.p is not None and ours.p < 0.01 and ours.n == 300
    assert (by_name["with the class"].p or 0) > 0.05
    assert by_name["word"].level in {"drain", "none"} and (by_name["word"].p or 1) < 0.01
    assert "followed" in by_name["word"].alike and found.slices_note == NO_EMBEDDINGS
    assert found.n_tried == 4  # two numbers, two levels of the word


def test_of_boxes_the_highest_score_and_of_masks_the_area_is_what_may_follow_a_fact() -> None:
    rng = np.random.default_rng(5)
    n = 80
    y, marker = rng.integers(0, 2, n), rng.integers(0, 2, n)
    columns = {"marker": [float(value) for value in marker], "noise": list(rng.normal(size=n))}
    names = case_ids(n)
    boxes = Scheme(("no", "yes"), task_type="detection", targets=("fracture",))
    drawn = [
        TruthCase(name, "", boxes.classes[here], 20, 20, boxes=(TruthBox(0, 1, 1, 5, 5),) * int(here))
        for name, here in zip(names, y, strict=True)
    ]
    scores = 0.2 + 0.3 * y + 0.3 * marker + 0.1 * rng.random(n)
    marked: dict[str, service.Prediction] = {
        name: (service.Detected(0, 1, 1, 5, 5, float(score)),) for name, score in zip(names, scores, strict=True)
    }
    masks = Scheme(("no", "yes"), task_type="segmentation", targets=("air",))
    outlined = [
        TruthCase(name, "", masks.classes[here], 20, 20, mask=(10, 50 * int(here), 390 - 50 * int(here)))
        for name, here in zip(names, y, strict=True)
    ]
    areas = 5 + 100 * y + 60 * marker + rng.integers(0, 20, n)
    filled: dict[str, service.Prediction] = {
        name: service.Mask(20, 20, (0, int(area), 400 - int(area))) for name, area in zip(names, areas, strict=True)
    }
    for scheme, truths, predicted in ((boxes, drawn, marked), (masks, outlined, filled)):
        data = service.predictions_bytes(predicted, scheme)
        found = {item.name: item for item in find_shortcuts(data, truths, scheme=scheme, columns=columns).followed}
        assert found["marker"].partial_r > 0.6 and (found["marker"].p or 1) < 0.01 and found["marker"].class_name == ""
        assert (found["noise"].p or 0) > 0.05


def test_of_several_classes_the_one_whose_probability_goes_with_the_fact_is_named() -> None:
    rng = np.random.default_rng(6)
    scheme = Scheme(("MEL", "NV", "BCC"))
    y, ruler = rng.integers(0, 3, 240), rng.integers(0, 2, 240)
    scores = 2 * np.eye(3)[y] + 2 * np.eye(3)[2] * ruler[:, None] + rng.normal(size=(240, 3))
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    cases = [TruthCase(name, "", scheme.classes[label]) for name, label in zip(case_ids(240), y, strict=True)]
    data = service.probabilities_csv(dict(zip(case_ids(240), p.tolist(), strict=True)), scheme.classes)
    (found,) = find_shortcuts(
        data, cases, scheme=scheme, columns={"ruler": ["yes" if r else "" for r in ruler]}
    ).followed or [None]
    assert found is None  # only one value is known: nothing to compare it with
    columns = {"ruler": ["yes" if r else "no" for r in ruler]}
    (found,) = find_shortcuts(data, cases, scheme=scheme, columns=columns).followed
    assert found.class_name == "BCC" and found.level in {"yes", "no"} and (found.p or 1) < 0.01
    assert (found.partial_r > 0) == (found.level == "yes")


def test_chance_signs_give_uniform_p_values_and_correct_for_all_that_was_tried() -> None:
    rng, lone, smallest = np.random.default_rng(0), [], []
    for seed in range(200):
        groups = rng.integers(0, 60, 120)
        # Cases of a group are alike in both factors, which a test that takes them for independent would call a finding.
        shared = rng.normal(size=(60, 9))
        values = shared[groups] + rng.normal(size=(120, 9))
        scores = values[:, :1] * values[:, 1:]
        p = flip_test(sums_by_group(scores, groups), seed=seed, draws=500)
        lone.append(flip_test(sums_by_group(scores[:, :1], groups), seed=seed, draws=500)[0])
        smallest.append(p.min())
    assert 0.02 <= np.mean(np.array(lone) <= 0.05) <= 0.09 and 0.4 <= np.mean(lone) <= 0.6
    assert np.mean(np.array(smallest) <= 0.05) <= 0.09


def world(
    seed: int, *, fails: bool, n: int = 600, gain: float = 2.0
) -> tuple[Floats, npt.NDArray[np.intp], Floats, list[str]]:
    """Return embeddings of three clusters, classes, probabilities that are noise in one cluster if it fails, and the cluster's site."""
    rng = np.random.default_rng(seed)
    cluster, y = rng.integers(0, 3, n), rng.integers(0, 2, n)
    features = rng.normal(size=(n, 24)) + 4 * np.eye(24)[cluster] + 0.5 * y[:, None]
    signal = np.where((cluster == 2) & fails, 0.0, gain)
    p = probability(signal * (2 * y - 1) + rng.normal(size=n))
    return features, y, p, [f"site {k}" for k in cluster]


def test_images_that_fail_together_are_found_and_described_in_words(tmp_path: Path) -> None:
    features, y, p, sites = world(3, fails=True)
    files = write_embeddings(tmp_path, features)
    found = find_shortcuts(predictions(p), truth(y), scheme=SCHEME, columns={"site": sites}, embeddings=files)
    worst = found.slices[0]
    assert found.slices_note == "" and worst.p is not None and worst.p < 0.05
    assert worst.error > worst.error_elsewhere + 0.15 and worst.described[0].startswith("site = site 2")
    wrong = {name for name, label, value in zip(case_ids(600), y, p, strict=True) if (value > 0.5) != label}
    assert worst.examples and len(set(worst.examples) - wrong) <= 1  # the operating point is near 0.5
    same = find_shortcuts(predictions(p), truth(y), scheme=SCHEME, columns={"site": sites}, embeddings=files)
    assert same == found


def test_slices_of_a_model_that_fails_everywhere_alike_are_rarely_called_worse() -> None:
    found = 0
    for seed in range(20):
        features, y, p, _ = world(100 + seed, fails=False, n=400, gain=0.8)
        wrong = ((p > 0.5) != y).astype(np.intp)
        split = find_slices(features, y.astype(np.intp), p[:, None], wrong, np.arange(400), seed=seed)
        assert not isinstance(split, str)
        found += bool(np.nanmin(split.p) < 0.05)
    assert found <= 3  # 5 % of 20 are 1; four or more have a probability of 1.6 %


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, ("exploded",)


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


GOOD = saved(np.ones((2, 3), dtype=np.float16))
HOSTILE = {
    "a pickle": (pickle.dumps(_Bomb()), b"a\nb\n"),
    "an array of objects": (saved(np.array([[_Bomb()], [1]], dtype=object)), b"a\nb\n"),
    "whole numbers": (saved(np.ones((2, 3), dtype=np.int64)), b"a\nb\n"),
    "doubles": (saved(np.ones((2, 3))), b"a\nb\n"),
    "one dimension": (saved(np.ones(2, dtype=np.float32)), b"a\nb\n"),
    "columns first": (saved(np.asfortranarray(np.ones((2, 3), dtype=np.float32))), b"a\nb\n"),
    "not finite": (saved(np.array([[1.0], [np.nan]], dtype=np.float32)), b"a\nb\n"),
    "too wide": (saved(np.ones((2, 2049), dtype=np.float16)), b"a\nb\n"),
    "no column": (saved(np.ones((2, 0), dtype=np.float16)), b"a\nb\n"),
    "cut off": (GOOD[:-1], b"a\nb\n"),
    "too long": (GOOD + b"x", b"a\nb\n"),
    "an unknown case": (GOOD, b"a\nz\n"),
    "a case twice": (GOOD, b"a\na\n"),
    "fewer ids than rows": (GOOD, b"a\n"),
    "ids that are no text": (GOOD, b"\xff\xfe\n\x00\n"),
    "a zip": (b"PK\x03\x04" + bytes(200), b"a\nb\n"),
    "nothing": (b"", b""),
    "a huge shape": (_header("{'descr': '<f2', 'fortran_order': False, 'shape': (2, 99999999999999999999)}\n"), b"a\nb\n"),
    "a negative shape": (_header("{'descr': '<f2', 'fortran_order': False, 'shape': (2, -1)}\n"), b"a\nb\n"),
    "code for a header": (_header("__import__('os').system('touch exploded')\n"), b"a\nb\n"),
    "a long header": (_header("(" * 300 + ")" * 300), b"a\nb\n"),
    "a later version": (GOOD[:6] + b"\x02" + GOOD[7:], b"a\nb\n"),
    "more than any": (GOOD + bytes(1 << 20), b"a\nb\n"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_embeddings_that_are_no_plain_table_of_floats_are_refused_and_nothing_of_them_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadPredictions, match="embeddings beside the predictions cannot be used"):
        parse_embeddings(*HOSTILE[kind], ["a", "b"])
    assert not list(tmp_path.iterdir())


def test_a_plain_table_is_read_as_it_was_written_and_cases_may_be_missing() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    found = parse_embeddings(saved(rows), b"b\na\n", ["a", "b", "c"])
    assert list(found) == ["b", "a"] and np.array_equal(found["b"], rows[0])


def test_a_link_in_the_place_of_embeddings_is_not_followed(tmp_path: Path) -> None:
    _, y, p, _ = world(3, fails=False, n=40)
    files = write_embeddings(tmp_path, np.ones((40, 3)))
    moved = files[0].rename(tmp_path / "elsewhere")
    files[0].symlink_to(moved)
    with pytest.raises(BadPredictions, match="plain file"):
        find_shortcuts(predictions(p), truth(y), scheme=SCHEME, columns={}, embeddings=files)
