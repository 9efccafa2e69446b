"""Compare faithful writing with beam search: BLEU, slot errors and time, on the same adapter and records.

    python benchmarks/faithful.py --adapter runs/e2e --input e2e/testset_w_refs.csv.gz
    python benchmarks/faithful.py --adapter runs/e2e --input e2e/testset_w_refs.csv.gz --limit 20 --output texts

Both systems decode with `--preset` (by default that of the LoRA paper for E2E, 10 beams). `beams` takes the most likely
beam. `faithful` takes the most likely beam without slot errors, and samples further candidates for records without
one. Slot errors are counted as in `tailora evaluate`. The difference of BLEU has a 95% interval from 1,000 bootstrap
samples of the records. With `--output`, the texts of each system are written to a file that `tailora evaluate` reads.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import tailora
from _processes import say
from tailora.api.model import Model, Text
from tailora.core.files import write_text
from tailora.core.hardware.machine import describe
from tailora.data.values import Record
from tailora.metrics.bleu import bleu
from tailora.metrics.slots import slot_errors
from tailora.metrics.statistics import compare

SYSTEMS: dict[str, bool] = {"beams": False, "faithful": True}
DRAWS = 1000


def main() -> None:
    """Write and score the texts of both systems."""
    arguments = parse()
    records = tailora.read_records(arguments.input, split=arguments.split)[: arguments.limit]
    with tailora.load(arguments.base, arguments.adapter, precision=arguments.precision) as model:
        precision = model.precision
        model.generate(records[:2], preset=arguments.preset)  # so that no system pays for the start
        written = {name: timed(model, records, arguments, is_faithful) for name, is_faithful in SYSTEMS.items()}
    references = [record.references for record in records]
    measured = {name: bleu(list(map(str, texts)), references) for name, (texts, _, _) in written.items()}
    change = compare(measured["faithful"], measured["beams"], draws=DRAWS)
    result: dict[str, Any] = {
        "benchmark": "faithful",
        "adapter": str(arguments.adapter),
        "records": len(records),
        "preset": arguments.preset,
        "precision": precision,
        "systems": {
            name: figures(records, texts, seconds, cpu) | {"bleu": 100 * measured[name].value}
            for name, (texts, seconds, cpu) in written.items()
        },
        "bleu_difference": [100 * value for value in (change.value, change.low, change.high)],
        "machine": describe(),
    }
    print_table(result)
    if arguments.output is not None:
        keep(arguments.output, records, {name: texts for name, (texts, _, _) in written.items()}, result)
    if arguments.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))


def parse() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--adapter", type=Path, required=True, help="adapter or run directory")
    parser.add_argument("--base", help="base model (default: the one that the adapter names)")
    parser.add_argument("--input", required=True, help="records with references")
    parser.add_argument("--split", help="split of the input, if it is a folder or the name of a data set")
    parser.add_argument("--limit", type=int, help="use the first N records")
    parser.add_argument("--preset", default="lora-paper-e2e", choices=["lora-paper-e2e", "lora-paper"])
    parser.add_argument("--precision", default="auto", help="precision of the weights while writing")
    parser.add_argument("--output", type=Path, help="folder for the texts and the result")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return parser.parse_args()


def timed(
    model: Model, records: Sequence[Record], arguments: argparse.Namespace, is_faithful: bool
) -> tuple[list[Text], float, float]:
    """Return a text for each record, and how long all took: seconds, and seconds of CPU time."""
    began, cpu = time.perf_counter(), time.process_time()
    texts = model.generate(list(records), preset=arguments.preset, faithful=is_faithful)
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    say(f"{'faithful' if is_faithful else 'beams'}: {len(texts)} texts in {seconds:.0f} s")
    return texts, seconds, used


def figures(records: Sequence[Record], texts: Sequence[Text], seconds: float, cpu: float) -> dict[str, Any]:
    """Return the slot errors in per cent of the facts, the number of texts that have any, and the time."""
    errors = slot_errors(records, list(map(str, texts)))
    return {
        "slot_error_percent": 100 * errors.value,
        "texts_with_slot_errors": int((errors.by_text > 0).sum()),
        "seconds": seconds,
        "cpu_seconds": cpu,
    }


def keep(folder: Path, records: Sequence[Record], systems: dict[str, list[Text]], result: dict[str, Any]) -> None:
    """Write the texts of each system as JSON lines, and the result."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in systems.items():
        rows = ({"id": record.id, "text": str(text)} for record, text in zip(records, texts, strict=True))
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_text(folder / "faithful.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def print_table(result: dict[str, Any]) -> None:
    """Print the figures for people, on standard error."""
    table = Table(title=f"{result['records']} records, {result['preset']}, {result['precision']}")
    for heading in ("system", "BLEU", "slot errors", "texts with errors", "seconds", "CPU seconds"):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for name, row in result["systems"].items():
        scores = (f"{row['bleu']:.2f}", f"{row['slot_error_percent']:.2f}%", str(row["texts_with_slot_errors"]))
        table.add_row(name, *scores, f"{row['seconds']:.0f}", f"{row['cpu_seconds']:.0f}")
    console = Console(stderr=True)
    console.print(table)
    value, low, high = result["bleu_difference"]
    console.print(f"BLEU of faithful minus beams: {value:+.2f} ({low:+.2f} to {high:+.2f})")


if __name__ == "__main__":
    main()
