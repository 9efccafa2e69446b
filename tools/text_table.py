"""Prints the first texts of an outputs file as a table in Markdown, each with its record and a reference.

    python tools/text_table.py outputs.jsonl --input e2e/testset_w_refs.csv.gz --count 20

The texts are the first ones of the file, in its order. A file that `tailora generate --limit N` wrote needs --limit N.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from tailora.core.errors import UserError
from tailora.data import records
from tailora.data.input_rows import InputRows
from tailora.data.linearize import linearize
from tailora.data.system_texts import read_texts


def rows(
    outputs: Path, source: str, split: str | None, count: int, limit: int | None = None
) -> Iterator[tuple[str, ...]]:
    """Yield number, record, text and reference of the first texts."""
    data = records.load(source, split=split)
    own, input_rows = list(data.records[:limit]), InputRows.of(data, limit)
    texts = read_texts(outputs, [record.id for record in own], rows=input_rows)
    own = own if len(texts) == len(own) else input_rows.spread(own)  # the texts of a record may differ by row
    for number, (record, text) in enumerate(zip(own[:count], texts, strict=False), start=1):
        yield str(number), linearize(record), text, record.references[0] if record.references else ""


def table(cells: Iterator[tuple[str, ...]]) -> str:
    """Return rows as a table in Markdown."""
    lines = ["| | record | text | a reference |", "|---|---|---|---|"]
    escaped = ([cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in row] for row in cells)
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in escaped)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path, help="file that `tailora generate` wrote")
    parser.add_argument("--input", required=True, help="the input of `tailora generate`")
    parser.add_argument("--split", help="split of the input")
    parser.add_argument("--count", type=int, default=20, help="number of texts")
    parser.add_argument("--limit", type=int, help="the --limit of `tailora generate`")
    arguments = parser.parse_args()
    try:
        print(table(rows(arguments.outputs, arguments.input, arguments.split, arguments.count, arguments.limit)))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
