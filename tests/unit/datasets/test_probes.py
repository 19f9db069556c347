"""What is measured of a picture, against pictures of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from clinloop.datasets.acquisition import PROBES
from clinloop.datasets.predictors import predict_label
from clinloop.datasets.probes import measure


def probes(pixels: np.ndarray) -> dict[str, float]:
    return dict(zip(PROBES, measure(Image.fromarray(pixels.astype(np.uint8))), strict=True))


def flat(value: int = 100, size: tuple[int, int] = (256, 256)) -> np.ndarray:
    return np.full((*size, 3), value)


def test_every_probe_answers_to_what_it_is_named_after_and_a_flat_picture_has_none() -> None:
    plain = probes(flat())
    assert plain == dict.fromkeys(PROBES, 0.0) | {
        "border brightness": 100.0,
        "brightness": 100.0,
        "shape of the picture": 1.0,
    }
    edge = flat()
    edge[:10] = edge[-10:] = edge[:, :10] = edge[:, -10:] = 0
    framed = probes(edge)
    assert (
        framed["black border"] > 0.75
        and framed["brightness"] == pytest.approx(100, abs=1)
        and framed["dark corners"] > 0.3
    )
    marked = flat()
    marked[16:28, 16:36] = 255
    assert probes(marked)["bright corner marks"] > 0.1 and probes(flat(255))["bright corner marks"] == 0
    red = flat()
    red[..., 0] += 50
    assert probes(red)["red-green cast"] == pytest.approx(50) and probes(red)["yellow-blue cast"] == pytest.approx(25)
    assert probes(flat(size=(100, 200)))["shape of the picture"] == 2


def test_blur_lowers_sharpness_at_any_size() -> None:
    rng = np.random.default_rng(0)
    for size in (128, 700):
        image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).resize(
            (size, size), Image.Resampling.NEAREST
        )
        sharp, blurred = (
            dict(zip(PROBES, measure(one), strict=True))["sharpness"]
            for one in (image, image.filter(ImageFilter.GaussianBlur(size / 60)))
        )
        assert blurred < sharp - 1


def test_one_number_predicts_a_class_of_the_middle_that_no_threshold_tells_apart() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=600)
    labels = ["in" if abs(value) < 0.7 else "out" for value in x]
    columns = {
        "middle": x,
        "noise": rng.normal(size=600),
        "same": np.ones(600),
        "missing": np.where(x > 0.7, np.nan, 1.0),
    }
    found = predict_label(columns, labels, list(range(600)), ["in", "out", "never"])
    assert found is not None and found.auc_alone["middle"] > 0.97 and found.macro_auc > 0.95
    assert (
        abs(found.auc_alone["noise"] - 0.5) < 0.08
        and found.auc_alone["same"] == 0.5
        and found.auc_alone["missing"] > 0.6
    )


def test_a_group_is_never_on_both_sides_so_that_knowing_a_patient_predicts_nothing() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), 5)
    labels = [("a", "b")[value] for value in rng.integers(0, 2, 60)[groups]]
    found = predict_label({"patient": rng.permutation(60)[groups].astype(float)}, labels, groups.tolist(), ["a", "b"])
    assert found is not None and found.auc_alone["patient"] < 0.65
