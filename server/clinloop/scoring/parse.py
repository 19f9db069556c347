"""Strict reading of a predictions CSV that untrusted code wrote: header `case_id,p_<class>,…`, one line per issued case.

Nothing is guessed or repaired: a number that a lenient reader would take (`nan`, `1e999`, ` 0.5`, `1_0`, `٠.٥`) is an offence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from clinloop.errors import BadPredictions
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.predictions import MAX_BYTES, line_cap, max_submission_bytes

SUM_TOLERANCE = 1e-3
_EXAMPLES = 3
_NUMBER = re.compile(rb"(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Predictions:
    """Parsed predictions in the order of the file."""

    case_ids: list[str]
    rows: list[tuple[float, ...]]
    """One probability per class, in class order; each row sums to 1 within 1e-3."""


@dataclass
class _Offences:
    """The number of offences of one kind and the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list[str])

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)

    def listed(self, separator: str) -> str:
        more = self.count - len(self.examples)
        return separator.join(self.examples) + (f"{separator}and {more:,} more" if more else "")


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
    wrong, extra, repeated = _Offences(), _Offences(), _Offences()
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
            extra.add(_shown(key))
        elif key in seen:
            repeated.add(_shown(key))
        else:
            seen.add(key)
            if not isinstance(row, str):
                case_ids.append(case_id)
                rows.append(row)
    missing = _Offences()
    for key in known or ():
        if key not in seen:
            missing.add(_shown(key))
    _refuse(wrong, missing, extra, repeated, n_issued=None if known is None else len(known))
    return Predictions(case_ids, rows)


def too_large(size: int, cap: int) -> BadPredictions:
    """Build the refusal of a file that is larger than any valid one."""
    return BadPredictions(
        f"The predictions file has {size:,} bytes; at most {cap:,} are valid here: write one short line per issued case and nothing else."
    )


def _check_header(data: bytes, classes: Sequence[str]) -> int:
    """Return where the first case line starts."""
    expected = ",".join(["case_id", *(f"p_{name}" for name in classes)])
    end = data.find(b"\n", 0, len(expected.encode()) + 2)
    header = (data[:end] if end >= 0 else data[: len(expected.encode()) + 40]).removesuffix(b"\r")
    valid = f"the first line must be exactly {expected!r} (UTF-8 without byte order mark)"
    if not data:
        raise BadPredictions(f"The predictions file is empty; {valid}.")
    if header != expected.encode():
        raise BadPredictions(f"The header of the predictions file is wrong: it starts with {_shown(header)}; {valid}.")
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
            return f"p_{name} is {_shown(text)}; write a finite number from 0 to 1"
        values.append(value)
    if len(values) > 1 and abs(sum(values) - 1.0) > SUM_TOLERANCE:
        return f"the probabilities sum to {sum(values):.6g}; they must sum to 1 within {SUM_TOLERANCE:g}"
    return tuple(values)


def _ascii(key: bytes) -> str | None:
    try:
        return key.decode("ascii") or None
    except UnicodeDecodeError:
        return None


def _shown(text: bytes) -> str:
    """Return bytes of the file in printable ASCII, shortened."""
    shown = ascii(text[:40].decode("utf-8", errors="backslashreplace"))
    return shown + "…" if len(text) > 40 else shown


def _refuse(
    wrong: _Offences, missing: _Offences, extra: _Offences, repeated: _Offences, *, n_issued: int | None
) -> None:
    parts: list[str] = []
    if wrong.count:
        parts.append(f"{_many(wrong.count, 'line')} wrong: {wrong.listed('; ')}")
    if repeated.count:
        parts.append(f"{_many(repeated.count, 'line')} repeating a case_id: {repeated.listed(', ')}")
    if missing.count:
        parts.append(f"{_many(missing.count, 'issued case')} missing: {missing.listed(', ')}")
    if extra.count:
        parts.append(f"{_many(extra.count, 'line')} with a case_id that was not issued: {extra.listed(', ')}")
    if not parts:
        return
    valid = "one line per case" if n_issued is None else f"one line for each of the {n_issued:,} issued cases"
    raise BadPredictions(f"{'. '.join(parts)}. Write {valid}, with its case_id as given.")


def _many(count: int, noun: str) -> str:
    return f"1 {noun} is" if count == 1 else f"{count:,} {noun}s are"
