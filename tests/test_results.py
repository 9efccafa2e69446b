"""The figures of README.md and benchmarks/RESULTS.md are those of benchmarks/results.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import update_readme
from update_readme import PAGES, PLACE, ROOT

RESULTS = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
TABLES = RESULTS["tables"]
TABLE = re.compile(r"^\|.*\|\n\|[ :|-]+\|\n", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_are_those_of_the_results(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert {place["name"] for place in PLACE.finditer(text)} <= TABLES.keys()
    assert update_readme.updated(text, TABLES) == text, "run `make readme`"
    assert text.count("<!-- results: ") == text.count("<!-- /results -->") == len(PLACE.findall(text))


def test_the_page_of_results_shows_no_other_table() -> None:
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    others = [found[0].splitlines()[0] for found in TABLE.finditer(PLACE.sub("", text))]
    assert len(others) == 1, others
    assert others[0].startswith("| processor |")


def test_every_table_is_shown() -> None:
    shown = {place["name"] for page in PAGES for place in PLACE.finditer((ROOT / page).read_text(encoding="utf-8"))}
    assert shown == TABLES.keys()


@pytest.mark.parametrize("name", TABLES)
def test_every_table_says_where_it_comes_from(name: str) -> None:
    table = TABLES[name]
    assert table["title"]
    assert table["commands"]
    assert table["machine"] in RESULTS["machines"]
    assert {len(row) for row in table["rows"]} == {len(table["columns"])}
    assert re.fullmatch(r"[0-9a-f]{7,40}", table.get("commit", "0" * 7))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", table.get("date", "2000-01-01"))


def test_a_table_that_differs_is_reported_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_readme, "ROOT", tmp_path)
    monkeypatch.setattr(update_readme, "PAGES", ("page.md",))
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- results: quickstart -->\n<!-- /results -->\n\nafter\n", encoding="utf-8")
    assert update_readme.main(["--check"]) == 1
    assert update_readme.main([]) == 0
    assert update_readme.main(["--check"]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n\n<!-- results: quickstart -->\n| 80 held-out records")
    assert text.endswith("<!-- /results -->\n\nafter\n")
