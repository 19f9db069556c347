"""The predictions parser: what it takes, and every way in which a file can break its contract."""

from __future__ import annotations

import time

import pytest

from clinloop.errors import BadPredictions
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.parse import parse_predictions
from clinloop.scoring.predictions import MAX_BYTES, max_submission_bytes

CLASSES = ["MEL", "NV"]
HEADER = b"case_id,p_MEL,p_NV\n"
ISSUED = ["c1", "c2", "c3"]
ROWS = [b"c1,0.25,0.75", b"c2,1,0", b"c3,5e-1,.5"]


def file_with(*rows: bytes, header: bytes = HEADER) -> bytes:
    return header + b"".join(row + b"\n" for row in rows)


def refusal(data: bytes, issued: list[str] | None = ISSUED) -> str:
    with pytest.raises(BadPredictions) as caught:
        parse_predictions(data, CLASSES, issued)
    return str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        file_with(*ROWS),
        file_with(*ROWS).removesuffix(b"\n"),
        file_with(*ROWS).replace(b"\n", b"\r\n"),
    ],
    ids=["LF", "no last line end", "CRLF as csv.writer makes it"],
)
def test_a_valid_file_is_read_in_its_own_order(data: bytes) -> None:
    parsed = parse_predictions(data, CLASSES, ["c3", "c2", "c1"])
    assert parsed.case_ids == ["c1", "c2", "c3"]
    assert parsed.rows == [(0.25, 0.75), (1.0, 0.0), (0.5, 0.5)]


@pytest.mark.parametrize(
    "text",
    [
        b"nan",
        b"NaN",
        b"inf",
        b"-inf",
        b"1e999",
        b"-0.1",
        b"1.0000001",
        b"True",
        b"",
        b" 0.25",
        b"0.25 ",
        b"0.25\t",
        b"2_5e-2",
        b"0x1p-2",
        b"\xd9\xa0.25",  # ARABIC-INDIC DIGIT ZERO
        "０.25".encode(),  # FULLWIDTH DIGIT ZERO
        b'"0.25"',
        b"0.25\0",
        b"0,25",
        b"0" * 100,
        b"\xff\xfe",
    ],
)
def test_a_field_that_is_no_plain_number_from_0_to_1_is_refused(text: bytes) -> None:
    message = refusal(file_with(b"c1," + text + b",0.75", *ROWS[1:]))
    assert "line 2" in message
    assert message.isprintable()
    assert len(message) < 500


def test_the_refusal_of_a_number_names_line_column_value_and_what_is_valid() -> None:
    assert refusal(file_with(*ROWS[:2], b"c3,nan,0.5")) == (
        "1 line is wrong: line 4: p_MEL is 'nan'; write a finite number from 0 to 1. "
        "Write one line for each of the 3 issued cases, with its case_id as given."
    )


@pytest.mark.parametrize("row", [b"c1,0.5,0.4", b"c1,0.7,0.7", b"c1,0,0"])
def test_rows_that_do_not_sum_to_1_are_refused(row: bytes) -> None:
    assert "sum to" in refusal(file_with(row, *ROWS[1:]))


def test_rounding_to_three_decimals_is_tolerated() -> None:
    parsed = parse_predictions(file_with(b"c1,0.3333,0.6660", *ROWS[1:]), CLASSES, ISSUED)
    assert parsed.rows[0] == (0.3333, 0.666)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"case_id,p_MEL\nc1,1\n",
        b"case_id,p_NV,p_MEL\n",
        b"case_id,p_MEL,p_NV,p_BCC\n",
        b"\xef\xbb\xbf" + file_with(*ROWS),
        b"case_id;p_MEL;p_NV\n",
        b"Case_ID,p_MEL,p_NV\n",
        b"case_id, p_MEL, p_NV\n",
        b"\x93NUMPY\x01\x00v\x00{'descr'",
        b"PK\x03\x04" + bytes(500),
        HEADER.replace(b"\n", b"\rX"),
        b"A" * 5_000_000,
    ],
)
def test_another_header_is_refused_with_the_valid_one(data: bytes) -> None:
    message = refusal(data, None)
    assert "case_id,p_MEL,p_NV" in message
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize(
    "row", [b"", b"c1", b"c1,0.5", b"c1,0.5,0.5,0", b"c1,0.5,0.5,", b"c1\t0.5\t0.5", b"c1,0.5\x000.5"]
)
def test_a_line_with_other_columns_is_refused(row: bytes) -> None:
    assert "line 2: " in refusal(file_with(row, *ROWS[1:]))


def test_missing_cases_are_counted_with_three_examples() -> None:
    issued = [f"c{number}" for number in range(1, 1004)]
    message = refusal(file_with(*ROWS), issued)
    assert message.startswith("1,000 issued cases are missing: 'c4', 'c5', 'c6', and 997 more.")


def test_extra_and_repeated_ids_are_counted() -> None:
    message = refusal(file_with(*ROWS, b"c1,0.5,0.5", b"zz,0.5,0.5", b"\xe2\x80\xae,0.5,0.5"))
    assert "1 line is repeating a case_id: 'c1'" in message
    assert "2 lines are with a case_id that was not issued: 'zz', '\\u202e'" in message


@pytest.mark.parametrize("key", [b" c1", b"c1 ", b"C1", b"c1\0", b'"c1"', b"", b"\xef\xbb\xbfc1"])
def test_an_id_that_is_only_nearly_right_is_not_taken_for_the_case(key: bytes) -> None:
    message = refusal(file_with(key + b",0.5,0.5", *ROWS[1:]))
    assert "missing: 'c1'" in message
    assert "not issued" in message


def test_without_issued_ids_any_ids_are_taken_once() -> None:
    assert parse_predictions(file_with(*ROWS), CLASSES, None).case_ids == ISSUED
    assert "repeating" in refusal(file_with(*ROWS, ROWS[0]), None)


def test_a_million_offences_give_a_short_text() -> None:
    message = refusal(HEADER + b"\x1b[31m,nan,1\n" * 1_000_000, None)
    assert message.startswith("1,000,000 lines are wrong: line 2: ")
    assert len(message) < 1000


def test_a_huge_line_is_refused_without_being_parsed() -> None:
    data = HEADER + b"c1," + b"9" * 50_000_000 + b"\n"
    started = time.monotonic()
    assert "line 2 has 50,000,003 bytes" in refusal(data, None)
    assert time.monotonic() - started < 2


def test_a_file_larger_than_its_cases_need_is_refused() -> None:
    assert max_submission_bytes(Scheme(("MEL", "NV")), len(ISSUED)) < 2_000
    assert max_submission_bytes(Scheme(("MEL", "NV")), 10**9) == MAX_BYTES
    assert "bytes" in refusal(file_with(*ROWS) + b"\n" * 2_000)
