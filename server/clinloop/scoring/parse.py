"""Strict reading of a predictions CSV that untrusted code wrote: header `case_id,p_<class>,…`, one line per issued case.

Nothing is guessed or repaired: a number that a lenient reader would take (`nan`, `1e999`, ` 0.5`, `1_0`, `٠.٥`) is an offence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from clinloop.errors import BadPredictions
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.offences import Offences, refuse, shown, too_large
from clinloop.scoring.predictions import MAX_BYTES, line_cap, max_submission_bytes

SUM_TOLERANCE = 1e-3
_NUMBER = re.compile(rb"(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Predictions:
    """Parsed predictions in the order of the file."""

    case_ids: list[str]
    rows: list[tuple[float, ...]]
    """One probability per class, in class order; each row sums to 1 within 1e-3."""


def parse_predictions(data: bytes, classes: Sequence[str], issued: Collection[str] | None) -> Predictions:
    """Parse a predictions CSV; `issued` are the ids that must occur, each once (None: any ids, each once).

    Lines end in LF or CRLF; the last line end may be missing.

    Raises:
        BadPredictions: the first offences of each kind, how many there are, and what is valid.
    """
    cap = MAX_BYTES if issued is None else max_submission_bytes(Scheme(tuple(classes)), len(issued))
    if len(data) > cap:
        raise too_large(len(data), cap)
    start = _check_header(data, classes)
    known = None if issued is None else {case_id.encode(): case_id for case_id in issued}
    case_ids: list[str] = []
    rows: list[tuple[float, ...]] = []
    seen: set[bytes] = set()
    wrong, extra, repeated = Offences(), Offences(), Offences()
    longest, number = line_cap(len(classes)), 1
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        number += 1
        if end - start > longest:
            wrong.add(f"line {number} has {end - start:,} bytes (at most {longest:,})")
            start = end + 1
            continue
        key, _, numbers = data[start:end].removesuffix(b"\r").partition(b",")
        start = end + 1
        if isinstance(row := _row(numbers, classes), str):
            wrong.add(f"line {number}: {row}")
        case_id = _ascii(key) if known is None else known.get(key)
        if case_id is None:
            extra.add(shown(key))
        elif key in seen:
            repeated.add(shown(key))
        else:
            seen.add(key)
            if not isinstance(row, str):
                case_ids.append(case_id)
                rows.append(row)
    missing = Offences()
    for key in known or ():
        if key not in seen:
            missing.add(shown(key))
    refuse(wrong, missing, extra, repeated, n_issued=None if known is None else len(known))
    return Predictions(case_ids, rows)


def _check_header(data: bytes, classes: Sequence[str]) -> int:
    """Return where the first case line starts."""
    expected = ",".join(["case_id", *(f"p_{name}" for name in classes)])
    end = data.find(b"\n", 0, len(expected.encode()) + 2)
    header = (data[:end] if end >= 0 else data[: len(expected.encode()) + 40]).removesuffix(b"\r")
    valid = f"the first line must be exactly {expected!r} (UTF-8 without byte order mark)"
    if not data:
        raise BadPredictions(f"The predictions file is empty; {valid}.")
    if header != expected.encode():
        raise BadPredictions(f"The header of the predictions file is wrong: it starts with {shown(header)}; {valid}.")
    return end + 1 if end >= 0 else len(data)


def _row(numbers: bytes, classes: Sequence[str]) -> tuple[float, ...] | str:
    """Return the probabilities of a line, or what is wrong with them."""
    fields = numbers.split(b",")
    if len(fields) != len(classes):
        return f"{len(fields) + 1 if numbers else 1} columns; write {len(classes) + 1}, as in the header"
    values: list[float] = []
    for name, text in zip(classes, fields, strict=True):
        value = float(text) if _NUMBER.fullmatch(text) else 2.0
        if not value <= 1.0:
            return f"p_{name} is {shown(text)}; write a finite number from 0 to 1"
        values.append(value)
    if len(values) > 1 and abs(sum(values) - 1.0) > SUM_TOLERANCE:
        return f"the probabilities sum to {sum(values):.6g}; they must sum to 1 within {SUM_TOLERANCE:g}"
    return tuple(values)


def _ascii(key: bytes) -> str | None:
    try:
        return key.decode("ascii") or None
    except UnicodeDecodeError:
        return None
