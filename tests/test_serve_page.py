"""The page in a real Chromium: texts side by side, facts marked, keyboard, phone width, keys, a server that goes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bases import META
from live_server import post, save_models, served, settings_for, wait_until
from tailora.commands.key import KeySettings, run
from tailora.serve.keys import read_keys
from tailora.serve.server import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"), meta=META)


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with served(settings_for(models, adapter_folder=models / "later", cache_tokens=4096)) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


class Page:
    """A page that must not complain, nor ask another host."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.inner = self.context.new_page()
        self.complaints: list[str] = []
        self.inner.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.inner.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.inner.on("request", self._see)
        self._address = address
        self.inner.goto(address)

    def _see(self, request: Any) -> None:
        if not request.url.startswith(self._address):
            self.complaints.append(f"asked {request.url}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def part(self, model: str, name: str) -> str:
        found: str = self.inner.locator(f'[data-model="{model}"] [data-part="{name}"]').inner_text()
        return found

    def until(self, expression: str) -> None:
        """Wait for an expression to hold; Playwright's own way is forbidden by the page's policy."""
        wait_until(lambda: self.inner.wait_for_timeout(20) or self.inner.evaluate(expression))

    def written(self) -> None:
        """Wait until all cards are done."""
        self.until(
            "document.querySelectorAll('#cards article').length && "
            "[...document.querySelectorAll('#cards article')].every((card) => card.dataset.state === 'done')"
        )


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Page]:
    made = Page(browser, server.address)
    made.wait_for_selector("#models input")
    made.fill("#max-tokens", "6")  # the tiny base's context is short
    made.click("#paste-tab")
    made.fill("#paste-text", '{"name": "Zoë 😀"}')
    made.click("#form-tab")
    yield made
    assert made.complaints == []
    made.context.close()


def test_base_and_adapter_write_side_by_side(page: Page, server: Server) -> None:
    assert page.locator("#models input").count() == 3
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
    assert "added" in marks.nth(1).get_attribute("class")
    assert "<b>riverside</b>" in page.part("one", "missing")
    assert "1 of 2 facts stated, 1 missing, 1 invented" in page.part("one", "fidelity")


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Any, server: Server, scheme: str) -> None:
    page = Page(browser, server.address, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.wait_for_selector("#models input")
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
        page.wait_for_selector("#models input")
        assert page.locator("#models input").count() == 1
        assert page.evaluate("Object.values(localStorage).length") == 0
        page.reload()
        page.wait_for_selector("#models input")
        page.context.close()


def test_a_server_that_stops_is_reported(browser: Any, models: Path) -> None:
    with served(settings_for(models)) as server:
        page = Page(browser, server.address)
        page.wait_for_selector("#models input")
        page.until("!document.querySelector('#load-numbers').hidden")
    page.until("document.querySelector('#load-note').textContent.includes('does not answer')")
    page.context.close()
