"""Strict reading of a predictions file of boxes or masks: one JSON list of flat objects, as COCO has results.

Nothing is guessed or repaired: another key, a key twice, NaN, true for 1, a box of an unknown target or a mask of another size is an offence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from clinloop.errors import BadPredictions
from clinloop.scoring.offences import Offences, refuse, shown
from clinloop.scoring.predictions import MAX_DETECTIONS, MAX_RUNS, Detected, Mask

FARTHEST = 1_000_000.0
"""Pixels from the origin that a coordinate may be."""
MAX_SIDE = 50_000
_BOX = 'Write a JSON list of {"image_id": case_id, "category_id": target number from 1, "bbox": [x, y, width, height] in pixels, "score": 0 to 1}.'
_MASK = 'Write a JSON list of {"image_id": case_id, "size": [height, width], "counts": [run lengths, column by column, zeros first]}, one for each issued case.'
_Value = TypeVar("_Value")


def parse_detections(
    data: bytes, targets: Sequence[str], issued: Collection[str] | None
) -> dict[str, tuple[Detected, ...]]:
    """Parse a file of boxes; the boxes of a case keep the order of the file, a case without one is ().

    issued: the only ids that may occur (None: any, and then only cases with a box are returned).

    Raises:
        BadPredictions: the first offences of each kind, how many there are, and what is valid.
    """
    found: dict[str, list[Detected]] = {case_id: [] for case_id in issued or ()}
    wrong, extra, crowded = Offences(), Offences(), Offences()
    most = None if issued is None else len(issued) * MAX_DETECTIONS
    items = _list(data, _BOX, most=most, lists=1)
    for case_id, box in _items(items, ("bbox", "category_id", "image_id", "score"), _box(len(targets)), wrong):
        boxes = found.get(case_id) if issued is not None else found.setdefault(case_id, [])
        if boxes is None:
            extra.add(shown(case_id.encode(errors="backslashreplace")))
            continue
        boxes.append(box)
        if len(boxes) == MAX_DETECTIONS + 1:
            crowded.add(shown(case_id.encode(errors="backslashreplace")))
    if crowded.count:
        wrong.add(
            f"more than {MAX_DETECTIONS} boxes for {crowded.listed(', ')}; keep the {MAX_DETECTIONS} best of a case"
        )
    refuse(wrong, Offences(), extra, Offences(), n_issued=None, noun="item", valid=_BOX)
    return {case_id: tuple(boxes) for case_id, boxes in found.items()}


def parse_masks(
    data: bytes, issued: Collection[str] | None, sizes: Mapping[str, tuple[int, int]] | None
) -> dict[str, Mask]:
    """Parse a file of masks in its order; `issued` are the ids that must occur, each once, `sizes` the width and height that a mask must have.

    Raises:
        BadPredictions: the first offences of each kind, how many there are, and what is valid.
    """
    found: dict[str, Mask] = {}
    known = None if issued is None else set(issued)
    wrong, missing, extra, repeated = Offences(), Offences(), Offences(), Offences()
    items = _list(data, _MASK, most=None if known is None else 2 * len(known), lists=2)
    for case_id, mask in _items(items, ("counts", "image_id", "size"), _mask, wrong):
        name = shown(case_id.encode(errors="backslashreplace"))
        if known is not None and case_id not in known:
            extra.add(name)
        elif case_id in found:
            repeated.add(name)
        else:
            found[case_id] = mask
            width, height = (sizes or {}).get(case_id, (mask.width, mask.height))
            if (mask.width, mask.height) != (width, height):
                wrong.add(
                    f"the mask of {name} has size [{mask.height}, {mask.width}]; its image has [{height}, {width}]"
                )
    for case_id in known or ():
        if case_id not in found:
            missing.add(shown(case_id.encode()))
    refuse(wrong, missing, extra, repeated, n_issued=None, noun="item", valid=_MASK)
    return found


def _items(
    items: Sequence[object],
    keys: tuple[str, ...],
    read: Callable[[Mapping[str, Any]], _Value | str],
    wrong: Offences,
) -> Iterator[tuple[str, _Value]]:
    """Yield id and value of each item; an item that `read` finds wrong is counted."""
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            wrong.add(f"item {number} is no object")
            continue
        fields = cast("dict[str, Any]", item)
        if tuple(sorted(fields)) != keys:
            wrong.add(f"item {number} has other keys than {', '.join(keys)}")
            continue
        case_id = fields["image_id"]
        if not isinstance(case_id, str) or not case_id or not case_id.isascii() or len(case_id) > 128:
            wrong.add(f"item {number}: image_id is no case_id (a text)")
            continue
        value = read(fields)
        if isinstance(value, str):
            wrong.add(f"item {number}: {value}")
        else:
            yield case_id, value


def _list(data: bytes, valid: str, *, most: int | None, lists: int) -> list[object]:
    """Return the items of a file: at most so many, each with so many lists in it; brackets are counted before anything is built of them."""
    if most is not None and (data.count(b"{") > most or data.count(b"[") > 1 + lists * most):
        raise BadPredictions(f"The predictions file has more than {most:,} items, or lists within lists. {valid}")
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise BadPredictions(f"The predictions file is nested too deeply. {valid}") from error
    except (
        ValueError
    ) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors; their text may hold text of the file
        raise BadPredictions(f"The predictions file is no JSON{_where(error)}. {valid}") from error
    if not isinstance(found, list):
        raise BadPredictions(f"The predictions file is no JSON list. {valid}")
    items = cast("list[object]", found)
    if most is not None and len(items) > most:
        raise BadPredictions(f"The predictions file has more than {most:,} items. {valid}")
    return items


def _where(error: ValueError) -> str:
    return f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


def _box(n_targets: int) -> Callable[[Mapping[str, Any]], Detected | str]:
    def read(item: Mapping[str, Any]) -> Detected | str:
        target, bbox, score = item["category_id"], item["bbox"], item["score"]
        if type(target) is not int or not 1 <= target <= n_targets:
            return f"category_id must be a whole number from 1 to {n_targets}"
        if not _is_number(score) or not 0 <= score <= 1:
            return "score must be a number from 0 to 1"
        if not isinstance(bbox, list) or len(cast("list[object]", bbox)) != 4:
            return "bbox must be [x, y, width, height]"
        numbers = cast("list[Any]", bbox)
        if not all(_is_number(value) and abs(value) <= FARTHEST for value in numbers):
            return f"bbox must hold 4 finite numbers of pixels, none beyond {FARTHEST:,.0f}"
        x, y, width, height = (float(value) for value in numbers)
        if width < 0 or height < 0:
            return "bbox has a negative width or height; write [x, y, width, height], not two corners"
        return Detected(target - 1, x, y, width, height, float(score))

    return read


def _mask(item: Mapping[str, Any]) -> Mask | str:
    size, counts = item["size"], item["counts"]
    if not isinstance(size, list) or len(cast("list[object]", size)) != 2:
        return "size must be [height, width]"
    height, width = cast("list[Any]", size)
    if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in (height, width)):
        return f"size must be two whole numbers from 1 to {MAX_SIDE:,}"
    if not isinstance(counts, list):
        return "counts must be a list of run lengths; compressed text is not read"
    runs = cast("list[Any]", counts)
    if len(runs) > MAX_RUNS:
        return f"{len(runs):,} runs; at most {MAX_RUNS:,} are valid: smooth the mask"
    if not all(type(run) is int and run >= (at > 0) for at, run in enumerate(runs)):
        return "counts must be whole numbers above 0 (the first may be 0)"
    if sum(runs) != height * width:
        return f"the runs sum to {min(sum(runs), 10**12):,}, the size [{height}, {width}] has {height * width:,} pixels"
    return Mask(height, width, tuple(runs))


def _is_number(value: object) -> bool:
    if type(value) is int:
        return abs(value) < 1 << 53
    return type(value) is float and math.isfinite(value)
