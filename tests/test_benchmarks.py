"""Benchmarks that read what the commands write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [("The Mill", "pub", "here"), ("The Mill", "pub", "there"), ("Giraffe", "bar", "here")]


@pytest.mark.parametrize(
    ("texts", "scored"),
    [
        (["The Mill is a pub here .", "Giraffe is a bar here ."], 2),
        (["The Mill is a pub here .", "The Mill is a pub here .", "Giraffe is a bar here ."], 2),
        (["The Mill is a pub here .", "The Mill is a pub there .", "Giraffe is a bar here ."], 3),
    ],
    ids=["by record", "by row", "rows that differ"],
)
def test_texts_are_scored_by_record_or_by_row(texts: list[str], scored: int, tmp_path: Path) -> None:
    lines = [{"facts": {"name": n, "eatType": k}, "text": f"{n} is a {k} {where} ."} for n, k, where in ROWS]
    files: dict[str, Any] = {"data.jsonl": lines, "outputs.jsonl": [{"text": text} for text in texts]}
    for name, values in files.items():
        (tmp_path / name).write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    command = [sys.executable, str(ROOT / "benchmarks" / "texts.py"), "--json"]
    command += ["--data", str(tmp_path / "data.jsonl"), "--texts", f"ours={tmp_path / 'outputs.jsonl'}"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["records"] == scored
    assert result["scores"]["ours"]["bleu"] == pytest.approx(100)
