"""Distances between outlines against MONAI, whose values are stored beside, and against their definition, pair by pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clinloop.scoring import service, surfaces
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.predictions import Mask
from clinloop.scoring.rle import drawn
from clinloop.scoring.truth import TruthCase

from .oracles.masks import PAIRS, make_pair

STORED = json.loads((Path(__file__).parent / "oracles" / "monai.json").read_text(encoding="utf-8"))


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the (row, column) of the pixels with a neighbour outside, one after the other."""
    height, width = mask.shape

    def is_in(row: int, column: int) -> bool:
        return 0 <= row < height and 0 <= column < width and bool(mask[row, column])

    return np.array(
        [
            (row, column)
            for row, column in np.argwhere(mask)
            if not all(
                is_in(*at) for at in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
            )
        ]
    )


def by_definition(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return hd95 and nsd from the distances of all pairs of outline pixels."""
    first, second = outline(one), outline(other)
    distances = np.sqrt(np.square(first[:, None] - second[None]).sum(axis=2))
    there, back = distances.min(axis=1), distances.min(axis=0)
    near = sum(there <= 2.0) + sum(back <= 2.0)
    return max(np.percentile(there, 95), np.percentile(back, 95)), near / (len(there) + len(back))


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_distances_equal_those_of_monai(number: int) -> None:
    found = surfaces.compare(*make_pair(number))
    assert found.hd95 == pytest.approx(
        STORED["pairs"][number]["hd95"], rel=1e-4
    )  # MONAI's ranks are of single precision
    assert found.nsd == pytest.approx(STORED["pairs"][number]["nsd"], rel=1e-6)


def test_stored_values_are_of_many_kinds() -> None:
    assert len(STORED["pairs"]) == len(PAIRS) >= 12
    assert len({round(pair["hd95"], 3) for pair in STORED["pairs"]}) >= 9
    assert {pair["nsd"] for pair in STORED["pairs"]} >= {0.0, 1.0}


@pytest.mark.parametrize("sparse", [0, 10**9], ids=["tree", "map"])
def test_distances_equal_their_definition_whichever_way_they_are_found(
    sparse: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surfaces, "_SPARSE", sparse)
    random = np.random.default_rng(0)
    for _ in range(25):
        one, other = (random.random((19, 13)) < random.choice([0.02, 0.3, 0.9]) for _ in range(2))
        one[random.integers(19), random.integers(13)] = other[random.integers(19), random.integers(13)] = True
        assert surfaces.compare(one, other) == pytest.approx(by_definition(one, other))


def test_single_pixels_are_as_far_apart_as_they_lie() -> None:
    one, other = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    one[0, 0] = other[3, 4] = True
    assert surfaces.compare(one, other) == (5.0, 0.0)
    assert surfaces.compare(one, one) == (0.0, 1.0)
    other[:] = False
    other[0, 2] = True
    assert surfaces.compare(one, other) == (2.0, 1.0)  # the tolerance itself is near enough


def test_run_lengths_are_drawn_column_by_column() -> None:
    assert drawn((1, 2, 3), 2, 3).tolist() == [[False, True, False], [True, False, False]]
    assert drawn((0, 6), 2, 3).all()
    assert not drawn((6,), 2, 3).any()


def test_masks_of_large_images_are_compared_within_the_memory_of_a_scoring_process() -> None:
    scheme = Scheme(("no tumour", "tumour"), task_type="segmentation", targets=("tumour",))
    rows, columns = np.mgrid[:1024, :1024]
    truth, masks = [], {}
    for number in range(4):
        mask = np.hypot(rows - 512, columns - 400 - 40 * number) < 100 + 100 * number
        truth.append(TruthCase(f"c{number}", "", "tumour", 1024, 1024, None, runs_of(mask)))
        masks[f"c{number}"] = Mask(1024, 1024, runs_of(np.roll(mask, 3, axis=1)))
    result = service.score_predictions(
        service.predictions_bytes(masks, scheme), truth, scheme=scheme, metrics=["hd95", "nsd"], primary="dice"
    )
    hd95, nsd = result.metrics["hd95"], result.metrics["nsd"]
    assert hd95.value is not None
    assert nsd.value is not None
    assert 2 < hd95.value <= 3
    assert 0.3 < nsd.value < 1
    assert hd95.low is not None


def runs_of(mask: np.ndarray) -> tuple[int, ...]:
    flat = mask.ravel(order="F")
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    runs = np.diff(ends, prepend=0).tolist()
    return (0, *runs) if flat[0] else tuple(runs)
