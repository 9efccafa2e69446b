"""The page in a real Chromium: one record, the server, languages, keyboard, phone width, accessibility, keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bases import META
from live_page import NEEDS_CHROMIUM, Page, chromium
from live_server import post, save_models, served, settings_for
from snippets import ROOT
from tailora.commands.key import KeySettings, run
from tailora.serve.keys import read_keys
from tailora.serve.server import Server

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]
PAGE = ROOT / "src" / "tailora" / "serve" / "page"
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"), meta=META)


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with served(settings_for(models, adapter_folder=models / "later", cache_tokens=4096)) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Page]:
    made = Page(browser, server.address)
    made.ready()
    made.fill("#max-tokens", "6")  # the tiny base's context is short
    made.click("#paste-tab")
    made.fill("#paste-text", '{"name": "Zoë 😀"}')
    made.click("#form-tab")
    yield made
    assert made.complaints == []
    made.context.close()


def test_base_and_adapter_write_side_by_side(page: Page, server: Server) -> None:
    assert page.locator("#model-list input").count() == 3
    page.click("#write")
    page.written()
    for model in ("base", "one"):
        body = {"model": model, "facts": [["name", "Zoë 😀"]], "max_tokens": 6}
        wanted = post(server, "/v1/records", body).json()["data"][0]
        shown = page.locator(f'[data-model="{model}"] [data-part="text"]').text_content()
        assert shown == wanted["text"]
        assert f"{1 - len(wanted['fidelity']['missing'])} of 1 fact stated" in page.part(model, "fidelity")
        assert "tokens/s" in page.part(model, "speed")
    page.until("document.querySelectorAll('#recent tbody tr').length >= 2")


def test_facts_are_marked_where_they_are_said(page: Page) -> None:
    text = "😀 The Zoë 😀, French food. Zoë 😀!"
    fact = {"subject": None, "attribute": "name", "value": "Zoë 😀"}
    made_up = {"subject": None, "attribute": "food", "value": "French"}
    missing = {"subject": None, "attribute": "area", "value": "<b>riverside</b>"}
    mentions = [{"start": 6, "end": 11, **fact, "added": False}, {"start": 13, "end": 19, **made_up, "added": True}]
    fidelity = {"slots": 2, "errors": 2, "missing": [missing], "added": [made_up], "repeated": [], "mentions": mentions}
    last = {"index": 0, "delta": "", "text": text, "finish_reason": "stop", "fidelity": fidelity}
    last["usage"] = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    events = "".join(f"data: {json.dumps(each)}\n\n" for each in ({"index": 0, "delta": text}, last))
    headers = {"content-type": "text/event-stream"}
    page.route("**/v1/records", lambda route: route.fulfill(body=events + "data: [DONE]\n\n", headers=headers))
    page.click("#write")
    page.written()
    marks = page.locator('[data-model="one"] mark')
    assert marks.all_text_contents() == ["Zoë 😀", "French"]
    assert marks.nth(0).get_attribute("class") == "said light"
    assert "added" in marks.nth(1).get_attribute("class")
    assert "<b>riverside</b>" in page.part("one", "errors")
    assert "1 of 2 facts stated, 1 missing, 1 not in the record" in page.part("one", "fidelity")


def test_a_composition_names_its_adapters(page: Page) -> None:
    parts = [{"name": "e2e", "weight": 0.7}, {"name": "formal", "weight": 0.3}]
    model = {"id": "mix", "parent": "base", "rank": 8, "adapters": parts}
    about = "(model) => import('/page/models.js').then(({ aboutModel }) => aboutModel(model))"
    assert page.evaluate(about, model) == "0.7 × e2e + 0.3 × formal"


def test_the_record_may_be_pasted(page: Page) -> None:
    page.click("#paste-tab")
    page.fill("#paste-text", "name : Mill | Mill : food : Thai")
    page.click("#form-tab")
    assert page.locator("#triples").is_checked()
    assert page.locator('#facts [name="value"]').nth(1).input_value() == "Thai"
    page.click("#paste-tab")
    page.fill("#paste-text", '{"name": ')
    page.click("#write")
    assert "JSON" in page.inner_text("#message")
    page.fill("#paste-text", "no fact here")
    page.click("#form-tab")
    assert page.locator("#paste").is_visible()  # nothing is lost
    assert page.input_value("#paste-text") == "no fact here"


def test_all_of_it_by_keyboard(page: Page) -> None:
    page.focus("#form-tab")
    page.keyboard.press("ArrowRight")
    assert page.locator("#paste-tab").get_attribute("aria-selected") == "true"
    page.keyboard.press("ArrowLeft")
    page.focus("#add-fact")
    page.keyboard.press("Enter")
    page.keyboard.type("food")
    page.keyboard.press("Tab")
    page.keyboard.type("x")
    page.keyboard.press("Control+Enter")
    page.written()
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, textarea, button, meter, select')]"
        ".filter((e) => !e.labels?.length && !e.ariaLabel && !e.textContent.trim()).length"
    )
    assert unnamed == 0


def test_errors_of_the_server_are_shown(page: Page) -> None:
    page.click("#paste-tab")
    page.fill("#paste-text", json.dumps({"name": "x" * 200}))
    page.click("#write")
    page.until("document.querySelector('[data-model=one]')?.dataset.state === 'failed'")
    assert "maximum context length is 96" in page.part("one", "state")
    page.complaints[:] = [each for each in page.complaints if "400" not in each]  # the browser's own line


def test_stop_ends_what_is_written(page: Page) -> None:
    page.route("**/v1/records", lambda route: None)  # never answered
    page.click("#write")
    page.click("#stop")
    page.until("document.querySelector('#cards article')?.dataset.state === 'stopped'")
    assert page.locator("#stop").is_disabled()


def test_a_fact_lights_up_where_the_text_says_it(page: Page) -> None:
    text = "The Mill."
    mention = {"start": 4, "end": 8, "subject": None, "attribute": "name", "value": "Mill", "added": False}
    fidelity = {
        "slots": 1,
        "errors": 0,
        "missing": [],
        "added": [],
        "leaked": [],
        "repeated": [],
        "mentions": [mention],
    }
    last = {"index": 0, "text": text, "finish_reason": "stop", "fidelity": fidelity}
    headers = {"content-type": "text/event-stream"}
    body = f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/records", lambda route: route.fulfill(body=body, headers=headers))
    page.fill('#facts [name="value"]', "Mill")
    page.click("#write")
    page.written()
    page.focus('#facts [name="value"]')
    assert "lit" in page.locator('[data-model="one"] mark').get_attribute("class")
    page.fill('#facts [name="value"]', "Tower")
    page.focus("#write")
    page.focus('#facts [name="value"]')
    assert "lit" not in page.locator('[data-model="one"] mark').get_attribute("class")


@pytest.mark.parametrize("view", ["record", "file", "server"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-US", "vi-VN"])
def test_axe_finds_no_violation(browser: Any, server: Server, view: str, scheme: str, locale: str) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not in node_modules (npm install --no-save axe-core)")
    page = Page(browser, f"{server.address}/#{view}", color_scheme=scheme, locale=locale)
    page.ready()
    page.fill_view(view)
    page.evaluate(AXE.read_text(encoding="utf-8") + ";0")
    violations = page.evaluate("axe.run()")["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations] == []
    page.context.close()


def test_the_browsers_language_is_used_until_another_is_chosen(browser: Any, server: Server) -> None:
    page = Page(browser, server.address, locale="vi-VN")
    page.ready()
    assert page.inner_text("#write") == "Sinh văn bản"
    assert page.evaluate("document.documentElement.lang") == "vi"
    page.select_option("#language", "en")
    assert page.inner_text("#write") == "Write"
    assert page.get_attribute('#facts [name="value"]', "placeholder") == "value"
    page.reload()
    page.ready()
    assert page.inner_text("#write") == "Write"
    page.context.close()


def test_the_languages_have_the_same_words_and_all_are_used(page: Page) -> None:
    kinds = (
        "Promise.all(['en', 'vi'].map((code) => import(`/page/words_${code}.js`).then("
        "(words) => Object.entries(words[code]).map(([name, value]) => [name, value.call ? value.length : -1]))))"
    )
    english, vietnamese = page.evaluate(kinds)
    assert english == vietnamese
    sources = [path.read_text(encoding="utf-8") for path in PAGE.iterdir() if not path.stem.startswith("words_")]
    used = set(re.findall(r"""['"](\w+)['"]""", "\n".join(sources)))
    composed = {name for name, _ in english if re.match("(role|kind|sort)[A-Z]", name)}
    assert {name for name, _ in english} - composed <= used
    named = set(re.findall(r'data-word(?:-\w+)?="(\w+)"', (PAGE / "index.html").read_text(encoding="utf-8")))
    assert named <= {name for name, _ in english}


@pytest.mark.parametrize("view", ["record", "file", "server"])
@pytest.mark.parametrize("locale", ["en-US", "vi-VN"])
def test_every_view_fits_a_phone(browser: Any, server: Server, view: str, locale: str) -> None:
    page = Page(browser, f"{server.address}/#{view}", viewport={"width": 390, "height": 844}, locale=locale)
    page.ready()
    page.fill_view(view)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Any, server: Server, scheme: str) -> None:
    page = Page(browser, server.address, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.ready()
    page.click("#write")
    page.wait_for_selector("#cards article")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.context.close()


def test_a_key_is_asked_for_and_kept_in_the_tab(browser: Any, models: Path, tmp_path: Path) -> None:
    key = run(KeySettings(name="page", output=tmp_path / "keys.yaml", model=("one",)))["key"]
    with served(settings_for(models), read_keys(tmp_path / "keys.yaml", {})) as server:
        page = Page(browser, server.address)
        page.wait_for_selector("#key")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.until("document.querySelector('#message').textContent.includes('does not accept')")
        page.fill("#key", key)
        page.keyboard.press("Enter")
        page.ready()
        assert page.locator("#model-list input").count() == 1
        assert page.evaluate("Object.values(localStorage).length") == 0
        page.reload()
        page.ready()
        page.context.close()


def test_a_server_that_stops_is_reported(browser: Any, models: Path) -> None:
    with served(settings_for(models)) as server:
        page = Page(browser, server.address)
        page.ready()
        page.until("!document.querySelector('#load-numbers').hidden")
    page.until("document.querySelector('#load-note').textContent.includes('does not answer')")
    page.context.close()
