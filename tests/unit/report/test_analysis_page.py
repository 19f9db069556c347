"""The sections of the page that an analysis fills: curves, calibration, confounders, subgroups, and cases gained and lost."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import pytest
from PIL import Image
from pydantic import ValidationError

from clinloop.report.cases import Gallery, GalleryItem
from clinloop.report.checklist import reporting_items
from clinloop.report.data import ReportData
from clinloop.report.evidence import Evidence
from clinloop.report.html import draw_figures, render_html
from clinloop.report.sections import sections_of
from clinloop.report.verify import _words

from .analysed import binary_analysis, detection_analysis, many_class_analysis
from .conftest import CLASSES, HOSTILE


def jpeg() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def item(outcome, **changes) -> GalleryItem:
    values = {"case_id": "0a1b2c", "truth": "MEL", "initial": "taken for NV (0.70)", "refined": "MEL (0.81)"}
    return GalleryItem.model_validate({"outcome": outcome, "picture": jpeg(), **values, **changes})


@pytest.fixture(scope="module")
def many(data: ReportData) -> ReportData:
    gallery = Gallery(n=285, gained=2, lost=1, items=(item("gained"), item("gained", truth=HOSTILE), item("lost")))
    return data.model_copy(update={"analysis": many_class_analysis(CLASSES), "gallery": gallery})


@pytest.fixture(scope="module")
def binary(data: ReportData) -> ReportData:
    classes = ("none", "pneumothorax")
    facts = data.dataset.model_copy(update={"classes": classes, "counts": {"test": {"none": 900, "pneumothorax": 300}}})
    spec = {**data.spec, "emphasised_classes": [], "positive_class": "pneumothorax"}
    return data.model_copy(update={"dataset": facts, "spec": spec, "analysis": binary_analysis()})


@pytest.fixture(scope="module")
def many_page(many: ReportData, evidence: Evidence) -> str:
    return render_html(many, draw_figures(many, evidence))


@pytest.fixture(scope="module")
def binary_page(binary: ReportData) -> str:
    return render_html(binary, draw_figures(binary, None))


def test_the_class_that_matters_is_shown_first_and_the_others_are_folded_away(many: ReportData, many_page: str) -> None:
    found = sections_of(many)
    assert found.leading == "MEL"
    assert {curve.name for curve in found.more_curves} == set(CLASSES) - {"MEL"}
    at = [many_page.index(words) for words in ("Curves for MEL", "<summary>Curves of the other classes")]
    assert at == sorted(at)


def test_two_classes_are_told_once_because_the_other_one_is_the_mirror(binary: ReportData) -> None:
    found = sections_of(binary)
    assert {curve.name for curve in found.curves} == {"pneumothorax"}
    assert found.more_curves == []


def test_declared_confounders_are_shown_and_other_attributes_folded_away(binary: ReportData) -> None:
    found = sections_of(binary)
    assert [audit.attribute for audit in found.audits] == ["drain"]
    assert [audit.attribute for audit in found.more_audits] == ["view", "tube", "site"]
    assert binary.analysis is not None
    none = [
        replace(audit, is_declared=False, auc_alone=0.2 if audit.attribute == "tube" else 0.6)
        for audit in binary.analysis.confounders
    ]
    undeclared = sections_of(binary.model_copy(update={"analysis": replace(binary.analysis, confounders=none)}))
    assert [audit.attribute for audit in undeclared.audits] == ["tube"]


def test_pages_of_every_kind_draw_each_section_once_with_ids_that_are_unique(
    many_page: str, binary_page: str, data: ReportData
) -> None:
    boxes = data.model_copy(update={"task_type": "detection", "analysis": detection_analysis()})
    pages = (many_page, binary_page, render_html(boxes, draw_figures(boxes, None)))
    for page in pages:
        ids = re.findall(r'\bid="([^"]+)"', page)
        assert len(ids) == len(set(ids))
        targets = set(re.findall(r'href="#([^"]+)"', page))
        assert targets <= set(ids)
        assert "#0102" not in page
    assert [page.count("<svg") for page in pages] == [13, 13, 6]


def test_adjusted_p_values_replace_the_remark_that_nothing_is_corrected(many_page: str, data: ReportData) -> None:
    assert "adjusted p = 0.080" in many_page
    assert "not corrected" not in many_page
    assert "not corrected" in render_html(data, {})


def test_confounders_are_told_with_chance_with_holm_and_with_too_few(binary_page: str) -> None:
    words = " ".join(re.sub("<[^>]+>", " ", binary_page).split())
    for expected in (
        "Declared as a confounder in the contract; its values were predicted by a model.",
        "it alone tells pneumothorax with an AUC of 0.740",
        "adjusted p = 0.002",
        "would be 0.22 as the values stand",
        "drain remains correlated with the refined model",
        "too few",
        "Further attributes that nobody declared (3)",
        "Groups have several cases, which it takes as independent.",
        "Two cases have no value of drain",
    ):
        assert expected in words


def test_pictures_are_inline_jpeg_and_everything_else_stays_blocked(many_page: str) -> None:
    sources = re.findall(r'<img [^>]*src="([^"]*)"', many_page)
    assert len(sources) == 3
    assert all(source == f"data:image/jpeg;base64,{jpeg()}" for source in sources)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in many_page
    assert "<script" not in many_page
    assert "images of patients" in many_page


@pytest.mark.parametrize("picture", ['x" onerror="alert(1)', "<b>", "", "A" * 50_000])
def test_a_picture_that_is_no_small_base64_text_is_refused(picture: str) -> None:
    with pytest.raises(ValidationError):
        item("gained", picture=picture)


def test_a_gallery_without_pictures_still_counts(data: ReportData) -> None:
    off = data.model_copy(update={"gallery": Gallery(n=9, gained=2, lost=1, note="Pictures are switched off.")})
    page = render_html(off, {})
    assert "<img" not in page
    assert "Pictures are switched off." in page
    assert "Of 9 validation cases the refined model gets 2 right" in page


def test_the_page_can_be_made_again_from_report_json_and_every_sentence_is_part_of_the_check(
    many: ReportData, many_page: str
) -> None:
    again = ReportData.model_validate_json(many.model_dump_json())
    assert again == many
    assert _words(render_html(again, {})) == _words(many_page)
    assert "off by" in _words(many_page)


def test_items_are_answered_from_the_analysis_and_blank_without(
    data: ReportData, many: ReportData, binary: ReportData
) -> None:
    answers, filled, confounded = (
        {found.topic: found.answer for found in reporting_items(report)} for report in (data, many, binary)
    )
    assert answers["Calibration"] is answers["Performance in subgroups, fairness"] is answers["Missing data"] is None
    assert "MEL 0." in (filled["Calibration"] or "")
    assert "groups by age, sex and view" in (filled["Performance in subgroups, fairness"] or "")
    assert "2 validation cases gained and 1 lost" in (filled["Analysis of failures"] or "")
    assert "drain known for 1200 of 320" in (confounded["Missing data"] or "")
    assert "confound audit of view, drain, tube and site" in (confounded["Robustness of the model"] or "")
