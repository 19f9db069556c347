"""The parser of boxes and masks: what it takes, every way in which a file can break its contract, and what no file can do to it."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from clinloop.errors import BadPredictions
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.parse_json import parse_detections, parse_masks
from clinloop.scoring.predictions import (
    MAX_BYTES,
    MAX_DETECTIONS,
    MAX_MASK_BYTES,
    MAX_RUNS,
    Detected,
    Mask,
    max_submission_bytes,
    predictions_bytes,
)

BOXES = Scheme(("no", "yes"), task_type="detection", targets=("fracture", "metal"))
MASKS = Scheme(("no", "yes"), task_type="segmentation", targets=("pneumothorax",))
ISSUED = ["c1", "c2", "c3"]
BOX: dict[str, Any] = {"image_id": "c1", "category_id": 2, "bbox": [1, 2.5, 30, 4e1], "score": 0.75}
MASK: dict[str, Any] = {"image_id": "c1", "size": [4, 3], "counts": [0, 5, 7]}
SIZES = dict.fromkeys(ISSUED, (3, 4))


def boxes(*items: object, issued: list[str] | None = ISSUED) -> dict[str, tuple[Detected, ...]]:
    return parse_detections(json.dumps(items).encode(), BOXES.targets, issued)


def masks(*items: object, issued: list[str] | None = ISSUED) -> dict[str, Mask]:
    return parse_masks(json.dumps(items).encode(), issued, SIZES)


def all_masks(**changed: object) -> list[dict[str, Any]]:
    return [{**MASK, **changed}, {**MASK, "image_id": "c2"}, {**MASK, "image_id": "c3"}]


def refusal(data: bytes, *, of_masks: bool = False) -> str:
    with pytest.raises(BadPredictions) as caught:
        parse_masks(data, ISSUED, SIZES) if of_masks else parse_detections(data, BOXES.targets, ISSUED)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1200
    return message


def test_boxes_keep_the_order_of_the_file_and_a_case_without_one_is_empty() -> None:
    found = boxes({**BOX, "image_id": "c3"}, BOX, {**BOX, "category_id": 1, "score": 1})
    assert list(found) == ISSUED
    assert found["c1"] == (Detected(1, 1.0, 2.5, 30.0, 40.0, 0.75), Detected(0, 1.0, 2.5, 30.0, 40.0, 1.0))
    assert found["c2"] == ()
    assert boxes() == {"c1": (), "c2": (), "c3": ()}
    assert list(boxes(BOX, issued=None)) == ["c1"]


def test_masks_are_read_once_for_each_case() -> None:
    found = masks(*all_masks())
    assert found["c1"] == Mask(4, 3, (0, 5, 7))
    assert list(found) == ISSUED


def test_what_is_written_is_read_back_exactly() -> None:
    generator = random.Random(0)
    rows = {
        case_id: tuple(
            Detected(generator.randrange(2), *(generator.uniform(0, 900) for _ in range(4)), generator.random())
            for _ in range(count)
        )
        for case_id, count in (("c1", 7), ("c2", 0), ("c3", MAX_DETECTIONS))
    }
    data = predictions_bytes(rows, BOXES)
    assert parse_detections(data, BOXES.targets, ISSUED) == rows
    assert len(data) < max_submission_bytes(BOXES, 3)
    drawn = {case_id: Mask(4, 3, (0, 5, 7)) for case_id in ISSUED}
    assert parse_masks(predictions_bytes(drawn, MASKS), ISSUED, SIZES) == drawn


@pytest.mark.parametrize(
    "changed",
    [
        {"category_id": 0},
        {"category_id": 3},
        {"category_id": 1.0},
        {"category_id": True},
        {"category_id": "1"},
        {"category_id": 10**400},
        {"score": -0.1},
        {"score": 1.01},
        {"score": True},
        {"score": "0.5"},
        {"score": None},
        {"score": 10**400},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, 4, 5]},
        {"bbox": {"x": 1}},
        {"bbox": [1, 2, -3, 4]},
        {"bbox": [1, 2, "3", 4]},
        {"bbox": [1, 2, 3, 1e7]},
        {"bbox": [1, 2, 3, 10**400]},
        {"bbox": [True, 2, 3, 4]},
        {"image_id": 7},
        {"image_id": ""},
        {"image_id": "c1\u202e"},
        {"image_id": "c" * 200},
        {"area": 5},
    ],
)
def test_a_box_that_is_not_just_so_is_refused_by_its_number(changed: dict[str, object]) -> None:
    assert "item 2" in refusal(json.dumps([BOX, {**BOX, **changed}]).encode())


@pytest.mark.parametrize(
    "changed",
    [
        {"counts": [0, 5, 6]},
        {"counts": [0, 5, 8]},
        {"counts": [5, 0, 7]},
        {"counts": [-1, 6, 7]},
        {"counts": [0, 5.0, 7]},
        {"counts": [True, 4, 7]},
        {"counts": "05MP2"},
        {"counts": []},
        {"counts": [12, 10**400]},
        {"size": [4]},
        {"size": [4, 3, 1]},
        {"size": [4.0, 3]},
        {"size": [0, 12]},
        {"size": [10**6, 10**6]},
        {"size": "4x3"},
    ],
)
def test_a_mask_that_is_not_just_so_is_refused_by_its_number(changed: dict[str, object]) -> None:
    assert "item 1: " in refusal(json.dumps(all_masks(**changed)).encode(), of_masks=True)


def test_a_mask_of_another_size_than_its_image_is_refused() -> None:
    message = refusal(json.dumps(all_masks(size=[3, 4])).encode(), of_masks=True)
    assert "the mask of 'c1' has size [3, 4]; its image has [4, 3]" in message


def test_missing_repeated_and_foreign_masks_are_counted() -> None:
    message = refusal(json.dumps([MASK, MASK, {**MASK, "image_id": "zz"}]).encode(), of_masks=True)
    for part in ("repeating a case_id: 'c1'", "2 issued cases are missing", "not issued: 'zz'"):
        assert part in message


def test_boxes_of_other_cases_are_refused_and_so_are_too_many_of_one() -> None:
    assert "not issued: 'c1.png'" in refusal(json.dumps([{**BOX, "image_id": "c1.png"}]).encode())
    assert f"keep the {MAX_DETECTIONS} best" in refusal(json.dumps([BOX] * (MAX_DETECTIONS + 5)).encode())
    assert len(boxes(*[BOX] * MAX_DETECTIONS)["c1"]) == MAX_DETECTIONS
    assert "more than 300 items" in refusal(json.dumps([BOX] * (3 * MAX_DETECTIONS + 1)).encode())


@pytest.mark.parametrize(
    "item", [b"{}", b"[]", b"0", b"[[[]]]", b'{"image_id":"c1","size":[1,1],"counts":[1],"x":[[[[]]]]}'], ids=range(5)
)
def test_a_flood_of_items_is_refused_before_anything_is_built_of_it(item: bytes) -> None:
    data = b"[" + b",".join([item] * (60_000_000 // len(item) // 4)) + b"]"
    for of_masks in (False, True):
        started = time.process_time()
        assert "items" in refusal(data, of_masks=of_masks)
        assert time.process_time() - started < 5


def test_a_mask_with_the_outline_of_noise_is_refused() -> None:
    runs = [1] * (MAX_RUNS + 2)
    data = json.dumps([{**MASK, "size": [6, len(runs) // 6], "counts": runs}]).encode()
    assert "smooth the mask" in refusal(data, of_masks=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"7",
        b'"[]"',
        b"[1]",
        b"[[]]",
        b"[null]",
        b"[{}]",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 50_000,
        b"[NaN]",
        b"[-Infinity]",
        b"[1e999]",
        b"[" + b"9" * 1_000_000 + b"]",
        b"[" + b"[]," * 1_000_000 + b"[]]",
        b"\xff\xfe[\x00]\x00",
        b"\xef\xbb\xbf[]",
        b"[] []",
        b"[]\0",
        b"PK\x03\x04" + bytes(500),
        b"\x80\x04\x95" + bytes(50),
        b'[{"image_id":"c1","image_id":"c1","category_id":1,"bbox":[1,2,3,4],"score":0.5}]',
        b'[{"image_id":"c1","category_id":1,"bbox":[1,2,3,4],"score":NaN}]',
        b'[{"image_id":"c1","category_id":1,"bbox":[1,2,3,4],"score":1e-999999999999}' + b"," * 1000,
        b'[{"image_id":"\\ud800","category_id":1,"bbox":[1,2,3,4],"score":0.5}]',
        b'[{"image_id":"\x1b[31m","category_id":1,"bbox":[1,2,3,4],"score":0.5}]',
    ],
    ids=range(28),
)
def test_a_file_that_is_no_list_of_objects_is_refused_in_words(data: bytes) -> None:
    started = time.monotonic()
    for of_masks in (False, True):
        assert "JSON list" in refusal(data, of_masks=of_masks)
    assert time.monotonic() - started < 20


def test_whatever_is_cut_out_of_or_changed_in_a_file_is_refused_or_read_and_nothing_else() -> None:
    generator = random.Random(1)
    sources = [json.dumps([BOX, {**BOX, "image_id": "c2"}]).encode(), json.dumps(all_masks()).encode()]
    outcomes: set[str] = set()
    for _ in range(4000):
        of_masks = generator.random() < 0.5
        data = bytearray(sources[of_masks])
        for _ in range(generator.randint(1, 4)):
            place = generator.randrange(len(data))
            match generator.randrange(3):
                case 0:
                    data[place] = generator.randrange(256)
                case 1:
                    del data[place : place + generator.randrange(8)]
                case _:
                    data[place:place] = generator.choice(
                        [b"[", b"]", b"{", b"0", b"-", b"e9", b'"', b",", b"null", b"\\u0000"]
                    )
        try:
            found = (
                parse_masks(bytes(data), ISSUED, SIZES)
                if of_masks
                else parse_detections(bytes(data), BOXES.targets, ISSUED)
            )
            assert set(found) == set(ISSUED)
            outcomes.add("read")
        except BadPredictions as refused:
            assert str(refused).isprintable()
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_no_file_may_be_larger_than_its_cases_need() -> None:
    assert max_submission_bytes(BOXES, 3) < 200_000
    assert (max_submission_bytes(BOXES, 10**6), max_submission_bytes(MASKS, 10**6)) == (MAX_BYTES, MAX_MASK_BYTES)
