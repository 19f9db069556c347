"""Pages of datasets: what people see, and that nothing of the test part is there."""

from __future__ import annotations

import csv
import io
import re
import time

import pytest
from PIL import Image

from clinloop.datasets import vault
from clinloop.datasets.dataset import Dataset

from .conftest import Web


def pages_of(web: Web) -> list[str]:
    return ["/datasets", "/datasets/moles", "/datasets/moles/pictures", "/datasets/moles/ledger"]


def test_the_list_and_the_page_say_what_an_agent_may_learn(web: Web) -> None:
    clinician = web.clinician
    assert "moles" in clinician.get("/datasets").text
    page = clinician.get("/datasets/moles").text
    dataset = Dataset.load(web.services.settings.state, "moles")
    for line in dataset.audit_lines():
        assert escaped(line.removeprefix("Warning: ")) in page, line
    for counts in dataset.counts.values():
        for count in counts.values():
            assert f'<td class="number">{count}</td>' in page
    assert dataset.commitment in page and web.services.store.head("dataset:moles") in page


def test_no_page_for_a_clinician_says_anything_of_a_test_case(web: Web) -> None:
    dataset = Dataset.load(web.services.settings.state, "moles")
    test = vault.open_test(dataset.folder)
    clinician = web.clinician
    for path in pages_of(web):
        text = clinician.get(path).text
        assert not [case.case_id for case in test if case.case_id in text], path
        assert f"{len(test)} test" not in text
    for case in test[:3]:
        answer = clinician.get(f"/datasets/moles/pictures/{case.case_id}")
        assert answer.status_code == 404 and answer.headers["cache-control"] == "no-store"
    refused = clinician.get("/datasets/moles/pictures?split=test")
    assert refused.status_code == 400 and "never shown" in refused.text
    assert clinician.get("/datasets/moles/custodian").status_code == 403


def test_the_custodian_reads_counts_of_the_test_part_and_the_source_on_a_page_of_its_own(web: Web) -> None:
    dataset = Dataset.load(web.services.settings.state, "moles")
    audit = vault.custodian_audit(dataset.folder)
    custodian = web.custodian
    page = custodian.get("/datasets/moles/custodian").text
    assert all(f'{name}</th><td class="number">{count}</td>' in page for name, count in audit.test_counts.items())
    assert vault.seal_state(dataset.folder).source in page
    assert f"In {audit.test_groups} groups".lower() not in custodian.get("/datasets/moles").text.lower()


def test_pictures_of_training_and_validation_are_leafed_through_by_class(web: Web) -> None:
    dataset, clinician = Dataset.load(web.services.settings.state, "moles"), web.clinician
    seen: list[str] = []
    number = 1
    while True:
        page = clinician.get(f"/datasets/moles/pictures?split=train&label=nevus&page={number}").text
        seen += re.findall(r'<img src="/datasets/moles/pictures/([^"]+)"', page)
        if 'rel="next"' not in page:
            break
        number += 1
    assert seen == [case.case_id for case in dataset.cases("train") if case.label == "nevus"]
    assert clinician.get(f"/datasets/moles/pictures?split=train&page={number + 9}").status_code == 400
    validation = dataset.cases("val")[0]
    small = clinician.get(f"/datasets/moles/pictures/{validation.case_id}")
    with Image.open(io.BytesIO(small.content)) as image:
        assert image.format == "JPEG" and image.size == (224, 224)
    assert small.headers["cache-control"] == "private, max-age=86400"
    full = clinician.get(f"/datasets/moles/pictures/{validation.case_id}?size=full")
    assert full.content == validation.image.read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/datasets/none",
        "/datasets/..%2f..%2fetc",
        "/datasets/none/pictures",
        "/datasets/none/ledger",
        "/datasets/moles/pictures/..%2f..%2fcases.csv",
        "/datasets/moles/pictures/nobody",
    ],
)
def test_what_does_not_exist_is_a_plain_404(web: Web, path: str) -> None:
    answer = web.clinician.get(path)
    assert answer.status_code == 404 and str(web.services.settings.state) not in answer.text


def test_agents_and_strangers_see_no_page_and_no_picture(web: Web) -> None:
    case = Dataset.load(web.services.settings.state, "moles").cases("val")[0]
    for path in [*pages_of(web), f"/datasets/moles/pictures/{case.case_id}"]:
        assert web.codex.get(path).status_code == 403
        assert web.nobody().get(path).status_code == 303


def test_a_dataset_is_removed_only_by_a_custodian_who_types_its_name(web: Web) -> None:
    custodian, folder = web.custodian, web.services.settings.state / "datasets" / "moles"
    assert web.clinician.post("/datasets/moles/remove", name="moles").status_code == 403
    assert custodian.post("/datasets/moles/remove", name="mole").status_code == 400
    task = web.codex.begin()
    refused = custodian.post("/datasets/moles/remove", name="moles")
    assert refused.status_code == 400 and task in refused.text and folder.is_dir()


def test_removing_a_dataset_leaves_its_ledger_with_who_did_it(web: Web) -> None:
    custodian = web.custodian
    assert custodian.post("/datasets/moles/remove", name="moles").status_code == 303
    assert not (web.services.settings.state / "datasets" / "moles").exists()
    assert web.services.store.ledger("dataset:moles")[-1].detail["by"] == "IT"
    ledger = custodian.get("/datasets/moles/ledger").text
    assert "The dataset was removed" in ledger and "Verified" in ledger


def test_pages_of_25_000_cases_read_no_case_and_the_gallery_reads_them_once(web: Web) -> None:
    dataset = Dataset.load(web.services.settings.state, "moles")
    table = dataset.folder / "cases.csv"
    rows = list(csv.reader(io.StringIO(table.read_text(encoding="utf-8"))))
    header, cases = rows[0], rows[1:]
    many = [[f"{number:012x}", *cases[number % len(cases)][1:]] for number in range(25_000)]
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *many])
    clinician = web.clinician
    (dataset.folder / "cases.csv").rename(hidden := dataset.folder / "elsewhere.csv")
    assert clinician.get("/datasets/moles").status_code == 200  # the page needs no table of cases
    hidden.rename(dataset.folder / "cases.csv")
    first = clinician.get("/datasets/moles/pictures?split=train")
    begun = time.monotonic()
    again = clinician.get("/datasets/moles/pictures?split=train&page=3")
    seconds = time.monotonic() - begun
    assert first.status_code == again.status_code == 200 and again.text.count("<img ") == 48
    print(f"a page of the gallery with 25,000 cases: {1000 * seconds:.0f} ms")


def escaped(text: str) -> str:
    return (
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;").replace('"', "&#34;")
    )
