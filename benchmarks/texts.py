"""Score files that `tailora generate` wrote, BLEU and slot errors, and compare them with a slot-filling template.

    tailora generate --base tiny --input ../shared/data/e2e --split valid --output before.jsonl
    tailora generate --adapter runs/e2e-lora-1 --input ../shared/data/e2e --split valid --output after.jsonl
    python benchmarks/texts.py --data ../shared/data/e2e --split valid --texts before=before.jsonl after=after.jsonl
    python benchmarks/texts.py --data ../shared/data/e2e --split test --texts after=after.jsonl --show after --every 63

BLEU is that of the official E2E script, against all references of a record. Slot errors are counted for data with
facts. If the rows of a record have different texts, each row is scored. `tailora evaluate` computes more scores, with
confidence intervals.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tailora.data import records as record_files
from tailora.data.system_texts import InputRows, read_texts
from tailora.data.template import fill
from tailora.data.values import Record
from tailora.metrics.bleu import bleu
from tailora.metrics.slots import slot_error_rate

TEMPLATE = "template"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    data = record_files.load(arguments.data, split=arguments.split)
    records, rows = list(data.records), InputRows.of(data)
    ids = [record.id for record in records]
    systems = {name: read_texts(Path(path), ids, rows=rows) for name, _, path in map(partition, arguments.texts)}
    if all(record.facts for record in records):
        systems[TEMPLATE] = [fill(record) for record in records]
    if any(len(texts) != len(records) for texts in systems.values()):
        systems, records = {name: rows.spread(texts) for name, texts in systems.items()}, rows.spread(records)
    scores = {name: score(records, texts) for name, texts in systems.items()}
    print_table(scores, len(records))
    if arguments.json:
        print(json.dumps({"benchmark": "texts", "records": len(records), "scores": scores}, indent=2))
    if arguments.show:
        for number in range(0, len(records), arguments.every):
            print(f"{number + 1}. {systems[arguments.show][number]}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="the input of `tailora generate`, with references")
    parser.add_argument("--split", help="split of the data")
    parser.add_argument(
        "--texts", nargs="+", required=True, metavar="NAME=FILE", help="output files of `tailora generate`"
    )
    parser.add_argument("--show", metavar="NAME", help="name of the output file whose texts are printed")
    parser.add_argument("--every", type=int, default=1, help="print every N-th text, from the first")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return parser.parse_args(argv)


def partition(argument: str) -> tuple[str, str, str]:
    return argument.partition("=")


def score(records: Sequence[Record], texts: Sequence[str]) -> dict[str, Any]:
    """BLEU and slot errors in percent of the facts, None where the records have no facts."""
    factual = all(record.facts for record in records)
    return {
        "bleu": 100 * bleu(texts, [record.references for record in records]).value,
        "slot_error_percent": 100 * slot_error_rate(records, texts).value if factual else None,
    }


def print_table(scores: dict[str, dict[str, Any]], count: int) -> None:
    """The scores for people, on standard error."""
    table = Table("texts", "BLEU", "slot errors, % of facts", title=f"{count} records")
    for name, found in scores.items():
        errors = found["slot_error_percent"]
        table.add_row(name, f"{found['bleu']:.1f}", "" if errors is None else f"{errors:.1f}")
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
