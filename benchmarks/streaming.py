"""How much memory do commands take on a file of 2 million rows, compared with one of 20,000?

The script writes a Parquet file and a file of JSON lines of each size, and runs the command line on them, each command
in its own process. It reports the peak of the resident memory, which does not depend on what else the machine does.

    python benchmarks/streaming.py --rows 2000000 --small 20000 --json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from _processes import say
from tailora.core.hardware.machine import describe

NAMES = tuple(
    f"{first} {second}" for first in ("Blue", "Green", "Red", "Old") for second in ("Mill", "Oak", "Fox", "Inn")
)
FOODS = ("Thai", "Lao", "French", "Turkish", "Greek", "Indian", "English", "Vietnamese")
AREAS = ("riverside", "city centre", "old town", "harbour", "station")
ROW_GROUP = 1_000_000
"""Rows of a row group, about as many as pandas writes by default."""
_CHUNK = 50_000


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Yield records of restaurants with one text each."""
    rng = random.Random(0)
    for number in range(count):
        name, food, area = f"{rng.choice(NAMES)} {number}", rng.choice(FOODS), rng.choice(AREAS)
        price = rng.randint(5, 60)
        text = f"{name} serves {food} food in the area {area} for {price} pounds, and families are welcome."
        yield {"name": name, "food": food, "area": area, "price": price, "text": text}


def write_files(folder: Path, count: int) -> list[Path]:
    """Write the rows as Parquet and as JSON lines, without keeping them in memory."""
    path, lines = folder / f"rows-{count}.parquet", folder / f"rows-{count}.jsonl"
    schema = pyarrow.schema(
        [(name, "string") for name in ("name", "food", "area")] + [("price", "int64"), ("text", "string")]
    )
    with parquet.ParquetWriter(path, schema) as writer, lines.open("w", encoding="utf-8") as file:
        source, tables = rows(count), []
        for start in range(0, count, _CHUNK):
            chunk = [row for _, row in zip(range(min(_CHUNK, count - start)), source, strict=False)]
            file.writelines(json.dumps(row) + "\n" for row in chunk)
            tables.append(pyarrow.Table.from_pylist(chunk, schema=schema))
            if sum(table.num_rows for table in tables) >= ROW_GROUP or start + _CHUNK >= count:
                writer.write_table(pyarrow.concat_tables(tables), row_group_size=ROW_GROUP)
                tables = []
    return [path, lines]


def measure(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run `tailora` with some words; return the peak of its resident memory in MiB and its seconds.

    Raises:
        RuntimeError: it failed.
    """
    began = time.perf_counter()
    with (folder / "errors.txt").open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tailora", *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 2 if words[0] == "lint" else 0):  # lint ends with 2 where it has findings
        raise RuntimeError((folder / "errors.txt").read_text(encoding="utf-8")[-2000:])
    unit = 1 if sys.platform == "darwin" else 1024
    return {"mib": round(usage.ru_maxrss * unit / 2**20), "seconds": round(time.perf_counter() - began, 1)}


def commands(file: Path, steps: int, adapter: str | None) -> dict[str, list[str]]:
    """Return the commands to measure, by their names."""
    train = ["train", "--data", str(file), "--max-steps", str(steps), "--precision", "fp32", "--resume", "never"]
    named = {"train": [*train, "--output", f"run-{file.name}"], "lint": ["lint", str(file), "--allow", "all"]}
    if adapter is not None:
        output = ["--output", f"texts-{file.name}.jsonl", "--backend", "torch", "--max-new-tokens", "4"]
        named["generate"] = ["generate", "--adapter", adapter, "--input", str(file), "--limit", "10", *output]
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of the large files")
    parser.add_argument("--small", type=int, default=20_000, help="rows of the small files")
    parser.add_argument("--steps", type=int, default=20, help="updates of a training run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result: dict[str, Any] = {"steps": options.steps, "hardware": describe(), "peaks": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (options.small, options.rows):
            for file in write_files(folder, count):
                say(f"{file.name}: {file.stat().st_size / 2**20:.0f} MiB")
                adapter = f"run-{file.name}"
                for command, words in commands(file, options.steps, adapter).items():
                    measured = measure(words, folder)
                    result["peaks"].setdefault(f"{command} {file.suffix[1:]}", {})[count] = measured
                    say(f"  {command}: {measured['mib']:,} MiB at most, {measured['seconds']} s")
                file.unlink()
    if options.json:
        print(json.dumps(result))
        return
    for command, peaks in result["peaks"].items():
        print(f"{command}: " + ", ".join(f"{count:,} rows {own['mib']:,} MiB" for count, own in peaks.items()))


if __name__ == "__main__":
    main()
