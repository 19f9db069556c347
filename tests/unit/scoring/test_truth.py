"""Truth files: what is written is read back, and a file that is something else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinloop.errors import BadInput
from clinloop.scoring.truth import TruthBox, TruthCase, read_truth, truth_csv

CASES = [
    TruthCase("c1", "g1", "fracture", 640, 480, (TruthBox(0, 1.5, 2.0, 30.25, 4.0), TruthBox(1, 0.1, 0.2, 3.0, 4.0))),
    TruthCase("c2", "", 'a "b", c\nd', 10, 20, (), None, {"drain": "0.25", "sex": ""}),
    TruthCase("c3", "g1", "no", 4, 3, None, (0, 5, 7), {"drain": "", "sex": "F,M"}),
    TruthCase("c4", "g2", "no", 4, 3, None, (12,), {"drain": "1", "sex": "M"}),
]


def test_every_case_comes_back_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_bytes(truth_csv(CASES))
    found = read_truth(tmp_path / "truth.csv")
    assert [case[:-1] for case in found] == [case[:-1] for case in CASES]
    assert [dict(case.attributes) for case in found] == [
        {"drain": "", "sex": ""},
        {"drain": "0.25", "sex": ""},
        {"drain": "", "sex": "F,M"},
        {"drain": "1", "sex": "M"},
    ]


def test_a_classification_truth_has_three_columns_alone() -> None:
    assert truth_csv([TruthCase("c1", "g1", "MEL")]) == b"case_id,group,label\nc1,g1,MEL\n"
    assert read_truth(b"case_id,group,label\nc1,,MEL\n") == [TruthCase("c1", "", "MEL")]


def test_no_box_is_not_the_same_as_nothing_drawn() -> None:
    written = truth_csv([TruthCase("c1", "", "no", boxes=()), TruthCase("c2", "", "no")])
    assert written == b"case_id,group,label,boxes\nc1,,no,[]\nc2,,no,\n"
    assert [case.boxes for case in read_truth(written)] == [(), None]


def test_a_ragged_mask_of_many_runs_fits_into_a_field() -> None:
    case = TruthCase("c1", "", "yes", 1024, 1024, None, (1024 * 1024 - 90_000, *([1] * 90_000)))
    assert read_truth(truth_csv([case]))[0].mask == case.mask


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"case_id,label,group\n",
        b"case_id,group,label,weight\nc1,,a,1\n",
        b"case_id,group,label,boxes,boxes\nc1,,a,[],[]\n",
        b"case_id,group,label\nc1,g\n",
        b"case_id,group,label\nc1,g,a,b\n",
        b"case_id,group,label,width\nc1,g,a,wide\n",
        b"case_id,group,label,boxes\nc1,g,a,[[1]]\n",
        b"case_id,group,label,boxes\nc1,g,a,{}x\n",
        b"case_id,group,label,boxes\nc1,g,a," + b"[" * 100_000 + b"\n",
        b"case_id,group,label,mask\nc1,g,a,1  2\n",
        b"case_id,group,label,mask\nc1,g,a,1;2\n",
        b"\xff\xfe",
    ],
)
def test_a_file_that_is_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput, match="truth file"):
        read_truth(data)
