"""`tools/text_table.py`: the first texts of real systems and of a file that `tailora generate` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snippets import ROOT

SHARED = ROOT.parent / "shared"
ROWS = [
    {"name": "Oak|Ash", "food": "Thai", "text": "Oak is Thai.\nReally."},
    {"name": "Mill", "food": "Lao", "text": "Lao food: the Mill."},
    {"name": "Mill", "food": "Lao", "text": "The Mill is Lao."},
]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the program and return the rows that it prints, or its error."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    import text_table

    def run(*arguments: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["text_table.py", *arguments])
        try:
            text_table.main()
        except SystemExit:
            return capsys.readouterr().err.splitlines()
        return capsys.readouterr().out.splitlines()

    return run


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_the_first_texts_of_a_real_system(table: Any) -> None:
    texts = SHARED / "reference" / "e2e_metrics" / "tgen-plus.run1.txt.gz"
    rows = table(str(texts), "--input", str(SHARED / "data" / "e2e" / "testset_w_refs.csv.gz"), "--count", "2")
    assert len(rows) == 4
    assert rows[2] == (
        r"| 1 | name : Blue Spice \| Type : coffee shop \| area : city centre "
        "| Blue Spice is a coffee shop in the city centre. | A coffee shop in the city centre area called Blue Spice. |"
    )


def test_texts_by_record_and_by_row(table: Any, tmp_path: Path) -> None:
    data, texts = tmp_path / "data.jsonl", tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    first = r"| 1 | name : Oak\\\|Ash \| food : Thai | A | Oak is Thai. Really. |"
    for own, count in ((["A", "B"], 2), (["A", "B", "C"], 3)):
        texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in own), encoding="utf-8")
        rows = table(str(texts), "--input", str(data))
        assert rows[2] == first
        assert [row.split(" | ")[-2] for row in rows[2:]] == own
        assert len(rows) == 2 + count
    texts.write_text('{"text": "A"}\n', encoding="utf-8")
    assert table(str(texts), "--input", str(data), "--limit", "1")[2:] == [first]
    assert "contains 1 text for 2 records" in table(str(texts), "--input", str(data))[-1]
