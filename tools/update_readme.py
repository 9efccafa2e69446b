"""Write the tables of README.md, README.vi.md and benchmarks/RESULTS.md from benchmarks/results.json.

    python tools/update_readme.py            # rewrite the tables
    python tools/update_readme.py --check    # only report the files whose tables differ

A table is placed between `<!-- results: NAME -->` and `<!-- /results -->`; NAME is a key of `tables` in the JSON file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGES = ("README.md", "README.vi.md", "benchmarks/RESULTS.md")
PLACE = re.compile(
    r"(?P<start><!-- results: (?P<name>[\w-]+) -->\n)(?P<table>.*?)(?P<end><!-- /results -->)", re.DOTALL
)
RULES = {"left": "---", "right": "---:"}


def load_tables(path: Path = RESULTS) -> dict[str, Any]:
    tables: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["tables"]
    return tables


def as_markdown(table: Mapping[str, Any]) -> str:
    """Render a table of results.json, with a final line end."""
    columns = table["columns"]
    aligned = table.get("align", ["left"] * len(columns))
    rows = [columns, [RULES[side] for side in aligned], *table["rows"]]
    return "".join("|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|\n" for row in rows)


def updated(text: str, tables: Mapping[str, Any]) -> str:
    """Replace the tables of a page.

    Raises:
        KeyError: a place names a table that results.json does not have.
    """

    def replacement(place: re.Match[str]) -> str:
        return place["start"] + as_markdown(tables[place["name"]]) + place["end"]

    return PLACE.sub(replacement, text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table differs")
    options = parser.parse_args(arguments)
    tables, differing = load_tables(), []
    for name in PAGES:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        if (new := updated(text, tables)) != text:
            differing.append(name)
            if not options.check:
                path.write_text(new, encoding="utf-8", newline="\n")
    print(f"{'different' if options.check else 'updated'}: {', '.join(differing) or 'no file'}")
    return 1 if options.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
