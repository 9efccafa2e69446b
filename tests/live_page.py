"""The server's page in a real Chromium, which must not complain."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urldefrag

import pytest

from live_server import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: apt install chromium)")
TABLE = "id,name,food\na1,Mill,Thai\na2,Zoë 😀,\na3,Inn,French\n"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser that reaches nothing but this machine."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield made
        made.close()


class Page:
    """A page that must not complain, nor ask another host."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**{"locale": "en-US", **options})
        self.inner = self.context.new_page()
        self.complaints: list[str] = []
        self.inner.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.inner.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.inner.on("request", self._see)
        self._address = urldefrag(address).url.rstrip("/")
        self.inner.goto(address)

    def _see(self, request: Any) -> None:
        if not request.url.startswith((self._address, f"blob:{self._address}")):
            self.complaints.append(f"asked {request.url}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def ready(self) -> None:
        """Wait for the list of models."""
        self.inner.wait_for_selector("#model-list input", state="attached")

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

    def choose(self, name: str, content: str | bytes) -> None:
        """Choose a data file."""
        raw = content.encode() if isinstance(content, str) else content
        self.inner.set_input_files("#file-input", {"name": name, "mimeType": "text/csv", "buffer": raw})

    def loaded(self, rows: int) -> None:
        """Wait until a file of this number of rows has been read."""
        self.until(f"document.querySelector('#file-status').textContent.startsWith('{rows} ')")

    def all_written(self) -> None:
        """Wait until the job on the file has ended."""
        self.until("document.querySelector('#job-state').textContent && document.querySelector('#stop-all').disabled")

    def fill_view(self, view: str) -> None:
        """Bring a view into the state in which it shows most."""
        if view == "server":
            return
        self.inner.fill("#max-tokens", "6")
        if view == "record":
            self.inner.click("#paste-tab")
            self.inner.fill("#paste-text", '{"name": "Zoë 😀"}')
            self.inner.click("#form-tab")
            self.inner.click("#write")
            self.written()
        else:
            self.choose("table.csv", TABLE)
            self.until("document.querySelectorAll('#rows li').length")
            self.inner.click("#write-all")
            self.all_written()
