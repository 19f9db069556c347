"""Cases gained and lost between two models, each decided at its own threshold, and their small pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop.gallery import SIDE, Answers, changed_cases, thumbnail
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.predictions import Detected, Mask
from clinloop.scoring.truth import TruthBox, TruthCase

TWO = Scheme(("no", "yes"), positive="yes")


def test_gained_and_lost_are_decided_at_the_threshold_of_each_model() -> None:
    truth = [TruthCase(name, "", label) for name, label in (("a", "yes"), ("b", "yes"), ("c", "no"), ("d", "no"))]
    rows = {"a": (0.7, 0.3), "b": (0.9, 0.1), "c": (0.8, 0.2), "d": (0.6, 0.4)}
    gained, lost = changed_cases(TWO, truth, Answers(rows, {"yes": 0.5}), Answers(rows, {"yes": 0.25}))
    assert [case.truth.case_id for case in gained] == ["a"]
    assert [case.truth.case_id for case in lost] == ["d"]
    assert lost[0].miss.said == "taken for yes (0.40)"


def test_without_a_positive_class_the_most_probable_one_is_decided() -> None:
    truth = [TruthCase("a", "", "MEL"), TruthCase("b", "", "NV")]
    scheme = Scheme(("MEL", "NV"))
    gained, lost = changed_cases(
        scheme, truth, Answers({"a": (0.4, 0.6), "b": (0.2, 0.8)}, {"MEL": 0.1}), Answers({"a": (0.6, 0.4), "b": (0.7, 0.3)}, {})
    )  # fmt: skip
    assert ([case.truth.case_id for case in gained], [case.truth.case_id for case in lost]) == (["a"], ["b"])


def read(picture: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture)))


@pytest.mark.parametrize(("size", "expected"), [((1000, 500), (SIDE, SIDE // 2)), ((300, 600), (SIDE // 2, SIDE))])
def test_pictures_are_small_jpegs_that_keep_their_shape(tmp_path: Path, size, expected) -> None:
    file = tmp_path / "case.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(file)
    picture = thumbnail(file, TruthCase("a", "", "x"), [], drawn=False)
    image = read(picture)
    assert (image.format, image.size) == ("JPEG", expected)
    assert len(picture) < 20_000
    assert not image.getexif()


def test_boxes_and_outlines_lie_where_the_image_file_has_them(tmp_path: Path) -> None:
    file = tmp_path / "case.png"
    Image.new("RGB", (448, 448), "black").save(file)
    boxes = TruthCase("a", "", "yes", 448, 448, (TruthBox(0, 40, 40, 160, 160),))
    found = (Detected(0, 240, 240, 160, 160, 0.9), Detected(0, 240, 40, 160, 160, 0.1))
    pixels = np.asarray(read(thumbnail(file, boxes, [(found, 0.5, "#ff0000")])).convert("RGB")).astype(int)
    assert pixels[10:50, 10:13].max(axis=(0, 1))[1] > 100  # green at the left edge of the true box
    assert pixels[60:100, 60:63].max(axis=(0, 1))[0] > 150  # red at the edge of the box that is shown
    assert pixels[12:48, 70:95].max() < 60  # nothing of the box below the threshold
    mask = Mask(448, 448, (448 * 112, 448 * 224, 448 * 112))
    masks = TruthCase("a", "", "yes", 448, 448, None, (448 * 448,))
    pixels = np.asarray(read(thumbnail(file, masks, [(mask, 0.0, "#ff0000")])).convert("RGB")).astype(int)
    assert pixels[:, 26:31, 0].max() > 150
    assert pixels[20:90, 45:65].max() < 60  # an outline, not an area
