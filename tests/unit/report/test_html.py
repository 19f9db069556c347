"""What a reader sees: the page, its figures and the model card."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from clinloop.report.data import Estimate, FinalMetric, ReportData, RunSummary
from clinloop.report.evidence import Evidence
from clinloop.report.figures import class_auc_svg, learning_svg, metric_bars_svg, trajectory_png, trajectory_svg
from clinloop.report.html import draw_figures, render_html, summary_lines
from clinloop.report.model_card import model_card, plain
from clinloop.report.text import explanation, interval, p_text, short, signed

VOID = {"meta", "br", "img", "hr", "input", "link"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tags, attributes and text of a page; raises when tags are not nested."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="session")
def html(data: ReportData, evidence: Evidence) -> str:
    return render_html(data, draw_figures(data, evidence))


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    return Page(html)


def test_page_is_well_formed_and_its_ids_are_unique(page: Page) -> None:
    ids = [value for name, value in page.attributes if name == "id"]
    assert page.open == []
    assert len(ids) == len(set(ids))
    assert {"svg", "table", "details", "blockquote"} <= set(page.tags)


def test_page_needs_no_network_and_runs_no_script(page: Page, html: str) -> None:
    assert not {"script", "iframe", "object", "embed", "link", "img", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    links = [value for name, value in page.attributes if name in {"href", "xlink:href", "style"} and "//" in value]
    assert links == []
    assert re.findall(r"url\((?!#)", html) == []
    assert set(re.findall(r"https?://[^/\s]*", html)) == {"https://evil.example"}  # the agent's own sentence, as text
    assert "default-src 'none'" in html


def test_words_of_the_agent_are_shown_as_text_without_invisible_characters(page: Page, html: str) -> None:
    assert "<script>alert(1)</script> <img src=https://evil.example/x.png onerror=alert(2)>" in page.text
    assert "{{ 7*7 }} $\\alpha$ 🩺🔬 red" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", html)


def test_page_tells_the_whole_story_and_never_says_hidden(page: Page, data: ReportData) -> None:
    words = " ".join(page.text.split())
    for expected in (
        "Tell melanoma from the other lesions for me,",
        "0.862",
        "0.844 to 0.880",
        "p < 0.001",
        "−0.039 to +0.033",
        "Guarantee level L0 (honour).",
        "Test set opened by the server: once.",
        "11 of 31 charged runs of 40 min",
        data.ledger_head,
        data.spec_sha256,
        "Gain −0.002 (−0.015 to 0.012) is within noise.",
        "a drop of 0.009",
        "For research use only.",
        "not done",
        "Is a sensitivity of 90 % for melanoma enough?",
        "Metadata alone reach an AUC of 0.71 for MEL.",
    ):
        assert expected in words
    assert "hidden" not in words.lower()


def test_same_report_gives_the_same_page(data: ReportData, evidence: Evidence, html: str) -> None:
    assert render_html(data, draw_figures(data, evidence)) == html


def test_summary_says_in_plain_words_what_was_found(data: ReportData) -> None:
    asked, result, meaning = summary_lines(data)
    assert asked.startswith("“Tell melanoma")
    assert "On 320 test images from 190 lesions, the refined model reaches Macro AUC 0.862" in result
    assert "larger than chance explains (p < 0.001)" in result
    assert "finds 74\u00a0% of MEL (68 to 80\u00a0%) and clears 81\u00a0% of the others" in result
    assert "research use only" in meaning
    assert "L0" in meaning


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (Estimate(value=0.01, low=-0.01, high=0.03), "do not show a difference"),
        (Estimate(value=-0.05, low=-0.08, high=-0.02), "worse than the initial one"),
        (Estimate(value=None), "cannot be compared"),
    ],
)
def test_summary_does_not_claim_a_gain_that_the_interval_does_not_show(
    data: ReportData, difference: Estimate, expected: str
) -> None:
    final = tuple(
        metric.model_copy(update={"difference": difference}) if metric.name == "macro_auc" else metric
        for metric in data.final
    )
    assert expected in summary_lines(data.model_copy(update={"final": final}))[1]


def test_summary_says_when_no_run_beat_the_baseline(data: ReportData) -> None:
    assert "No later run was accepted" in summary_lines(data.model_copy(update={"incumbent": 0}))[1]


def test_report_of_a_baseline_alone_with_undefined_metrics_still_renders(data: ReportData, evidence: Evidence) -> None:
    undefined = [
        metric.model_copy(
            update={
                "initial": Estimate(value=None),
                "refined": Estimate(value=None),
                "difference": Estimate(value=None),
                "p": None,
            }
        )
        for metric in data.final[1:3]
    ]
    bare = data.model_copy(
        update={
            "runs": data.runs[:1],
            "incumbent": 0,
            "final": (data.final[0], *undefined),
            "operating_points": (),
            "assumptions": (),
            "open_questions": (),
        }
    )
    words = Page(render_html(bare, draw_figures(bare, evidence))).text
    assert "not comparable" in words
    assert "None were recorded." in words


def test_figures_follow_the_colours_of_the_page(data: ReportData) -> None:
    for svg in (
        metric_bars_svg(data.final),
        trajectory_svg(data.runs, "Macro AUC"),
        class_auc_svg(data.final) or "",
        learning_svg(data.runs, "Macro AUC", data.incumbent) or "",
    ):
        assert svg.startswith("<svg role=")
        assert "var(--ink)" in svg
        assert "#0102" not in svg
        assert not re.search(r"#[0-9a-fA-F]{6}\b", svg.replace("#000000", ""))
        assert "xmlns" not in svg


def test_class_names_cannot_break_a_figure(data: ReportData) -> None:
    metric: FinalMetric = data.final[0].model_copy(update={"title": "<b>$x^2$ & \u202e</svg>"})
    svg = metric_bars_svg([metric])
    assert "<b>" not in svg
    assert svg.count("</svg>") == 1
    assert "$x^2$" in svg


def test_figures_without_anything_to_show_are_left_out(data: ReportData) -> None:
    assert class_auc_svg(data.final[:2]) is None
    assert learning_svg([run.model_copy(update={"validations": ()}) for run in data.runs], "Macro AUC", 9) is None


@pytest.mark.parametrize("count", [0, 1, 12])
def test_trajectory_png_shows_any_number_of_runs(data: ReportData, count: int) -> None:
    image = Image.open(io.BytesIO(trajectory_png(data.runs[:count], "Macro AUC")))
    assert image.size == (920, 520)
    assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10


def test_trajectory_png_marks_a_failed_run(data: ReportData) -> None:
    failed: RunSummary = data.runs[4]
    pictures = [
        Image.open(io.BytesIO(trajectory_png(runs, "Macro AUC"))).convert("RGB").getcolors(1 << 20) or []
        for runs in (data.runs[:2], [*data.runs[:2], failed])
    ]
    vermilion = [any(colour == (196, 70, 1) for _, colour in colours) for colours in pictures]
    assert vermilion == [False, True]


def test_model_card_is_inert_markdown(data: ReportData) -> None:
    card = model_card(data)
    assert "\\<b\\>Thank you\\</b\\>" in card
    assert "| Macro AUC | 0.779 (0.761 to 0.797) | 0.862 (0.844 to 0.880) | p < 0.001 |" in card
    assert data.integrity.checkpoints["refined"] in card
    assert plain("a|b\n# c [x](y)") == "a\\|b \\# c \\[x\\]\\(y\\)"


def test_numbers_have_one_style() -> None:
    assert interval(Estimate(value=0.1, low=-0.25, high=0.5), show_sign=True) == "−0.250 to +0.500"
    assert interval(Estimate(value=0.1)) == "–"
    assert (short("AUC (ties by midranks)"), explanation("AUC (ties by midranks)")) == ("AUC", "ties by midranks")
    assert (short("Macro F1"), explanation("Macro F1")) == ("Macro F1", "")
    assert (signed(-0.0001), p_text(0.0004), p_text(0.05), p_text(None)) == ("+0.000", "p < 0.001", "p = 0.050", "p –")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [500, 1400])
def test_browser_shows_the_page_without_sideways_scrolling(html: str, tmp_path: Path, width: int) -> None:
    file = tmp_path / "report.html"
    probe = "<script>document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth</script></body>"
    file.write_text(re.sub(r"<meta http-equiv[^>]*>", "", html).replace("</body>", probe), encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [*command, f"--window-size={width},900", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    found, inner = (int(number) for number in re.search(r"<title>(\d+) of (\d+)</title>", shown).groups())
    assert found <= inner
    assert "alert(1)" in shown
