"""The truth that predictions are scored against, as rows and as a CSV file: `case_id,group,label` and optional columns.

Optional columns: `width,height` (pixels of the image file), `boxes` (JSON list of [target_index, x, y, width, height] in those pixels),
`mask` (space-separated run lengths, column by column, starting with the count of zeros) and `attr:<name>`. An empty boxes or mask field
means that nobody drew any; "[]" and a mask of zeros alone mean that there is nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from clinloop.errors import BadInput

COLUMNS = ("case_id", "group", "label")
OPTIONAL = ("width", "height", "boxes", "mask")
ATTRIBUTE = "attr:"
_NONE: Mapping[str, str] = MappingProxyType({})
_PRESENT, _ABSENT = ("yes", "y", "true", "present"), ("no", "n", "false", "absent")
_FIELD_CAP = 1 << 24
"""Characters of one field; the csv module allows 131,072, less than a ragged mask needs."""


class TruthBox(NamedTuple):
    """A box of the truth, in pixels of the image file: origin top left."""

    target: int
    """Position in the targets of the scheme."""
    x: float
    y: float
    width: float
    height: float


class TruthCase(NamedTuple):
    """What is known about one case."""

    case_id: str
    group: str
    """"" makes the case a group of its own."""
    label: str
    width: int = 0
    """Pixels of the image file; 0 = not said."""
    height: int = 0
    boxes: tuple[TruthBox, ...] | None = None
    """None = nobody drew boxes here; () = there is nothing."""
    mask: tuple[int, ...] | None = None
    """Run lengths column by column, starting with the count of zeros; None = nobody drew a mask here."""
    attributes: Mapping[str, str] = _NONE


def read_truth(source: Path | bytes) -> list[TruthCase]:
    """Read a truth file.

    Raises:
        BadInput: other columns, or a field that is not what its column holds.
    """
    data = source.read_bytes() if isinstance(source, Path) else source
    before = csv.field_size_limit(_FIELD_CAP)
    try:
        text = data.decode("utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = list(reader.fieldnames or ())
        more = [name for name in names[3:] if name not in OPTIONAL and not name.startswith(ATTRIBUTE)]
        if tuple(names[:3]) != COLUMNS or more or len(set(names)) != len(names):
            raise BadInput(
                "A truth file has the columns case_id, group, label and then any of width, height, boxes, mask and attr:<name>."
            )
        return [_case(row, names) for row in reader]
    except (ValueError, TypeError, KeyError, AttributeError, csv.Error, RecursionError) as error:
        raise BadInput("A line of the truth file is not what its columns hold.") from error
    finally:
        csv.field_size_limit(before)


def truth_csv(cases: Iterable[TruthCase]) -> bytes:
    """Return a truth file; optional columns are written where a case has them. `read_truth` gives the very same cases."""
    rows = list(cases)
    used = [
        *(name for name in ("width", "height") if any(getattr(case, name) for case in rows)),
        *(name for name in ("boxes", "mask") if any(getattr(case, name) is not None for case in rows)),
    ]
    attributes = list(dict.fromkeys(name for case in rows for name in case.attributes))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *used, *(ATTRIBUTE + name for name in attributes)])
    for case in rows:
        fields = [_field(case, name) for name in used] + [case.attributes.get(name, "") for name in attributes]
        writer.writerow([case.case_id, case.group, case.label, *fields])
    return text.getvalue().encode()


def confounder_value(name: str, text: str) -> float | None:
    """Return what an attribute says of a confounder: 0 = absent to 1 = present, None = missing.

    Raises:
        BadInput: neither a number from 0 to 1 nor a word for yes or no.
    """
    word = text.strip().lower()
    if not word:
        return None
    if word in _PRESENT or word in _ABSENT:
        return float(word in _PRESENT)
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BadInput(
            f"The attribute {name[:80]!r} cannot be scored as a confounder: each value must be a number from 0 to 1, or yes or no, or missing."
        )
    return value


def _field(case: TruthCase, name: str) -> str:
    match name:
        case "boxes":
            return "" if case.boxes is None else json.dumps([list(box) for box in case.boxes], separators=(",", ":"))
        case "mask":
            return "" if case.mask is None else " ".join(map(str, case.mask))
        case _:
            return str(getattr(case, name) or "")


def _case(row: Mapping[str, str], names: list[str]) -> TruthCase:
    boxes, mask = row.get("boxes", ""), row.get("mask", "")
    if len(row) != len(names) or any(value is None for value in row.values()):  # pyright: ignore[reportUnnecessaryComparison]
        raise ValueError("a line of another length")
    return TruthCase(
        row["case_id"],
        row["group"],
        row["label"],
        int(row.get("width") or 0),
        int(row.get("height") or 0),
        tuple(_box(item) for item in cast("list[list[Any]]", json.loads(boxes))) if boxes else None,
        tuple(int(count) for count in mask.split(" ")) if mask else None,
        {name.removeprefix(ATTRIBUTE): row[name] for name in names if name.startswith(ATTRIBUTE)} or _NONE,
    )


def _box(item: list[Any]) -> TruthBox:
    target, x, y, width, height = item
    return TruthBox(int(target), float(x), float(y), float(width), float(height))
