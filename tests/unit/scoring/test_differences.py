"""How far two predictions of one image are apart."""

from __future__ import annotations

import numpy as np
import pytest

from clinloop.scoring import service

from .drawn import BOXES, MASKS, SCHEME


def test_the_difference_of_two_predictions_is_how_far_they_are_apart() -> None:
    def boxes(*found: tuple[float, ...]) -> tuple[service.Detected, ...]:
        return tuple(service.Detected(0, *values) for values in found)  # pyright: ignore[reportArgumentType]

    one = boxes((10, 10, 20, 20, 0.9), (50, 50, 10, 10, 0.3))
    for other, expected in (
        (one, 0.0),
        (one[::-1], 0.0),
        (boxes((10, 10, 20, 20, 0.8), (50, 50, 10, 10, 0.3)), 0.1),
        (one[:1], 0.3),
        ((*one, *boxes((80, 80, 5, 5, 0.05))), 0.05),
        (boxes((12, 10, 20, 20, 0.9), (50, 50, 10, 10, 0.3)), 0.9 * (1 - 18 / 22)),
        ((), 0.9),
        ((one[0]._replace(target=1), one[1]), 0.9),
    ):
        assert service.difference(BOXES, one, other) == pytest.approx(expected)
        assert service.difference(BOXES, other, one) == pytest.approx(expected)
    assert service.difference(SCHEME, (0.2, 0.3, 0.5), (0.2, 0.35, 0.45)) == pytest.approx(0.05)


def test_the_difference_of_masks_is_the_share_of_the_union_that_differs() -> None:
    def mask(drawn: np.ndarray) -> service.Mask:
        edges = np.flatnonzero(np.diff(drawn.ravel(order="F"), prepend=False)).tolist()
        return service.Mask(40, 50, tuple(np.diff([0, *edges, 2000]).tolist()))

    random = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 1.0):
        one, other = random.random((40, 50)) < share, random.random((40, 50)) < 0.5
        first, second = mask(one), mask(other)
        expected = (one ^ other).sum() / max((one | other).sum(), 2)
        assert service.difference(MASKS, first, second) == pytest.approx(expected)
        assert service.difference(MASKS, first, first) == 0.0
    nothing, dot = service.Mask(40, 50, (2000,)), service.Mask(40, 50, (7, 1, 1992))
    assert service.difference(MASKS, nothing, dot) == 0.5  # a pixel is half a thousandth of this image
    assert service.difference(MASKS, nothing, service.Mask(50, 40, (2000,))) == 1.0
