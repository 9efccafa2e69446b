"""The page's view of a file in a real Chromium: columns, progress, errors, filters, downloads, many rows."""

from __future__ import annotations

import csv
import io
import json
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bases import META
from live_page import NEEDS_CHROMIUM, TABLE, Page, chromium
from live_server import post, save_models, served, settings_for
from tailora.serve.server import Server

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(settings_for(save_models(tmp_path_factory.mktemp("models"), meta=META), cache_tokens=4096)) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Page]:
    made = Page(browser, f"{server.address}/#file", viewport={"width": 1300, "height": 900})
    made.ready()
    made.fill("#max-tokens", "6")  # the tiny base's context is short
    made.uncheck('#model-list [value="base"]')
    yield made
    assert made.complaints == []
    made.context.close()


def texts(page: Page) -> list[str]:
    found: list[str] = page.locator("#rows .text").all_text_contents()
    return found


def bodies(page: Page, answer: Any) -> list[dict[str, Any]]:
    """Answer requests for texts with `answer(body, route)`, and keep their bodies."""
    asked: list[dict[str, Any]] = []

    def handle(route: Any) -> None:
        asked.append(json.loads(route.request.post_data))
        answer(asked[-1], route)

    page.route("**/v1/records", handle)
    return asked


def fulfill(route: Any, entries: list[dict[str, Any]]) -> None:
    events = "".join(f"data: {json.dumps({'index': index, **entry})}\n\n" for index, entry in enumerate(entries))
    route.fulfill(body=events + "data: [DONE]\n\n", headers={"content-type": "text/event-stream"})


def entry(text: str, errors: int = 0, **more: Any) -> dict[str, Any]:
    lists: dict[str, Any] = {name: [] for name in ("missing", "added", "leaked", "repeated", "mentions")}
    return {"text": text, "logprob": -1.0, "fidelity": {"slots": 1, "errors": errors, **lists, **more}}


def fact(attribute: str, value: str) -> dict[str, Any]:
    return {"subject": None, "attribute": attribute, "value": value}


def test_all_rows_are_written_as_the_server_writes_them(page: Page, server: Server) -> None:
    page.choose("table.csv", TABLE)
    page.loaded(3)
    assert page.inner_text("#write-all") == "Write 3 texts"
    page.click("#write-all")
    page.all_written()
    records: list[Any] = [
        [["name", "Mill"], ["food", "Thai"]],
        [["name", "Zoë 😀"]],
        [["name", "Inn"], ["food", "French"]],
    ]
    wanted = post(server, "/v1/records", {"model": "one", "records": records, "max_tokens": 6}).json()["data"]
    assert texts(page) == [each["text"] for each in wanted]
    assert page.locator("#rows h3").all_text_contents() == ["Row 1, a1", "Row 2, a2", "Row 3, a3"]
    assert page.inner_text("#job-words") == "3 of 3 texts"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8-sig", "UTF-8"), ("utf-16", "UTF-16 LE"), ("utf-16-be", "UTF-16 BE"), ("cp1258", "Windows-1258")],
)
def test_excels_encodings_are_recognised(page: Page, encoding: str, shown: str) -> None:
    table = 'tên;ghi chú\r\nPhở Thìn;"ngon,\r\nrẻ"\r\nBún chả Hương Liên;đông khách\r\n'
    if encoding == "cp1258":  # it has letters with one sign each, and tones apart
        import unicodedata

        raw = b"".join(_cp1258(unicodedata.normalize("NFC", letter)) for letter in table)
    else:
        raw = table.encode(encoding)
    page.choose("bảng.csv", raw)
    page.loaded(2)
    assert page.evaluate("document.querySelector('#encoding').selectedOptions[0].textContent").startswith(shown)
    facts = page.locator("#rows .chips li").all_text_contents()
    assert facts == ["tên: Phở Thìn", "ghi chú: ngon,\r\nrẻ", "tên: Bún chả Hương Liên", "ghi chú: đông khách"]


def _cp1258(letter: str) -> bytes:
    """A letter as Windows-1258 has it: some only without their tone, which follows as a letter of its own."""
    try:
        return letter.encode("cp1258")
    except UnicodeEncodeError:
        parts = unicodedata.normalize("NFD", letter)
        tone = next(mark for mark in parts if mark in "\u0300\u0301\u0303\u0309\u0323")
        rest = unicodedata.normalize("NFC", parts.replace(tone, ""))
        return rest.encode("cp1258") + tone.encode("cp1258")


def test_files_that_are_not_text_are_named(page: Page) -> None:
    page.choose("table.xlsx", b"PK\x03\x04 and more")
    page.until("document.querySelector('#file-problem').textContent")
    assert "Excel workbook" in page.inner_text("#file-problem")
    page.choose("table.csv", "name,food\nMill,Thai,more\n")
    page.until("document.querySelector('#file-problem').textContent.includes('3 cells')")
    page.complaints[:] = [each for each in page.complaints if "400" not in each]  # the browser's own line


def test_columns_are_chosen(page: Page) -> None:
    page.choose("table.csv", TABLE)
    page.loaded(3)
    roles = page.locator("#column-list select")
    assert [roles.nth(place).input_value() for place in range(3)] == ["id", "facts", "facts"]
    roles.nth(2).select_option("text")
    page.until("document.querySelectorAll('#rows details').length === 2")
    assert page.locator("#rows .chips li").all_text_contents() == ["name: Mill", "name: Zoë 😀", "name: Inn"]
    roles.nth(0).select_option("text")
    page.until("document.querySelectorAll('#rows details').length === 3")
    assert roles.nth(2).input_value() == "ignore"
    roles.nth(1).select_option("ignore")
    page.until("document.querySelector('#file-problem').textContent.includes('at least one')")


def test_one_bad_row_does_not_stop_the_others(page: Page) -> None:
    page.choose("table.csv", "name\nMill\n" + "x" * 300 + "\nInn\n")
    page.loaded(3)
    page.click("#write-all")
    page.all_written()
    assert page.inner_text("#job-words") == "3 of 3 texts, 1 failed"
    page.select_option("#show-kind", "Failed")
    assert page.locator("#rows li.row h3").all_text_contents() == ["Row 2"]
    assert "maximum context length" in texts(page)[0]
    page.click("#retry-failed")
    page.until("document.querySelector('#stop-all').disabled && !document.querySelector('#retry-failed').hidden")
    assert page.inner_text("#job-words") == "3 of 3 texts, 1 failed"
    page.complaints[:] = [each for each in page.complaints if "400" not in each]


def test_a_busy_server_is_tried_again(page: Page) -> None:
    def answer(body: dict[str, Any], route: Any) -> None:
        if len(asked) == 1:
            busy = json.dumps({"error": {"message": "too many texts"}})
            route.fulfill(status=429, body=busy, headers={"Retry-After": "1", "content-type": "application/json"})
        else:
            fulfill(route, [entry("text")] * len(body["records"]))

    asked = bodies(page, answer)
    page.choose("table.csv", TABLE)
    page.loaded(3)
    page.click("#write-all")
    page.until("document.querySelector('#job-state').textContent.includes('busy')")
    page.all_written()
    assert texts(page) == ["text"] * 3
    page.complaints[:] = [each for each in page.complaints if "429" not in each]


def test_requests_are_few_and_stop_ends_them(page: Page) -> None:
    asked = bodies(page, lambda body, route: None)  # never answered
    page.choose("table.csv", "name\n" + "".join(f"Mill {number}\n" for number in range(100)))
    page.loaded(100)
    page.click("#write-all")
    page.until("document.querySelectorAll('#rows [data-state=writing]').length === 25")
    page.wait_for_timeout(200)
    assert [len(body["records"]) for body in asked] == [8] * 4
    page.click("#stop-all")
    page.all_written()
    assert "Stopped" in page.inner_text("#job-state")
    assert page.inner_text("#write-all") == "Write 100 texts"
    page.unroute("**/v1/records")
    bodies(page, lambda body, route: fulfill(route, [entry("text")] * len(body["records"])))
    page.click("#write-all")
    page.all_written()
    assert page.inner_text("#job-words") == "100 of 100 texts"


def test_rows_are_filtered_sorted_and_downloaded(page: Page, tmp_path: Path) -> None:
    answers = [
        entry("=1+1 is good"),
        entry("The Zoë serves Thai.", 1, missing=[fact("food", "French")], added=[fact("food", "Thai")]),
        entry("Nothing", 2, missing=[fact("name", "Inn"), fact("food", "French")]),
    ]
    bodies(page, lambda body, route: fulfill(route, answers))
    page.choose("table.csv", "name,food\nMill,Thai\nZoë,French\nInn,French\n")
    page.loaded(3)
    page.click("#write-all")
    page.all_written()
    assert page.inner_text("#rows-summary").startswith("33.3% of texts without errors")
    kinds = page.evaluate("[...document.querySelector('#show-kind').options].map((option) => option.textContent)")
    assert kinds == ["All (3)", "Without errors (1)", "With errors (2)", "Missing facts (1)", "Wrong values (1)"]
    page.select_option("#sort-rows", "Errors")
    assert texts(page)[0] == "Nothing"
    page.select_option("#show-kind", "Wrong")
    assert texts(page) == ["The Zoë serves Thai."]
    assert page.locator("#rows [data-errors]").all_inner_texts() == ["Wrong value\nfood: Thai"]
    page.select_option("#show-kind", "All")
    page.select_option("#sort-rows", "File")
    page.fill("#find-row", "inn")
    page.until("document.querySelectorAll('#rows li.row').length === 1")
    page.fill("#find-row", "")
    page.until("document.querySelectorAll('#rows li.row').length === 3")
    rows = list(csv.DictReader(downloaded(page, "#download-csv", tmp_path).removeprefix("\ufeff").splitlines()))
    assert [row["text"] for row in rows] == ["'=1+1 is good", "The Zoë serves Thai.", "Nothing"]
    assert [row["wrong"] for row in rows] == ["", "food: Thai", ""]
    assert [row["fact: name"] for row in rows] == ["Mill", "Zoë", "Inn"]
    lines = [json.loads(line) for line in downloaded(page, "#download-jsonl", tmp_path).splitlines()]
    assert [line["text"] for line in lines] == [each["text"] for each in answers]
    assert [line["fidelity"] for line in lines] == [each["fidelity"] for each in answers]


def downloaded(page: Page, button: str, folder: Path) -> str:
    with page.expect_download() as download:
        page.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    content: str = path.read_bytes().decode()
    return content


def test_a_row_is_edited_as_one_record(page: Page) -> None:
    page.choose("table.csv", TABLE)
    page.loaded(3)
    page.click("#write-all")
    page.all_written()
    page.locator("#rows li.row button").nth(2).click()
    assert page.evaluate("location.hash") == "#record"
    assert page.locator('#facts [name="value"]').nth(1).input_value() == "French"
    assert page.part("one", "state") == "from the file"
    page.fill('#facts [name="value"] >> nth=0', "Mill")
    page.click("#write")
    page.written()
    page.click('#views [href="#file"]')
    assert len(texts(page)) == 3


def test_leaving_warns_while_texts_are_not_saved(page: Page) -> None:
    asked: list[str] = []

    def accept(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", accept)
    page.choose("table.csv", TABLE)
    page.loaded(3)
    page.click("#write-all")
    page.all_written()
    page.choose("other.csv", "name\nMill\n")
    page.loaded(1)
    assert asked == ["confirm"]
    page.click("#write-all")
    page.all_written()
    page.reload()
    assert asked == ["confirm", "beforeunload"]


def test_five_thousand_rows_stay_responsive(page: Page) -> None:
    answer = [entry("The Mill is a pub by the river.", 1, missing=[fact("name", "x")])]
    bodies(page, lambda body, route: fulfill(route, answer * len(body["records"])))
    page.choose("table.csv", "name,food\n" + "".join(f"Mill {number},Thai\n" for number in range(5000)))
    page.until("document.querySelector('#file-status').textContent.startsWith('5,000 ')")
    page.click("#write-all")
    began = time.monotonic()
    longest = page.evaluate(
        "new Promise((resolve) => { let last = performance.now(), most = 0, left = 60; const id = setInterval(() => {"
        "const now = performance.now(); most = Math.max(most, now - last); last = now;"
        "if (!left--) { clearInterval(id); resolve(most) } }, 50) })"
    )
    assert longest < 1000, f"the page did not react for {longest:.0f} ms after {time.monotonic() - began:.0f} s"
    page.until("document.querySelector('#job-words').textContent.startsWith('5,000 of 5,000')")
    assert page.locator("#rows li.row").count() == 25
    began = time.monotonic()
    page.select_option("#show-kind", "Missing")
    page.click("#next-page")
    page.fill("#find-row", "mill 4999")
    page.until("document.querySelectorAll('#rows li.row').length === 1")
    assert time.monotonic() - began < 5


def test_cells_cannot_become_formulas(page: Page) -> None:
    formulas = ["=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "-2+3", " =1", "\t=1", "\uff1d1", "+84 90"]
    cells = [*formulas, "-5", "1.5", "a=b", 'say "x"', "two\nlines"]
    safe = page.evaluate("(cells) => import('/page/downloads.js').then(({ csvCell }) => cells.map(csvCell))", cells)
    (read,) = csv.reader(io.StringIO(",".join(safe), newline=""))
    assert read == [*(f"'{cell}" for cell in formulas), *cells[len(formulas) :]]
