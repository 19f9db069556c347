"""Which images belong together, by pixels, by looks and by name."""

from __future__ import annotations

import io
import time

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from clinloop.datasets.case import Case
from clinloop.datasets.duplicates import near_duplicate_clusters, sibling_clusters
from clinloop.datasets.pixels import THUMBNAIL_PX, perceptual_hash


def seen(images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    grays = [image.convert("L") for image in images]
    thumbnails = [
        np.asarray(gray.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR)).ravel() for gray in grays
    ]
    return np.array([perceptual_hash(gray) for gray in grays], dtype=np.uint64), np.stack(thumbnails)


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return Image.open(buffer)


def test_resized_recompressed_and_brighter_copies_are_found(picture) -> None:
    originals = [picture(i, (240, 180)) for i in range(30)]
    copies = [
        recompressed(originals[0]),
        originals[1].resize((120, 90), Image.Resampling.LANCZOS),
        originals[2].point(lambda value: min(255, int(value * 1.05) + 4)),
    ]
    found = near_duplicate_clusters(*seen([*originals, *copies]))
    assert sorted(found.clusters) == [[0, 30], [1, 31], [2, 32]] and found.is_complete


def test_handwritten_digits_are_not_taken_for_copies_of_each_other() -> None:
    digits = [Image.fromarray((image * 15).astype(np.uint8)) for image in load_digits().images]
    found = near_duplicate_clusters(*seen(digits))
    assert sum(map(len, found.clusters)) <= 10 and not found.too_large


def test_plain_images_with_equal_hashes_are_joined_only_if_they_look_alike() -> None:
    plain = [Image.new("L", (50, 50), level) for level in (10, 90, 170, 250)]
    hashes, thumbnails = seen(plain)
    assert len(set(hashes.tolist())) == 1
    assert near_duplicate_clusters(hashes, thumbnails).clusters == []


def test_a_cluster_of_more_than_a_twentieth_of_all_cases_is_reported_and_not_joined(picture) -> None:
    others = [picture(i) for i in range(100)]
    same = [recompressed(picture(1000, (240, 180))) for _ in range(11)]
    found = near_duplicate_clusters(*seen([*others, *same]))
    assert found.clusters == [] and [len(cluster) for cluster in found.too_large] == [11]


def test_all_pairs_of_25000_images_are_compared_in_seconds() -> None:
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**63, 25_000, dtype=np.uint64)
    thumbnails = draw.integers(0, 255, (25_000, 64)).astype(np.uint8)
    hashes[1], thumbnails[1] = hashes[0] ^ np.uint64(0b1011), thumbnails[0]
    start = time.monotonic()
    assert near_duplicate_clusters(hashes, thumbnails).clusters == [[0, 1]]
    assert time.monotonic() - start < 60  # about 3 s on an idle core


def cases(*sources: str) -> list[Case]:
    return [Case(source, source.split("/")[-2]) for source in sources]


def test_siblings_are_found_beside_their_original_and_in_another_split() -> None:
    found = sibling_clusters(
        cases(
            "train/mel/a.jpg",
            "train/mel/a_downsampled.jpg",
            "train/mel/aug_a.jpg",
            "train/nv/a.jpg",
            "test/nv/b.jpg",
            "train/nv/b_flip.jpg",
            "train/nv/b-rot90.jpg",
            "train/mel/b.jpg",
            "train/nv/augusta.jpg",
            "train/nv/usta.jpg",
        )
    )
    assert sorted(found) == [[0, 1, 2], [4, 5, 6]]
